"""Tensors in a .safetensors file that others may read, as they may other files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor


def save_weights(
    tensors: Mapping[str, Tensor],
    path: str | os.PathLike[str],
    text: Mapping[str, str] | None = None,
) -> None:
    """Writes tensors by name, and text; safetensors itself leaves its files to their owner alone.

    Raises:
        ImportError: safetensors is not installed.
    """
    from safetensors.torch import save_file

    save_file(dict(tensors), path, metadata=None if text is None else dict(text))
    umask = os.umask(0)
    os.umask(umask)
    Path(path).chmod(0o666 & ~umask)
