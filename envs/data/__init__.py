"""Image data: reading, decoding, caching, logs."""
