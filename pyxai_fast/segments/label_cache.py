"""Segmentations that were computed before: in memory up to a limit, and in a folder if asked."""

from __future__ import annotations

import os
import tempfile
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError

Labels = NDArray[np.int32]

MAX_BYTES = 64 * 2**20  # 334 segmentations of 224x224 pixels


class LabelCache:
    """Label maps by key, the least recently used dropped first. Safe to use from several threads.

    Args:
        folder: where label maps are kept too, one .npy file each, without a limit; made when the
            first is written. Several processes may share it. None keeps them in memory alone.
        max_bytes: of the label maps in memory, together.

    Raises:
        ValueError: a limit below zero, or a folder that is a file.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, *, max_bytes: int = MAX_BYTES
    ) -> None:
        if max_bytes < 0:
            raise ArgumentError(f"LabelCache: max_bytes must be at least 0, got {max_bytes}")
        self.folder = None if folder is None else Path(folder).expanduser()
        if self.folder is not None and self.folder.exists() and not self.folder.is_dir():
            raise ArgumentError(f"LabelCache: folder must be a folder, got the file {folder}")
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Labels] = OrderedDict()
        self._bytes = 0

    def find(self, key: str) -> Labels | None:
        """The label map of a key, not to be written to; None if there is none."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        labels = self._read(key)
        if labels is not None:
            self._remember(key, labels)
        return labels

    def keep(self, key: str, labels: Labels) -> None:
        self._remember(key, labels)
        if self.folder is not None:
            self._write(self.folder / f"{key}.npy", labels)

    def __len__(self) -> int:
        """Label maps in memory."""
        with self._lock:
            return len(self._kept)

    def _remember(self, key: str, labels: Labels) -> None:
        with self._lock:
            if key in self._kept:
                self._bytes -= self._kept.pop(key).nbytes
            self._kept[key] = labels
            self._bytes += labels.nbytes
            while self._bytes > self.max_bytes:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= oldest.nbytes

    def _read(self, key: str) -> Labels | None:
        if self.folder is None:
            return None
        try:
            labels = np.load(self.folder / f"{key}.npy", allow_pickle=False)
        # Not there, or no file of ours, of which NumPy raises almost anything: computed again.
        except Exception:
            return None
        return labels if labels.dtype == np.int32 and labels.ndim == 2 else None

    @staticmethod
    def _write(path: Path, labels: Labels) -> None:
        """All or nothing, whoever else writes the same."""
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, new = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".new", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                np.save(file, labels, allow_pickle=False)
            os.replace(new, path)
        finally:
            Path(new).unlink(missing_ok=True)

    def __repr__(self) -> str:
        where = "memory" if self.folder is None else str(self.folder)
        return f"LabelCache({where!r}, max_bytes={self.max_bytes})"


_in_memory = LabelCache()


def as_label_cache(cache: Any) -> LabelCache | None:
    """What `cache=` means: None or False, True (the process's own), a folder, or a LabelCache."""
    if cache is None or cache is False:
        return None
    if cache is True:
        return _in_memory
    if isinstance(cache, LabelCache):
        return cache
    if isinstance(cache, (str, os.PathLike)):
        return LabelCache(cache)
    raise TypeError(
        "superpixels: cache must be True, None, the name of a folder or a LabelCache, got "
        f"{type(cache).__name__}"
    )
