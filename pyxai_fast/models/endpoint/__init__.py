"""Models behind HTTP: the KServe v1 and the Open Inference v2 protocol."""

from .client import Endpoint

__all__ = ["Endpoint"]
