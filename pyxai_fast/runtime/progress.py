"""A progress bar that needs nothing: tqdm where it is installed, silence where it is not."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    def update(self, n: int) -> object: ...
    def close(self) -> object: ...


class Silence:
    def update(self, n: int) -> None:
        pass

    def close(self) -> None:
        pass


def progress_bar(show: bool, total: int, description: str, unit: str = " rows") -> Progress:
    """A bar over `total` units, to be updated and closed; a Silence when not shown."""
    if not show:
        return Silence()
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return Silence()
    bar: Progress = tqdm(total=total, desc=description, unit=unit, leave=False, smoothing=0.1)
    return bar
