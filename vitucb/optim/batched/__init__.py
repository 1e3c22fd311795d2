"""What LoRA optimizers share: pairs of one shape stepped together."""
