"""The network: backbones, LoRA layers, the reward model, and what is cached of them."""
