"""Off-policy evaluation on logged rounds."""
