"""Thousands of calls leave memory as it was: a server asks for nothing less."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# In a process of its own, so that nothing else grows; the first calls fill caches and the heap.
PROGRAM = """
import ctypes, gc, json, os, sys
import torch
from torch import nn
import pyxai_fast
from pyxai_fast import LikelihoodRatio, Targets

torch.set_num_threads(1)
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 30 * 30, 10)).eval()
images = torch.rand(8, 1, 32, 32)
CALLS = {
    "integrated_gradients": dict(n_steps=8),
    "refined": dict(method="integrated_gradients", n_steps=65, tolerance=0.05),
    "bf16": dict(method="integrated_gradients", n_steps=8, precision="bf16"),
    "several targets": dict(method="saliency", target=Targets(1, 2, 3)),
    "guided_ig": dict(method="guided_ig", n_steps=6),
    "smooth_grad": dict(method="smooth_grad", n_samples=6),
    "stick_breaking_ig": dict(method="stick_breaking_ig", n_paths=2, n_steps=4),
    "rise": dict(method="rise", n_queries=40),
    "likelihood_ratio": dict(method="saliency", gradient=LikelihoodRatio(n_samples=20)),
}


trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


def resident():
    gc.collect()
    if trim is not None:
        trim(0)  # what is free, and kept for the next time, is no leak
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tensors():
    return sum(isinstance(one, torch.Tensor) for one in gc.get_objects())


def ask(options, times):
    for call in range(times):
        # Sizes change from call to call, as those of a server's batches do.
        pyxai_fast.explain(net, images[: 1 + call % 8], **options)


grown = {}
for options in CALLS.values():
    ask(options, 60)
for name, options in CALLS.items():
    ask(options, 60)
    before, held = resident(), tensors()
    ask(options, int(sys.argv[1]))
    grown[name] = resident() - before, tensors() - held
json.dump(grown, sys.stdout)
"""
CALLS = 250
# One float32 map for each input of each call, 4.5 on average, would be more than this.
MOST_BYTES = CALLS * 4 * 32 * 32 * 4


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from Linux's /proc")
def test_memory_is_flat_over_thousands_of_calls() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(CALLS)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    grown = json.loads(done.stdout)
    assert len(grown) == 9
    for name, (grown_bytes, held) in grown.items():
        assert held <= 0, f"{name}: {held} tensors are still held"
        assert grown_bytes < MOST_BYTES, f"{name}: grew by {grown_bytes / 2**20:.1f} MiB"
