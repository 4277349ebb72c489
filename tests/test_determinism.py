"""The same call gives the same bits: in another process, with other threads, on other kernels.

What is compared are maps, completeness gaps and outputs of every method, what metrics that ask
models say, and a comparison's figures. Processes differ in the
order in which Python's sets are gone through (PYTHONHASHSEED), in the state of torch's own random
numbers, in threads, in the instruction set, and in whether there are kernels at all.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import needs_native_cpu
from determined import digest

from pyxai_fast import ops

Digests = dict[str, dict[str, str]]


@functools.cache
def digests(threads: int = 1, hash_seed: int = 0, **environment: str) -> Digests:
    """By model and method, from a process that was started so."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYXAI_FAST_")}
    env = {
        **inherited, "PYTHONHASHSEED": str(hash_seed), "OMP_NUM_THREADS": str(threads),
        **environment,
    }  # fmt: skip
    program = Path(__file__).parent / "determined.py"
    done = subprocess.run(
        [sys.executable, str(program), str(threads), str(hash_seed)],
        capture_output=True, text=True, timeout=300, env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: Digests = json.loads(done.stdout)
    return found


def differing(one: Digests, other: Digests, model: str) -> list[str]:
    assert one[model].keys() == other[model].keys()
    return [name for name, found in one[model].items() if found != other[model][name]]


def test_every_method_is_looked_at() -> None:
    from method_cases import NAMES

    found = digests()
    assert set(NAMES) | {"counterfactual", "likelihood_ratio", "bf16"} <= set(found["rows"])
    judges = {"deletion", "road", "diffid", "faithfulness_correlation", "infidelity", "evaluate"}
    assert judges | {"max_sensitivity", "performance_information"} <= set(found["rows"])
    assert {"mprt", "model_perturbation"} <= set(found["network"])
    # They are not all the same, nor the same for every model.
    assert len(set(found["rows"].values())) > len(NAMES)
    assert not set(found["rows"].values()) & set(found["network"].values())


@pytest.mark.parametrize("model", ["rows", "network"])
def test_another_process_gives_the_same_bits(model: str) -> None:
    assert differing(digests(), digests(hash_seed=4242), model) == []


def test_another_number_of_threads_gives_the_same_bits() -> None:
    """Of a model whose rows are independent. Of a network this is left to the network: products of
    matrices may add in another order on other threads."""
    assert differing(digests(), digests(threads=2), "rows") == []


@needs_native_cpu
@pytest.mark.parametrize("isa", ops.available_cpu_isas())
def test_every_instruction_set_gives_the_same_bits(isa: str) -> None:
    found = digests(PYXAI_FAST_CPU_ISA=isa)
    for model in ("rows", "network"):
        assert differing(digests(), found, model) == []


@needs_native_cpu
def test_the_reference_gives_the_same_bits() -> None:
    found = digests(PYXAI_FAST_NATIVE="off")
    for model in ("rows", "network"):
        assert differing(digests(), found, model) == []


def test_a_digest_tells_every_bit() -> None:
    one = torch.tensor([1.0, 0.0])
    others = (
        torch.tensor([1.0, -0.0]), torch.tensor([1.0 + 2**-23, 0.0]), one.double(), one[None], None
    )  # fmt: skip
    assert len({digest(one), *map(digest, others)}) == 6
    assert digest(one) == digest(one.clone())
