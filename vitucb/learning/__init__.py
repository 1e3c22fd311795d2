"""Learning online: features, replay, heads, the trainer."""
