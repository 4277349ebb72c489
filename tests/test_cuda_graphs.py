"""Every op in a CUDA graph and on a stream of its own; and, without a GPU, that its call is sound.

A graph replays the kernels that were captured: an op that reads a number on the host, synchronises
or launches on another stream fails to be captured, or replays the values that it was captured with.
"""

from __future__ import annotations

import pytest
import torch
from assertions import assert_same_bits
from op_calls import CALLS, FEATURES, OpCall
from torch import Tensor

from pyxai_fast import ops
from pyxai_fast.ops.registry import schemas

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
every_op = pytest.mark.parametrize("name", CALLS)


def made(name: str, device: torch.device | str, features: str = "odd") -> OpCall:
    return CALLS[name](FEATURES[features], torch.device(device))


def copies(results: tuple[Tensor, ...]) -> list[Tensor]:
    return [result.clone() for result in results]


def test_every_op_has_a_call() -> None:
    assert set(CALLS) == set(schemas())


@pytest.mark.parametrize("features", FEATURES)
@every_op
def test_calls_have_the_bits_of_the_reference(
    name: str, features: str, backend: torch.device
) -> None:
    if backend.type == "cuda":
        pytest.skip("on a GPU the other tests of this file run the calls")
    call = made(name, backend, features)
    before = copies(call.run())
    call.change()
    after = copies(call.run())
    assert not all(torch.equal(new, old) for new, old in zip(after, before, strict=True))
    with ops.native_kernels(False):
        expected = call.run()
    for result, wanted in zip(after, expected, strict=True):
        assert_same_bits(result, wanted)


@needs_gpu
@pytest.mark.parametrize("features", FEATURES)
@every_op
def test_captured_ops_read_what_their_inputs_hold_at_replay(name: str, features: str) -> None:
    call = made(name, "cuda", features)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call.run()  # whatever is allocated once is allocated
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call.run()
    graph.replay()
    before = copies(results)
    call.change()
    graph.replay()
    replayed = copies(results)
    assert not all(torch.equal(new, old) for new, old in zip(replayed, before, strict=True))
    for result, wanted in zip(replayed, call.run(), strict=True):
        assert_same_bits(result, wanted)


@needs_gpu
@every_op
def test_ops_run_on_the_current_stream(name: str) -> None:
    call, other = made(name, "cuda"), made(name, "cuda")
    other.change()
    expected = copies(other.run())
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        # The inputs change late: a kernel that did not wait for this stream would read the old.
        torch.cuda._sleep(20_000_000)
        call.change()
        results = call.run()
    side.synchronize()
    for result, wanted in zip(results, expected, strict=True):
        assert_same_bits(result, wanted)
