"""Answers of a black box, kept so that no row is asked for twice."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError
from .answer_source import has_rows

MAX_ROWS = 100_000
_KEYS_PER_QUESTION = 500  # SQLite takes a limited number of values in one statement
_PLAIN = (str, int, float, bool, type(None))


class AnswerCache:
    """Answers by the bytes of the row they answer, in memory or in a file.

    A file belongs to one model: answers are found again only under the same `model`. It outlives
    the process, so that a run which died repeats nothing that was answered. Who replaces the model
    behind a name or an address must start a new file. Safe to use from several threads; several
    processes may share a file.

    Args:
        path: an SQLite file, made if it is not there; None keeps answers in memory.
        model: identifies the model, for instance by its name and version, where it does not say
            that itself. (Files, estimators and addresses do.)
        max_rows: the most answers that are kept; the oldest are dropped.

    Raises:
        ValueError: the file is something else, or cannot be made.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        model: str = "",
        max_rows: int = MAX_ROWS,
    ) -> None:
        if max_rows < 1:
            raise ArgumentError(f"AnswerCache: max_rows must be at least 1, got {max_rows}")
        self.path = None if path is None else os.path.abspath(os.path.expanduser(path))
        self.model = model
        self.max_rows = max_rows
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, NDArray[Any]] = OrderedDict()
        self._file: sqlite3.Connection | None = None
        if self.path is not None:
            self._open()

    def keys(self, inputs: tuple[Any, ...], rows: int, identity: str = "") -> list[bytes]:
        """One key a row: its bytes in every input, their shapes and types, and the model.

        `identity` is what the model says of itself.
        """
        common = hashlib.blake2b(digest_size=24)
        common.update(repr((self.model, identity)).encode())
        per_row: list[NDArray[np.uint8]] = []
        for value in inputs:
            if has_rows(value, rows):
                array, kind = _bytes_of_rows(value, rows)
                per_row.append(array)
                common.update(f"rows {kind} {tuple(value.shape[1:])}".encode())
            else:
                common.update(_bytes_of_argument(value))
        keys = []
        for row in range(rows):
            digest = common.copy()
            for array in per_row:
                digest.update(array[row])
            keys.append(digest.digest())
        return keys

    def find(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[Any]]:
        """The answers that are known."""
        if self.path is None:
            with self._lock:
                return {key: self._kept[key] for key in keys if key in self._kept}
        found: dict[bytes, NDArray[Any]] = {}
        with self._lock, self._told_apart():
            file = self._open()
            for first in range(0, len(keys), _KEYS_PER_QUESTION):
                some = list(keys[first : first + _KEYS_PER_QUESTION])
                marks = ",".join("?" * len(some))
                for key, answer, kind, shape in file.execute(
                    f"SELECT key, answer, dtype, shape FROM answers WHERE key IN ({marks})", some
                ):
                    sizes = tuple(int(n) for n in shape.split(",") if n)
                    found[key] = np.frombuffer(answer, dtype=kind).reshape(sizes)
        return found

    @contextmanager
    def _told_apart(self) -> Iterator[None]:
        """What a damaged file raises, from what a model does."""
        try:
            yield
        except (sqlite3.Error, TypeError, ValueError) as error:
            if isinstance(error, ArgumentError):
                raise
            raise ArgumentError(
                f"AnswerCache: must be a file of answers that can be read, got {self.path} "
                f"({error})"
            ) from error

    def keep(self, answers: Mapping[bytes, NDArray[Any]]) -> None:
        """Remembers answers, one array a row."""
        if self.path is None:
            with self._lock:
                for key, answer in answers.items():
                    self._kept[key] = answer
                while len(self._kept) > self.max_rows:
                    self._kept.popitem(last=False)
            return
        with self._lock:
            file = self._open()
            with file:  # one transaction
                file.executemany(
                    "INSERT OR REPLACE INTO answers (key, answer, dtype, shape) VALUES (?,?,?,?)",
                    [(key, *_row_of_file(answer)) for key, answer in answers.items()],
                )
                (count,) = file.execute("SELECT count(*) FROM answers").fetchone()
                if count > self.max_rows:
                    file.execute(
                        "DELETE FROM answers WHERE number IN "
                        "(SELECT number FROM answers ORDER BY number LIMIT ?)",
                        (count - self.max_rows,),
                    )

    def __len__(self) -> int:
        """Answers that are kept, of all models that share the file."""
        with self._lock:
            if self.path is None:
                return len(self._kept)
            return int(self._open().execute("SELECT count(*) FROM answers").fetchone()[0])

    def close(self) -> None:
        """Closes the file; the next use opens it again."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _open(self) -> sqlite3.Connection:
        if self._file is not None:
            return self._file
        assert self.path is not None
        file: sqlite3.Connection | None = None
        try:
            file = sqlite3.connect(self.path, timeout=30.0, check_same_thread=False)
            with file:
                # Numbers only grow, so that the smallest is the oldest.
                file.execute(
                    "CREATE TABLE IF NOT EXISTS answers (number INTEGER PRIMARY KEY AUTOINCREMENT, "
                    "key BLOB UNIQUE NOT NULL, answer BLOB NOT NULL, dtype TEXT NOT NULL, "
                    "shape TEXT NOT NULL)"
                )
                file.execute("SELECT key, answer, dtype, shape FROM answers LIMIT 1")
        except sqlite3.Error as error:
            if file is not None:
                file.close()
            raise ArgumentError(
                f"AnswerCache: must be a file of answers or a new file, got {self.path} ({error})"
            ) from error
        self._file = file
        return file

    def __repr__(self) -> str:
        where = "memory" if self.path is None else self.path
        return f"AnswerCache({where!r}, model={self.model!r}, max_rows={self.max_rows})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("path", "model", "max_rows", "_kept")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _file=None)


def as_answer_cache(cache: Any, identity: str) -> AnswerCache | None:
    """What `cache=` means: None or False, True, a file, or an AnswerCache."""
    if cache is None or cache is False:
        return None
    kept: AnswerCache
    if isinstance(cache, AnswerCache):
        kept = cache
    elif cache is True:
        kept = AnswerCache()
    elif isinstance(cache, (str, os.PathLike)):
        kept = AnswerCache(cache)
    else:
        raise TypeError(
            "BlackBox: cache must be True, the name of a file or an AnswerCache, got "
            f"{type(cache).__name__}"
        )
    if kept.path is not None and not kept.model and not identity:
        raise ArgumentError(
            "BlackBox: a cache in a file must say whose answers it keeps: "
            "cache=AnswerCache(FILE, model=NAME_AND_VERSION)"
        )
    return kept


def _bytes_of_rows(value: Any, rows: int) -> tuple[NDArray[np.uint8], str]:
    """Bytes [R, n] of a tensor or array, and the name of its type."""
    import torch

    if isinstance(value, torch.Tensor):
        kind = str(value.dtype)
        flat = value.detach().contiguous().cpu().reshape(rows, -1)
        return flat.view(torch.uint8).numpy(), kind
    flat_array = np.ascontiguousarray(value).reshape(rows, -1)
    return flat_array.view(np.uint8), flat_array.dtype.str


def _bytes_of_argument(value: Any) -> bytes:
    if isinstance(value, _PLAIN):
        return f"argument {value!r}".encode()
    if hasattr(value, "shape") and hasattr(value, "reshape"):
        array, kind = _bytes_of_rows(value.reshape(1, -1), 1)
        return f"argument {kind} {tuple(value.shape)}".encode() + array.tobytes()
    raise TypeError(
        "BlackBox: arguments must be tensors, numbers or texts to be kept in a cache, got "
        f"{type(value).__name__}; give cache=None"
    )


def _row_of_file(answer: NDArray[Any]) -> tuple[bytes, str, str]:
    shape = ",".join(str(n) for n in answer.shape)
    return answer.tobytes(), answer.dtype.str, shape


def distinct(keys: Iterable[bytes]) -> dict[bytes, list[int]]:
    """The positions of each key."""
    positions: dict[bytes, list[int]] = {}
    for position, key in enumerate(keys):
        positions.setdefault(key, []).append(position)
    return positions
