"""Wrappers: late, drifting and masked rewards."""
