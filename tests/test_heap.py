"""Free pieces of the C library's heap: noticed, given back, and left alone where they are few."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch

from pyxai_fast.runtime import chunks, heap
from pyxai_fast.runtime.heap import LOOK_EVERY, Heap

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
watched = heap.Heap()
for _ in range(heap.LOOKS):
    watched.look()
assert watched.released == 0, "what is usual is not known before"
pairs = [(torch.ones(piece // 4), torch.ones(piece // 64)) for _ in range(size // piece)]
held = [small for _, small in pairs]  # between the holes, so that they stay apart
del pairs
before = heap._resident_bytes()
watched.look()
assert watched.released == 1, watched.released
given_back = before - heap._resident_bytes()
assert given_back > 0.9 * size, (given_back, size)
# They are still free, and no longer there: that is no reason to give them back again.
for _ in range(2 * heap.LOOKS):
    watched.look()
assert watched.released == 1, watched.released
assert float(sum(small.sum() for small in held)) == piece // 64 * len(held)
"""


def test_free_pieces_are_given_back() -> None:
    subprocess.run([sys.executable, "-c", FREED], check=True, timeout=300)


# Chunks of a network: what one of them frees, the next one uses again.
CHUNKS = """
import resource
import torch
from pyxai_fast.runtime import heap

piece, size = 4 * 2**20, 8 * heap.FREE_BYTES
torch.ones(2 * piece // 4)
watched = heap.Heap()

def chunk():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pieces = [torch.ones(piece // 4) for _ in range(size // piece)]
    del pieces
    watched.look()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

pages = size // 4096
with watched.kept():
    first, *later = [chunk() for _ in range(3 * heap.LOOKS)]
assert sum(later) < pages / 10, (first, later, pages)
assert watched.released == 0, watched.released
"""


def test_pages_stay_while_chunks_run() -> None:
    subprocess.run([sys.executable, "-c", CHUNKS], check=True, timeout=300)


def test_the_last_one_to_leave_lets_pages_go_again(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[int, int]] = []
    monkeypatch.setattr(heap, "_glibc", lambda: SimpleNamespace(mallopt=lambda *a: said.append(a)))
    for name in heap.CHOSEN:
        monkeypatch.delenv(name, raising=False)
    watched = Heap()
    kept = [(heap.M_MMAP_THRESHOLD, heap.LARGEST_BLOCK), (heap.M_TRIM_THRESHOLD, heap.KEPT)]
    with watched.kept():
        with watched.kept():
            assert said == kept
        assert said == kept
    assert said == [*kept, (heap.M_TRIM_THRESHOLD, heap.USUALLY_KEPT)]
    with pytest.raises(RuntimeError), watched.kept():
        raise RuntimeError
    assert said[3:] == [*kept, (heap.M_TRIM_THRESHOLD, heap.USUALLY_KEPT)]


def test_who_has_chosen_how_malloc_keeps_pages_is_left_alone() -> None:
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": str(2**20)}
    failed = subprocess.run([sys.executable, "-c", CHUNKS], env=environment, capture_output=True)
    assert failed.returncode == 1 and b"AssertionError" in failed.stderr


TURNS = """
import torch
from pyxai_fast.runtime import heap

piece = 4 * 2**20
torch.ones(2 * piece // 4)
watched = heap.Heap()
for size in (heap.FREE_BYTES // 4, 3 * heap.FREE_BYTES) * heap.LOOKS:
    with watched.kept():
        pieces = [torch.ones(piece // 4) for _ in range(size // piece)]
        del pieces
        watched.look()
    torch.ones(piece // 4)  # as it is freed, the pages at the heap's end go
assert watched.released == 0, watched.released
"""


def test_chunks_of_several_sizes_are_no_growth() -> None:
    subprocess.run([sys.executable, "-c", TURNS], check=True, timeout=300)


HELD = """
import torch
from pyxai_fast.runtime import heap

piece, size = 4 * 2**20, 2 * heap.FREE_BYTES
watched = heap.Heap()
for _ in range(heap.LOOKS):
    watched.look()
held = [torch.ones(piece // 4) for _ in range(size // piece)]
watched.look()
assert watched.released == 0, watched.released
"""


def test_memory_in_use_is_left_alone() -> None:
    subprocess.run([sys.executable, "-c", HELD], check=True, timeout=300)


