"""Memory that this process may still take: what the machine has, and what its control groups, such
as those of a container, leave of what they allow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

# Where Linux says so.
MEMINFO = Path("/proc/meminfo")
GROUPS_OF_THIS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")

# Of a control group's second and first version: its limit, what is used, and of that in memory.stat
# the pages of files that nobody has read lately, which go where memory is wanted.
_FILES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def free_bytes() -> int | None:
    """Bytes that can be taken before the kernel ends a process; None where nothing tells."""
    found = [available] if (available := _of_machine("MemAvailable")) is not None else []
    for folder, version in _groups():
        limit_file, used_file, stale = _FILES[version]
        limit, used = _number(folder / limit_file), _number(folder / used_file)
        if limit is not None and used is not None:
            found.append(limit - used + _field(folder / "memory.stat", stale))
    return max(0, min(found)) if found else None


def most_bytes() -> int | None:
    """Bytes that there would be if nothing were taken; None where nothing tells."""
    found = [total] if (total := _of_machine("MemTotal")) is not None else []
    for folder, version in _groups():
        limit = _number(folder / _FILES[version][0])
        if limit is not None:
            found.append(limit)
    return min(found) if found else None


def _groups() -> Iterator[tuple[Path, int]]:
    """The folder of each control group that this process is in, and of all around it, with the
    version. In a container their names may be those that they have outside, where only the
    outermost folder is there."""
    for line in _text(GROUPS_OF_THIS).splitlines():
        _, _, rest = line.partition(":")
        kinds, _, name = rest.partition(":")
        if kinds and "memory" not in kinds.split(","):
            continue
        version = 1 if kinds else 2
        outermost = GROUPS / "memory" if kinds else GROUPS
        inner = Path(name.lstrip("/"))
        for part in (inner, *inner.parents):
            if (outermost / part / _FILES[version][0]).exists():
                yield outermost / part, version


def _of_machine(name: str) -> int | None:
    kilobytes = _field(MEMINFO, f"{name}:")
    return 1024 * kilobytes or None


def _field(path: Path, name: str) -> int:
    """The number behind a name, one a line; 0 where there is none."""
    for line in _text(path).splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == name and words[1].isdecimal():
            return int(words[1])
    return 0


def _number(path: Path) -> int | None:
    """What a file says; None where it says "max", or nothing."""
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""
