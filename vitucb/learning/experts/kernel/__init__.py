"""The expert `kernel`: a Gaussian process on frozen features."""
