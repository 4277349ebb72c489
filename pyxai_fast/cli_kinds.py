"""What the files of a command hold, by their suffixes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pyxai_fast.cli_images import UsageError

IMAGE, SOUND, TABLE = "image", "sound", "table"

# Everything else is an image, which Pillow tells by its content.
SOUNDS = (
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf",
    ".w64", ".rf64",
)  # fmt: skip
TABLES = (".csv", ".tsv")
KINDS = {**dict.fromkeys(SOUNDS, SOUND), **dict.fromkeys(TABLES, TABLE)}
# Options that are for one kind alone.
OPTIONS = {
    "sample_rate": (SOUND,),
    "rows": (TABLE,),
    "columns": (TABLE,),
    "drop": (TABLE,),
    "preprocessing": (IMAGE,),
    "prior": (IMAGE, SOUND),
    "path_model": (IMAGE, SOUND),
}


def kind_of(files: Sequence[str]) -> str:
    """What all of the files hold.

    Raises:
        UsageError: they hold different things.
    """
    kinds: dict[str, str] = {}
    for file in files:
        kinds.setdefault(KINDS.get(Path(file).suffix.lower(), IMAGE), file)
    if len(kinds) > 1:
        told = " and ".join(f"{kind}s ({file})" for kind, file in kinds.items())
        raise UsageError(f"files: must be of one kind, got {told}; explain each kind by itself")
    return next(iter(kinds))


def check_kind(request: object, kind: str) -> None:
    """Refuses what is for files of another kind.

    Raises:
        UsageError: naming the option.
    """
    for name, kinds in OPTIONS.items():
        if kind not in kinds and getattr(request, name) is not None:
            meant = " and ".join(f"{one}s" for one in kinds)
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag}: must be given for {meant} alone, and these are {kind}s")
