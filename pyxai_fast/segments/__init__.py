"""Segments of inputs as one integer map: which segment each feature belongs to."""

from .tiles import tiles

__all__ = ["tiles"]