FREE = """
import torch
from pyxai_fast.runtime import heap

piece, size = 4 * 2**20, 2 * heap.FREE_BYTES
torch.ones(2 * piece // 4)
watched = heap.Heap()
with watched.kept():
    before = watched.free_bytes()
    pieces = [torch.ones(piece // 4) for _ in range(size // piece)]
    assert watched.free_bytes() < before + piece, "it is in use"
    del pieces
    kept = watched.free_bytes()
    assert 0.9 * size < kept < size + before + 2 * piece, (kept, size, before)
heap._glibc().malloc_trim(0)
assert watched.free_bytes() < size / 4, "it was given back"
"""


def test_what_is_free_of_the_heap_is_what_is_kept() -> None:
    subprocess.run([sys.executable, "-c", FREE], check=True, timeout=300)


def test_a_look_is_taken_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    watched, looks = Heap(), []
    monkeypatch.setattr(watched, "look", lambda: looks.append(1))
    for _ in range(10):
        watched.wrote(LOOK_EVERY // 4)
    assert len(looks) == 2


def test_who_looks_while_pages_are_given_back_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    watched, told = Heap(), []
    others: list[threading.Thread] = []
    resident = iter([*[0] * heap.LOOKS, heap.FREE_BYTES, 0])

    def looked() -> int:
        told.append("looked")
        return next(resident)

    def trim(pad: int) -> None:
        others.append(threading.Thread(target=watched.look))
        others[0].start()
        others[0].join(0.1)  # as long as the other one needs, if it does not wait
        told.append("given back")

    free = SimpleNamespace(fordblks=heap.FREE_BYTES)
    library = SimpleNamespace(mallinfo2=lambda: free, malloc_trim=trim)
    monkeypatch.setattr(heap, "_glibc", lambda: library)
    monkeypatch.setattr(heap, "_resident_bytes", looked)
    for _ in range(heap.LOOKS + 1):
        watched.look()
    others[0].join()
    assert told == [*["looked"] * (heap.LOOKS + 1), "given back", "looked"]
    assert watched.released == 1


def test_what_two_threads_wrote_at_once_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    watched, looks = Heap(), []
    others: list[threading.Thread] = []

    class Interrupted(int):
        """Another thread writes while this is added."""

        def __radd__(self, other: int) -> int:
            others.append(threading.Thread(target=watched.wrote, args=(LOOK_EVERY // 2,)))
            others[0].start()
            others[0].join(0.1)
            return other + int(self)

    monkeypatch.setattr(watched, "look", lambda: looks.append(1))
    watched.wrote(Interrupted(LOOK_EVERY // 2))
    others[0].join()
    assert len(looks) == 1


def test_the_loop_says_what_its_chunks_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyxai_fast import IntegratedGradients

    said: list[int] = []
    monkeypatch.setattr(chunks.HEAP, "wrote", said.append)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(1)).eval()
    IntegratedGradients(model).attribute(torch.rand(2, 3, 8, 8), target=0, n_steps=300)
    activations = 600 * 8 * 6 * 6 * 4
    assert sum(said) > activations


def test_what_is_in_use_does_not_grow_with_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What grows is what malloc keeps of what was freed, until it is given back."""
    from pyxai_fast import IntegratedGradients

    library = heap._glibc()
    assert library is not None
    used: list[int] = []

    def wrote(_: int) -> None:
        counts = library.mallinfo2()
        used.append(counts.uordblks + counts.hblkhd)

    monkeypatch.setattr(chunks, "CPU_TENSOR_BYTES", 2**20)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Softplus(), torch.nn.Flatten(1))
    explainer = IntegratedGradients(model.eval())
    images = torch.rand(2, 3, 64, 64)
    explainer.attribute(images, target=0, n_steps=4)  # and what is made once
    monkeypatch.setattr(chunks.HEAP, "wrote", wrote)
    most = {}
    for n_steps in (40, 800):
        used.clear()
        explainer.attribute(images, target=0, n_steps=n_steps, method="riemann_middle")
        most[n_steps] = max(used)
    assert len(used) > 100
    bytes_of_gradients = 800 * images.numel() * images.element_size()
    assert most[800] - most[40] < bytes_of_gradients / 20
