"""Segments of inputs as one integer map: which segment each feature belongs to."""

from .label_cache import LabelCache
from .spec import n_segments, segments_for
from .superpixels import superpixels
from .tiles import tiles

__all__ = ["LabelCache", "n_segments", "segments_for", "superpixels", "tiles"]
