"""Free pieces of the C library's heap: noticed, given back, and left alone where they are few."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from pyxai_fast.runtime import chunks, heap
from pyxai_fast.runtime.heap import FREE_BYTES, LOOK_EVERY, Heap

PIECE = 4 * 2**20

pytestmark = pytest.mark.skipif(
    heap._glibc() is None, reason="the C library's heap cannot be asked: no glibc 2.33"
)


# In a process of its own, whose heap has no pieces that other tests have left.
FREED = """
import torch
from pyxai_fast.runtime import heap

piece, size = 4 * 2**20, 2 * heap.FREE_BYTES
# Freeing a mapped block raises the size from which blocks are mapped, to at most 32 MB.
torch.ones(2 * piece // 4)
pairs = [(torch.ones(piece // 4), torch.ones(piece // 64)) for _ in range(size // piece)]
held = [small for _, small in pairs]  # between the holes, so that they stay apart
del pairs
watched = heap.Heap()
before = heap._resident_bytes()
watched.look()
assert watched.released == 1, watched.released
given_back = before - heap._resident_bytes()
assert given_back > 0.9 * size, (given_back, size)
# They are still free, and no longer there: that is no reason to give them back again.
watched.look()
assert watched.released == 1, watched.released
assert float(sum(small.sum() for small in held)) == piece // 64 * len(held)
"""


def test_free_pieces_are_given_back() -> None:
    subprocess.run([sys.executable, "-c", FREED], check=True, timeout=300)


def test_memory_in_use_is_left_alone() -> None:
    watched = Heap()
    watched.look()  # what other tests have left
    done = watched.released
    held = [torch.ones(PIECE // 4) for _ in range(2 * FREE_BYTES // PIECE)]
    watched.look()
    assert watched.released == done
    del held


def test_a_look_is_taken_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    watched, looks = Heap(), []
    monkeypatch.setattr(watched, "look", lambda: looks.append(1))
    for _ in range(10):
        watched.wrote(LOOK_EVERY // 4)
    assert len(looks) == 2


def test_the_loop_says_what_its_chunks_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyxai_fast import IntegratedGradients

    said: list[int] = []
    monkeypatch.setattr(chunks.HEAP, "wrote", said.append)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(1)).eval()
    IntegratedGradients(model).attribute(torch.rand(2, 3, 8, 8), target=0, n_steps=300)
    activations = 600 * 8 * 6 * 6 * 4
    assert sum(said) > activations
