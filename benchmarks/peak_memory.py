"""The peak memory of one call, measured in a process of its own.

Run as a program it prints one JSON number; `peak_bytes` starts it. Definition: the resident set's
high-water mark during the call, minus the resident set just before it, in a process that has
already run one forward and backward pass of the batch and explained a model of one layer (so that
code, weights and the thread pool are loaded), and given free memory back to the system. What the
model itself keeps for its backward pass is included.
"""

from __future__ import annotations

import json
import subprocess
import sys

import torch
from ig_cases import CASES, STEPS_CASE, Case
from ig_contenders import THREADS, forward_backward, made
from resident import peak_during
from torch import nn


def peak_bytes(case: str, contender: str, n_steps: int, batch: int) -> int:
    """Starts a fresh process for one contender of a case (STEPS_CASE where its batch is meant)."""
    done = subprocess.run(
        [sys.executable, __file__, case, contender, str(n_steps), str(batch)],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"peak_memory: {contender} failed\n{done.stderr}")
    return int(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    name, contender, n_steps, batch = sys.argv[1:]
    case: Case = STEPS_CASE if int(batch) == STEPS_CASE.batch else CASES[name]
    torch.set_num_threads(THREADS)
    model, inputs = case.model(), case.inputs()
    target = model(inputs).argmax(1)
    forward_backward(model, inputs, target)
    small = nn.Sequential(nn.Flatten(), nn.Linear(12, 10)).eval()
    made(contender, small, torch.rand(case.batch, 3, 2, 2), target, 2)()
    call = made(contender, model, inputs, target, int(n_steps))
    print(json.dumps(peak_during(call)))


if __name__ == "__main__":
    main()
