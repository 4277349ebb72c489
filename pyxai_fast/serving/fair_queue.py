"""A queue in which calls share turns, however many items each has brought."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Gives one item of each call in turn, so that a large call holds up no small one."""

    def __init__(self) -> None:
        self._calls: deque[tuple[float, deque[Item]]] = deque()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def arrived(self) -> float:
        """When the first of what waits came."""
        return min(arrived for arrived, _ in self._calls)

    def add(self, arrived: float, items: Sequence[Item]) -> None:
        """Adds the items of one call."""
        if items:
            self._calls.append((arrived, deque(items)))
            self._size += len(items)

    def take(self, most: int) -> list[Item]:
        """Removes the next items."""
        taken: list[Item] = []
        while self._calls and len(taken) < most:
            arrived, items = self._calls.popleft()
            taken.append(items.popleft())
            if items:
                self._calls.append((arrived, items))
        self._size -= len(taken)
        return taken

    def drop(self, item: Item) -> bool:
        """Removes an item; whether it was there."""
        for call in self._calls:
            if item in call[1]:
                call[1].remove(item)
                self._size -= 1
                if not call[1]:
                    self._calls.remove(call)
                return True
        return False
