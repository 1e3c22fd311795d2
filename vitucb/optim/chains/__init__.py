"""Chains of LoRA: adapters merged into the weights and started anew."""
