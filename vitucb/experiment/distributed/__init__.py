"""One agent trained by several processes."""
