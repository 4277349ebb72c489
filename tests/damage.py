"""What happens to files: cut off, bits that turn, pieces that are lost or come twice."""

from __future__ import annotations

import struct
import zlib

from hypothesis import strategies as st

# The first bytes say what the others mean: half of the damage is there.
HEAD = 160


@st.composite
def damages(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes of a file after something has happened to them; never what they were."""
    changed = _once(draw, data)
    if draw(st.booleans()):
        changed = _once(draw, changed)
    return changed if changed != data else data + b"\0"


def _once(draw: st.DrawFn, data: bytes) -> bytes:
    kind = draw(st.sampled_from(["cut", "bits", "bits", "bits", "zeros", "lost", "twice", "more"]))
    if not data or kind == "more":
        return data + draw(st.binary(min_size=1, max_size=40))
    end = min(len(data), HEAD) if draw(st.booleans()) else len(data)
    at = draw(st.integers(0, end - 1))
    if kind == "cut":
        return data[:at]
    if kind == "bits":
        held = bytearray(data)
        for _ in range(draw(st.integers(1, 4))):
            held[draw(st.integers(0, end - 1))] ^= 1 << draw(st.integers(0, 7))
        return bytes(held)
    last = min(len(data), at + draw(st.integers(1, 64)))
    piece = data[at:last]
    if kind == "zeros":
        return data[:at] + b"\0" * len(piece) + data[last:]
    return data[:at] + data[last:] if kind == "lost" else data[:last] + piece + data[last:]


def png(width: int, height: int, rows: bytes | None = None, *more: tuple[bytes, bytes]) -> bytes:
    """A grey PNG; black where no rows, each with a zero before it, are given.

    Args:
        more: chunks between the head and the rows, by kind.
    """
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pressed = zlib.compress(b"\0" * (height * (width + 1)) if rows is None else rows, 9)
    chunks = [(b"IHDR", head), *more, (b"IDAT", pressed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    checked = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checked
