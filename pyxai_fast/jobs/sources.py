"""From folders, patterns, lists and tar files to the pictures in them."""

from __future__ import annotations

import glob
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import ArgumentError
from .items import Item

# What is taken for a picture in a folder or a tar file; a file that is named is, whatever its name.
SUFFIXES = frozenset(
    (
        ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm",
        ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
    )
)  # fmt: skip
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")

Source = str | os.PathLike[str]


def find_items(sources: Source | Sequence[Source]) -> list[Item]:
    """All pictures that sources name, in their order; what is named twice is taken once.

    Args:
        sources: folders, with their folders and links to folders, sorted by name; patterns, with
            *, ?, [a-c], ** and {000..012} or {a,b}; files; lists of files, .txt with one a line
            or .parquet with the column `path` and perhaps `target`, relative to the working
            directory; and uncompressed .tar files, whose second x.png is called x.png#2.

    Raises:
        ArgumentError: a source has nothing, or cannot be read.
    """
    if isinstance(sources, str | os.PathLike):
        sources = [sources]
    found: dict[tuple[str, int | None], Item] = {}
    for source in sources:
        count = 0
        for item in _items_of(os.fspath(source)):
            found.setdefault((item.key, item.target), item)
            count += 1
        if not count:
            raise ArgumentError(
                f"jobs: source must hold pictures, got none in {source}{_tars_in(source)}"
            )
    if not found:
        raise ArgumentError("jobs: source must name pictures, got none")
    items = list(found.values())
    with_target = sum(item.target is not None for item in items)
    if with_target not in (0, len(items)):
        raise ArgumentError(
            "jobs: source must give a target for all pictures or for none, got one for "
            f"{with_target} of {len(items)}"
        )
    return items


def _items_of(source: str) -> Iterator[Item]:
    # A file of that very name comes first: names may have brackets and braces.
    if os.path.lexists(source):
        yield from _items_at(source)
        return
    patterns = list(_braces(source))
    if patterns == [source] and not glob.has_magic(source):
        raise ArgumentError(f"jobs: source must be there, got {source}, which is not")
    for pattern in patterns:
        matches = sorted(glob.glob(pattern, recursive=True))
        if not matches:
            raise ArgumentError(f"jobs: source must match files, got none for {pattern}")
        for path in matches:
            # What ** matches besides: folders, whose files it matches too.
            if "**" not in pattern or not os.path.isdir(path):
                yield from _items_at(path)


def _items_at(path: str) -> Iterator[Item]:
    name = path.lower()
    if os.path.isdir(path):
        yield from _in_folder(path)
    elif name.endswith(".tar"):
        yield from _in_tar(path)
    elif name.endswith(_COMPRESSED):
        raise ArgumentError(
            f"jobs: source must not be compressed, for pictures to be read from anywhere in it, "
            f"got {path}"
        )
    elif name.endswith(".txt"):
        # What Windows writes may begin with a mark of its encoding.
        lines = Path(path).read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
        yield from (_file(line) for line in lines if line.strip())
    elif name.endswith(".parquet"):
        yield from _in_parquet(path)
    else:
        yield _file(path)


def _in_folder(folder: str, within: frozenset[str] = frozenset()) -> Iterator[Item]:
    """Follows links to folders, but not back into one that it is in."""
    real = os.path.realpath(folder)
    if real in within:
        return
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if os.path.isdir(entry.path):
            if not entry.name.startswith("."):
                yield from _in_folder(entry.path, within | {real})
        elif _is_picture(entry.name):
            yield _file(entry.path)


def _is_picture(name: str) -> bool:
    """Whether a name is that of a picture, and not hidden: ._cat.jpg is what macOS adds to it."""
    stem, suffix = os.path.splitext(os.path.basename(name))
    return suffix.lower() in SUFFIXES and not stem.startswith(".")


def _tars_in(source: Source) -> str:
    """What to ask for in a folder that has tar files alone."""
    return f"; its tar files are {source}/*.tar" if any(Path(source).glob("*.tar")) else ""


def _in_tar(path: str) -> Iterator[Item]:
    # Where files are: hard links to them have no bytes of their own.
    places: dict[str, tuple[int, int]] = {}
    times: Counter[str] = Counter()
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                place = places.get(member.linkname) if member.islnk() else None
                if member.isfile():
                    place = member.offset_data, member.size
                if place is not None:
                    places[member.name] = place
                    if _is_picture(member.name):
                        times[member.name] += 1
                        # An archive may have many of one name.
                        again = f"#{times[member.name]}" if times[member.name] > 1 else ""
                        yield Item(path, f"{member.name}{again}", *place)
                # The archive keeps all that it has seen, a kilobyte each.
                archive.members = []  # type: ignore[attr-defined]
    # Numbers and names of a damaged head are no numbers and no names.
    except (tarfile.TarError, OSError, ValueError, EOFError, OverflowError) as error:
        raise ArgumentError(
            f"jobs: source must be a whole tar file, got {path} ({error})"
        ) from error


def _in_parquet(path: str) -> Iterator[Item]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError, UnicodeError, ValueError, MemoryError) as error:
        raise ArgumentError(f"jobs: source must be a parquet file, got {path} ({error})") from error
    if "path" not in table.column_names:
        raise ArgumentError(
            f"jobs: source must have the column path, got {', '.join(table.column_names)} in {path}"
        )
    paths = table["path"].to_pylist()
    targets: Iterable[Any] = [None] * len(paths)
    if "target" in table.column_names:
        targets = table["target"].to_pylist()
    for row, (name, target) in enumerate(zip(paths, targets, strict=True)):
        if not isinstance(name, str) or not name:
            raise ArgumentError(f"jobs: path must be text, got {name!r} in row {row} of {path}")
        if target is not None and (not isinstance(target, int) or target < 0):
            raise ArgumentError(
                f"jobs: target must be the number of a class, got {target!r} in row {row} of {path}"
            )
        yield _file(name, target)


def _file(path: str, target: int | None = None) -> Item:
    try:
        size = os.stat(path).st_size
    except (OSError, ValueError):
        size = None  # it may be there when its turn comes, and is a bad file if not
    return Item(path, size=size, target=target)


_BRACES = re.compile(r"\{([^{}]*)\}")


def _braces(pattern: str) -> Iterator[str]:
    """A pattern with {000..012} and {a,b} written out, as shells do."""
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    inside = match.group(1)
    between = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if between is not None:
        first, last = between.groups()
        width = len(first) if first.startswith("0") else 0
        step = 1 if int(last) >= int(first) else -1
        options = [f"{n:0{width}d}" for n in range(int(first), int(last) + step, step)]
    elif "," in inside:
        options = inside.split(",")
    else:
        yield pattern
        return
    for option in options:
        yield from _braces(pattern[: match.start()] + option + pattern[match.end() :])
