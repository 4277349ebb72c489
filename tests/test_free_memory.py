"""How much memory is free, in a machine and in a container, and what chunks make of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from nets import mlp

from pyxai_fast.runtime import chunks, free_memory, heap
from pyxai_fast.runtime.chunks import FIRST_CHUNK_ROWS, ChunkPlanner
from pyxai_fast.runtime.free_memory import free_bytes, most_bytes

MIB, GIB = 2**20, 2**30
UNLIMITED = 9223372036854771712  # of the first version, which has no word for it

Says = Callable[..., None]


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Says:
    """Makes a machine say what it has, in bytes, and its control groups what they hold."""
    monkeypatch.setattr(free_memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(free_memory, "GROUPS_OF_THIS", tmp_path / "cgroup")
    monkeypatch.setattr(free_memory, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(heap, "_glibc", lambda: None)

    def said(
        total: int | None = 64 * GIB,
        available: int | None = 48 * GIB,
        groups: str = "",
        files: Mapping[str, object] = {},
    ) -> None:
        lines = {"MemTotal": total, "MemFree": 1024, "MemAvailable": available}
        (tmp_path / "meminfo").write_text(
            "".join(f"{k}:  {v // 1024} kB\n" for k, v in lines.items() if v is not None)
        )
        (tmp_path / "cgroup").write_text(groups)
        for name, text in files.items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")

    return said


def test_what_a_machine_has_available_is_free(says: Says) -> None:
    says(available=3 * GIB)
    assert free_bytes() == 3 * GIB and most_bytes() == 64 * GIB


def test_where_nothing_tells_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MEMINFO", "GROUPS_OF_THIS", "GROUPS"):
        monkeypatch.setattr(free_memory, name, tmp_path / "none")
    assert free_bytes() is None and most_bytes() is None


def test_the_second_version_of_control_groups_leaves_its_limit_less_what_is_used(
    says: Says,
) -> None:
    files = {
        "memory.max": 512 * MIB,
        "memory.current": 300 * MIB,
        "memory.stat": f"anon 5\ninactive_file {40 * MIB}\nactive_file 7",
    }
    says(groups="0::/\n", files=files)
    assert free_bytes() == (512 - 300 + 40) * MIB and most_bytes() == 512 * MIB


def test_a_group_without_a_limit_leaves_what_those_around_it_do(says: Says) -> None:
    files = {
        "jobs/memory.max": 8 * GIB,
        "jobs/memory.current": 6 * GIB,
        "jobs/mine/memory.max": "max",
        "jobs/mine/memory.current": GIB,
    }
    says(groups="0::/jobs/mine\n", files=files)
    assert free_bytes() == 2 * GIB and most_bytes() == 8 * GIB


def test_the_first_version_of_control_groups(says: Says) -> None:
    files = {
        "memory/memory.limit_in_bytes": UNLIMITED,
        "memory/memory.usage_in_bytes": 9 * GIB,
        "memory/mine/memory.limit_in_bytes": GIB,
        "memory/mine/memory.usage_in_bytes": 700 * MIB,
        "memory/mine/memory.stat": f"inactive_file 3\ntotal_inactive_file {100 * MIB}",
    }
    says(groups="3:cpuset:/\n4:memory:/mine\n0::/\n", files=files)
    assert free_bytes() == (1024 - 700 + 100) * MIB and most_bytes() == GIB


def test_a_container_that_sees_its_name_from_outside(says: Says) -> None:
    files = {
        "memory/memory.limit_in_bytes": GIB,
        "memory/memory.usage_in_bytes": 2 * GIB,  # the kernel is about to end something
    }
    says(groups="9:hugetlb,memory:/docker/abc\n", files=files)
    assert free_bytes() == 0 and most_bytes() == GIB


def planner(max_rows: int | None = None) -> ChunkPlanner:
    """Of a model whose rows write 100 MiB each, in small tensors."""
    found = ChunkPlanner(mlp(), (torch.zeros(4, 6),), max_rows)
    found.learn(written=200 * MIB - 2 * 24, rows=2, largest=2)
    return found


def test_chunks_follow_from_what_is_free(says: Says) -> None:
    says(available=48 * GIB)
    assert planner().rows() == chunks.CPU_CHUNK_BYTES // (100 * MIB) == 20
    says(available=4 * GIB)
    assert planner().rows() == 20
    says(available=GIB)
    assert planner().rows() == 5
    says(available=10 * MIB)
    assert planner().rows() == 1


def test_a_small_container_gets_small_chunks(says: Says) -> None:
    files = {"memory.max": 1024 * MIB, "memory.current": 624 * MIB}
    says(groups="0::/\n", files=files)
    assert planner().rows() == 2


def test_what_is_free_is_asked_once_for_the_same_work(says: Says) -> None:
    says(available=GIB)
    found = planner()
    assert found.rows() == 5
    says(available=10 * MIB)
    assert found.rows() == 5


def test_whoever_fixes_rows_gets_them_however_little_is_free(says: Says) -> None:
    """What a job's plan does, so that a run that is gone on with has the same bits."""
    says(available=10 * MIB)
    assert planner(max_rows=7).rows() == 7


def test_chunks_that_write_little_do_not_ask(says: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> int:
        raise AssertionError("it was asked")

    monkeypatch.setattr(chunks, "free_bytes", never)
    found = ChunkPlanner(mlp(), (torch.zeros(4, 6),), None, cpu_bytes=chunks.LITTLE_BYTES)
    found.learn(written=1000, rows=1, largest=1)
    assert found.rows() == chunks.LITTLE_BYTES // 1024
    found = ChunkPlanner(mlp(), (torch.zeros(4, 6),), None)
    found.learn(written=1000, rows=1, largest=1)
    assert found.rows(most=1000) > 1000
    with pytest.raises(AssertionError, match="it was asked"):
        found.rows(most=100_000)


def test_pages_that_the_heap_keeps_are_free(says: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    says(available=GIB)
    monkeypatch.setattr(chunks.HEAP, "free_bytes", lambda: GIB)
    assert planner().rows() == 10


def test_the_first_chunk_is_small_where_there_is_little_memory_at_all(says: Says) -> None:
    pictures = (torch.zeros(1, 3, 224, 224),)
    for total, rows in ((64 * GIB, 3), (2 * GIB, 3), (GIB, 1), (128 * MIB, 1)):
        says(total=total, available=total)
        assert ChunkPlanner(mlp(), pictures, None).rows() == rows
    says(total=128 * MIB)
    assert ChunkPlanner(mlp(), (torch.zeros(1, 6),), None).rows() == FIRST_CHUNK_ROWS
