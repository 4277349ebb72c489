"""Seeds decide what torch draws within, and nothing of what callers draw, on any device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pyxai_fast import explain
from pyxai_fast.known_evidence.sets import known_set
from pyxai_fast.known_evidence.training import train_net
from pyxai_fast.metrics import mprt
from pyxai_fast.runtime.random_state import seed_torch, seeded

Call = Callable[[], object]


def test_a_seed_decides_what_is_drawn_and_the_caller_goes_on() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with seeded(11):
        first = torch.rand(4)
    with seeded(11), seeded(5):
        torch.rand(1)
    assert torch.equal(torch.rand(4), expected)
    torch.manual_seed(11)
    assert torch.equal(first, torch.rand(4))


def test_the_caller_goes_on_after_a_mistake_too() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="within"), seeded(11):
        raise RuntimeError("within")
    assert torch.equal(torch.get_rng_state(), before)


class Generators:
    """In the place of CUDA's: what each was seeded with, and whether it was put back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int = 3, current: int = 1) -> None:
        self.seeds: list[list[int]] = [[] for _ in range(count)]
        self.saved: list[int] = []
        self.put_back: list[int] = []

        class Generator:
            def __init__(self, seeds: list[int]) -> None:
                self.manual_seed = seeds.append

        def save(device: int) -> Tensor:
            self.saved.append(device)
            return torch.tensor(device)

        cuda = torch.cuda
        monkeypatch.setattr(cuda, "default_generators", [Generator(some) for some in self.seeds])
        monkeypatch.setattr(cuda, "current_device", lambda: current)
        monkeypatch.setattr(cuda, "get_rng_state", save)
        monkeypatch.setattr(
            cuda, "set_rng_state", lambda state, device: self.put_back.append(device)
        )


def test_of_cuda_devices_only_those_named_are_seeded_and_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = Generators(monkeypatch)
    first, current, cpu = (torch.device(name) for name in ("cuda:0", "cuda", "cpu"))
    with seeded(7, first, current, torch.device("cuda:1"), cpu):
        assert found.seeds == [[7], [7], []]
    assert found.saved == found.put_back == [0, 1]


def test_seeds_that_stay_are_those_of_the_devices_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Generators(monkeypatch)
    before = torch.get_rng_state()
    seed_torch(9, torch.device("cuda:2"))
    assert found.seeds == [[], [], [9]] and not found.saved
    drawn = torch.rand(2)
    torch.manual_seed(9)
    assert torch.equal(drawn, torch.rand(2))
    torch.set_rng_state(before)


def randomised() -> Call:
    net, x = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2)).eval(), torch.rand(2, 6)
    return lambda: mprt(net, "saliency", x)


def evidence_learnt() -> Call:
    known = known_set("tables")
    return lambda: train_net(replace(known, recipe=replace(known.recipe, examples=20, steps=2)))


def distilled() -> Call:
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).eval(), torch.randn(1, 1, 8, 8)
    return lambda: explain(net, x, method="dax", target=0, n_queries=40, baselines=0.0)


@pytest.mark.parametrize("make", [randomised, evidence_learnt, distilled])
def test_no_random_state_of_the_caller_is_touched(
    make: Callable[[], Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = make()
    before = torch.get_rng_state()
    reseeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", reseeded.append)
    call()
    assert torch.equal(torch.get_rng_state(), before)
    assert not reseeded, "every GPU was"
