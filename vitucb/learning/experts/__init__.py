"""Experts that predict rewards, and how they are weighed."""
