"""Models of paths: what makes paths whose attributions are faithful, or simple, and how to ask."""

from .codec import Codec, Features, Latents, Pixels
from .config import GUIDES, PathModelConfig
from .path_model import PathModel
from .sampling import sample_paths
from .spec import load_path_model

__all__ = [
    "GUIDES",
    "Codec",
    "Features",
    "Latents",
    "PathModel",
    "PathModelConfig",
    "Pixels",
    "load_path_model",
    "sample_paths",
]
