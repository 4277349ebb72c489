"""A job of many shards holds no more than a few of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")
pytest.importorskip("PIL", reason="Pillow is not installed")

from job_cases import draw

# In a process of its own, so that nothing else grows; the first shards fill caches and the heap.
PROGRAM = """
import gc, json, os, sys
sys.path.insert(0, sys.argv[1])
import torch
from job_cases import explainer
from pyxai_fast import jobs

torch.set_num_threads(1)
folder, shards = sys.argv[2], int(sys.argv[3])


def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tensors():
    return sum(isinstance(one, torch.Tensor) for one in gc.get_objects())


made = explainer((96, 96), method="saliency")
with jobs.begin(made, folder + "/in", folder + "/out", batch_size=2, shard_size=2) as begun:
    worker = jobs.ShardWorker(begun.job, explainer=begun.explainer, measured=True)
    # The same pictures again and again: files on the disk are not what is looked at.
    wanted = (n % begun.job.shards for n in range(2 * shards))
    for done, _ in enumerate(worker.explain(wanted)):
        if done == shards - 1:
            before, held = resident(), tensors()
    json.dump([resident() - before, tensors() - held], sys.stdout)
"""
SHARDS = 120
# Half of the maps of the shards, two each.
MOST_BYTES = SHARDS * 3 * 96 * 96 * 4


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from Linux's /proc")
def test_memory_is_flat_over_hundreds_of_shards(tmp_path: Path) -> None:
    paths = draw(tmp_path / "in", 40, (96, 96))
    paths[5].write_bytes(b"nonsense")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(tmp_path), str(SHARDS)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    grown, held = json.loads(done.stdout)
    assert held <= 4, f"{held} tensors are still held"
    assert grown < MOST_BYTES, f"grew by {grown / 2**20:.1f} MiB"
