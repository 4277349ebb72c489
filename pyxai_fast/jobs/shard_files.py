"""The files of a shard: attributions, and an index that says what is known of each item."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..weights_file import save_weights
from .atomic_file import atomic_file, readable
from .job import Job

if TYPE_CHECKING:
    import pyarrow

OK, BAD, NOT_FINITE = "ok", "bad", "not finite"
_COUNTS = b"pyxai_fast"


@dataclass(frozen=True)
class Row:
    """What the index says of an item.

    Attributes:
        number: of the item in the data set.
        path: its key: the path of its file, or tar::member.
        status: "ok"; "not finite" where attributions are nan or inf; "bad" where it was not
            explained.
        reason: of another status than "ok".
        target, class_name, probability: of the class that was explained.
        delta: the completeness gap.
        error: the standard error, relative to the attributions themselves.
        height, width: of the picture as it was explained.
        shard, row: where its attributions are: row of `tensor` in the shard's file.
        tensor: "attributions", or of pictures that keep their sizes "attributions.480x640".
        scale: a power of two that what is stored there is to be multiplied by; 1 in float32.
        checksum: CRC-32 of the stored bytes: attributions, then standard errors, if any.
    """

    number: int
    path: str
    status: str = OK
    reason: str | None = None
    target: int | None = None
    class_name: str | None = None
    probability: float | None = None
    delta: float | None = None
    error: float | None = None
    height: int | None = None
    width: int | None = None
    shard: int | None = None
    row: int | None = None
    tensor: str | None = None
    scale: float | None = None
    checksum: int | None = None


def schema() -> pyarrow.Schema:
    """Of the index."""
    import pyarrow

    whole, text, real = pyarrow.int64(), pyarrow.string(), pyarrow.float64()
    kinds = {
        "number": whole, "path": text, "status": text, "reason": text, "target": whole,
        "class_name": text, "probability": real, "delta": real, "error": real,
        "height": pyarrow.int32(), "width": pyarrow.int32(), "shard": whole,
        "row": pyarrow.int32(), "tensor": text, "scale": real, "checksum": whole,
    }  # fmt: skip
    return pyarrow.schema(list(kinds.items()))


def commit(
    job: Job,
    shard: int,
    rows: Sequence[Row],
    tensors: Mapping[str, Tensor],
    counts: Mapping[str, int],
) -> None:
    """Writes a shard's files, the index last: the shard is done when that has its name.

    Equal arguments give equal bytes.

    Args:
        rows: of all items of the shard, in their order.
        tensors: attributions and what belongs to them, [n, C, H, W] each; may be none.
        counts: of the model's work: gradients and queries.
    """
    import pyarrow
    from pyarrow import parquet

    if tensors:
        # One text alone: the order of several is another in every process.
        text = {"pyxai_fast": json.dumps({"shard": shard, "items": len(rows)})}
        with atomic_file(job.shard_file(shard)) as path:
            save_weights(tensors, path, text)
    columns = schema()
    columns = columns.with_metadata({_COUNTS: json.dumps(dict(counts), sort_keys=True)})
    table = pyarrow.Table.from_pylist([_encodable(row) for row in rows], schema=columns)
    with atomic_file(job.index_file(shard)) as path:
        parquet.write_table(table, str(path), write_page_checksum=True)


def checksum(stored: Iterable[Tensor]) -> int:
    """Of the bytes of contiguous tensors on the CPU, one after the other."""
    found = 0
    for tensor in stored:
        found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, found)
    return found


@contextmanager
def of_index(path: Path) -> Iterator[None]:
    """Names the file where the block cannot read it, and what is to be done."""
    import pyarrow

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the storage
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ArgumentError(
            f"results: {path} must be the index of a shard, and is damaged ({reason}); where it is "
            "deleted, resume explains the shard again"
        ) from error


def counts_of(index_file: Path) -> dict[str, int]:
    """The counts of the model's work for a shard that is done."""
    from pyarrow import parquet

    with of_index(index_file):
        held = json.loads(parquet.read_schema(str(index_file)).metadata[_COUNTS])
        return {name: int(held[name]) for name in ("gradients", "queries")}


def _encodable(row: Row) -> dict[str, Any]:
    """With names of files that are no text written so that they can be read."""
    return {
        name: readable(value) if isinstance(value, str) else value
        for name, value in asdict(row).items()
    }
