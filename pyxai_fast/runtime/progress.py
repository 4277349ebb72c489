"""A progress bar that needs nothing: tqdm where it is installed, silence where it is not."""

from __future__ import annotations

from typing import Any, Protocol


class Progress(Protocol):
    def update(self, n: int) -> object: ...
    def say(self, text: str) -> object: ...
    def close(self) -> object: ...


class Silence:
    def update(self, n: int) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


class _Bar:
    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self.update, self.close = bar.update, bar.close

    def say(self, text: str) -> None:
        self._bar.set_postfix_str(text, refresh=False)


def progress_bar(show: bool, total: int, description: str, unit: str = " rows") -> Progress:
    """A bar over `total` units, to be updated and closed; what it is to `say` stands behind it. A
    Silence when not shown."""
    if not show:
        return Silence()
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return Silence()
    return _Bar(tqdm(total=total, desc=description, unit=unit, leave=False, smoothing=0.1))
