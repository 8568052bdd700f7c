"""Reference-based instance segmentation experiments."""

__version__ = "0.1.0"
