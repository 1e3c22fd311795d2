"""Timed comparisons, side by side in one process: `vitucb bench`."""
