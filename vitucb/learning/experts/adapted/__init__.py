"""The expert `adapted`: the LoRA ViT trained online."""
