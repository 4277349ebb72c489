"""Training masks and students: the networks, and a step, against PyTorch's own modules."""

from __future__ import annotations

import colorsys
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pyxai_fast.distillation import DistillationRecipe, MaskGenerator, Student, distil, trainer
from pyxai_fast.distillation.augment import hue_saturation_value, in_other_colours
from pyxai_fast.distillation.mask_generator import KERNEL
from pyxai_fast.distillation.pixel_networks import PixelNetworks
from pyxai_fast.distillation.trainer import _Training
from pyxai_fast.errors import ArgumentError
from pyxai_fast.methods import DAX
from pyxai_fast.queries import Queries

SMALL = dict(filters=4, width=16, batch_size=8, dropout=0.0, augment=False)


def redness(rows: Tensor) -> Tensor:
    """Two classes: the first is the redder one, by its upper left quarter."""
    half = rows.shape[-1] // 2
    corner = rows[:, :, :half, :half].mean((2, 3))
    red = 8 * (corner[:, 0] - corner[:, 1])
    return torch.stack([red, -red], 1)


def asked(batch: int = 2, size: int = 16, n_queries: int = 60, seed: int = 0) -> Queries:
    pictures = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1))
    pictures[:, 0] += 0.5
    return DAX(redness, "tiles:4").queries(pictures / 1.5, target=0, n_queries=n_queries, seed=seed)


class PlainPair(nn.Module):
    """The same two networks as PyTorch's modules, for one input."""

    def __init__(self, run: _Training, which: int) -> None:
        super().__init__()
        channels, height, width = run.networks.view.shape
        made, student = run.networks.generator, run.networks.student
        assert isinstance(made, MaskGenerator)
        self.cell = made.cell
        self.first = nn.Conv2d(channels, made.first.shape[1], KERNEL, padding=KERNEL // 2)
        self.second = nn.Conv2d(made.first.shape[1], 1, KERNEL, padding=KERNEL // 2)
        wide = student.weight.shape[1]
        self.hidden = nn.Linear(channels * height * width, wide)
        self.norm, self.last = nn.BatchNorm1d(wide), nn.Linear(wide, 1)
        with torch.no_grad():
            for mine, theirs in (
                (self.first.weight, made.first), (self.first.bias, made.first_bias),
                (self.second.weight, made.second), (self.second.bias, made.second_bias),
                (self.hidden.weight, student.weight), (self.hidden.bias, student.bias),
                (self.last.weight[0], student.last), (self.last.bias, student.last_bias),
            ):  # fmt: skip
                assert mine is not None
                mine.copy_(theirs[which].view_as(mine))

    def mask(self, seen: Tensor) -> Tensor:
        raw = functional.leaky_relu(self.second(functional.leaky_relu(self.first(seen))))
        cells = functional.leaky_relu(functional.max_pool2d(raw, self.cell))
        low, high = cells.amin((1, 2, 3), keepdim=True), cells.amax((1, 2, 3), keepdim=True)
        return functional.interpolate((cells - low) / (high - low), scale_factor=self.cell)

    def answer(self, seen: Tensor) -> Tensor:
        hidden = self.norm(functional.leaky_relu(self.hidden(seen.flatten(1))))
        return self.last(hidden).sigmoid()[:, 0]


def compared(run: _Training, pair: PlainPair, which: int) -> list[tuple[str, Tensor, Tensor]]:
    """What one of the pairs has learnt, and the same of PyTorch's modules."""
    made, student = run.networks.generator, run.networks.student
    assert isinstance(made, MaskGenerator)
    return [
        (name, mine[which].detach().reshape(theirs.shape), theirs.detach())
        for name, mine, theirs in (
            ("first", made.first, pair.first.weight),
            ("second", made.second, pair.second.weight),
            ("hidden", student.weight, pair.hidden.weight),
            ("hidden bias", student.bias, pair.hidden.bias),
            ("gain", student.gain, pair.norm.weight),
            ("offset", student.offset, pair.norm.bias),
            ("last", student.last, pair.last.weight),
            ("mean", student.mean, pair.norm.running_mean),
            ("variance", student.variance, pair.norm.running_var),
        )
        if theirs is not None
    ]


@pytest.mark.parametrize("loss", ["release", "paper3"])
def test_steps_are_those_of_autograd_and_torch_sgd(loss: str) -> None:
    queries = asked()
    recipe = DistillationRecipe(loss=loss, learning_rate=1e-3, **SMALL)
    torch.manual_seed(0)
    run = _Training(queries, recipe, None)
    plain = [PlainPair(run, which) for which in range(2)]
    begin = {name: value.clone() for name, value, _ in compared(run, plain[0], 0)}
    run.networks.student.train()
    size, spread, complement = recipe.weights
    for which, pair in enumerate(plain):
        optimiser = torch.optim.SGD(pair.parameters(), 1e-3, 0.9, nesterov=True)
        for number in range(4):
            rows = slice(8 * number, 8 * number + 8)
            seen, y = run.networks.view(rows)[which], run.answers[which, rows]
            w, mask = run.weights[which, rows], pair.mask(seen)
            mine = pair.answer(seen * mask)
            p, q = y / y.sum(), mine / mine.sum()
            value = (w * (mine - y) ** 2).mean()
            if complement:  # otherwise it is not looked at, and counts for no statistics
                without = pair.answer(seen * (1 - mask))
                value = value - complement * (w * (without - y) ** 2).mean()
            value = value + size * mask.mean() + spread * (w * p * (p / q).log()).sum()
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
    for number in range(4):
        run.step(slice(8 * number, 8 * number + 8), number)
    for which, pair in enumerate(plain):
        for name, mine, theirs in compared(run, pair, which):
            # Of what they learnt: some hardly move, so that any would be as near as any other.
            moved, wanted = mine - begin[name], theirs - begin[name]
            most = float(wanted.abs().max())
            assert most > 0, name
            torch.testing.assert_close(
                moved, wanted, rtol=1e-2, atol=2e-2 * most, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_inputs_trained_together_are_as_trained_alone(dropout: float) -> None:
    queries = asked(3)
    recipe = DistillationRecipe(n_epochs=3, mask_epochs=(0, 2), **{**SMALL, "dropout": dropout})
    together = distil(queries, recipe)
    for which in range(3):
        alone = distil(queries.of_example(which), recipe)
        torch.testing.assert_close(alone.masks[0], together.masks[which], rtol=0, atol=1e-4)
        torch.testing.assert_close(
            alone.training_loss[:, 0], together.training_loss[:, which], rtol=1e-4, atol=1e-6
        )


def test_inputs_of_which_few_fit_are_trained_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    queries = asked(3)
    recipe = DistillationRecipe(n_epochs=2, mask_epochs=(1, 2), **SMALL)
    together = distil(queries, recipe)
    monkeypatch.setattr(trainer, "BUDGET", 2 * PixelNetworks.bytes_of_one(queries, recipe, 1, None))
    in_turns = distil(queries, recipe)
    assert [networks.batch for networks in in_turns.networks] == [2, 1]
    torch.testing.assert_close(in_turns.masks, together.masks, rtol=0, atol=1e-4)
    torch.testing.assert_close(in_turns.training_loss, together.training_loss, rtol=1e-4, atol=1e-6)
    assert in_turns.evidence.tolist() == [True] * 3


def test_long_pictures_have_a_mask() -> None:
    pictures = torch.rand(1, 3, 8, 96, generator=torch.Generator().manual_seed(0))
    queries = DAX(redness, "tiles:4").queries(pictures, target=0, n_queries=40)
    recipe = DistillationRecipe(n_epochs=1, mask_epochs=(1, 1), **SMALL)
    assert float(distil(queries, recipe).masks.amax()) == 1
    with pytest.raises(ArgumentError, match="border must leave something of 8 x 96 pixels, got 4"):
        distil(queries, replace(recipe, border=4))


def test_something_is_left_to_train_on() -> None:
    with pytest.raises(ArgumentError, match=r"held_out must leave at least 2 of 60 .* got 0.98"):
        distil(asked(1), DistillationRecipe(held_out=0.98, **SMALL))


def test_a_seed_repeats_and_another_does_not() -> None:
    recipe = DistillationRecipe(n_epochs=2, mask_epochs=(1, 2), **{**SMALL, "dropout": 0.1})
    state = torch.get_rng_state()
    first, again = (distil(asked(), recipe).masks for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, distil(asked(seed=1), recipe).masks)
    assert torch.equal(state, torch.get_rng_state()), "the caller's random numbers were drawn from"


def test_masks_by_sample_do_not_depend_on_the_batch_and_masks_by_batch_do() -> None:
    torch.manual_seed(0)
    seen = torch.rand(1, 6, 3, 16, 16) * 255
    by_sample = MaskGenerator(1, 3, 4, 2, "sample")
    mask = by_sample(seen)
    assert mask.min().item() == 0 and mask.max().item() == 1
    assert torch.equal(mask.amax((2, 3, 4)), torch.ones(1, 6))
    torch.testing.assert_close(by_sample(seen[:, :2]), mask[:, :2])
    by_batch = MaskGenerator(1, 3, 4, 2, "batch")
    mask = by_batch(seen)
    assert int((mask.amax((2, 3, 4)) == 1).sum()) == 1
    assert not torch.allclose(by_batch(seen[:, :2]), mask[:, :2])


def test_the_mask_of_a_constant_is_zero() -> None:
    made = MaskGenerator(1, 1, 4, 64, "sample")  # one cell: its least is its greatest value
    assert torch.equal(made(torch.rand(1, 2, 1, 16, 16)), torch.zeros(1, 2, 1, 16, 16))


def test_edges_stand_out_where_zeros_are_seen_beyond_them() -> None:
    torch.manual_seed(0)
    seen = torch.full((1, 2, 1, 24, 32), 90.0)
    assert torch.equal(MaskGenerator(1, 1, 4, 4, "sample", "replicate")(seen), seen * 0)
    with_zeros = MaskGenerator(1, 1, 4, 4, "sample")(seen).detach()
    assert with_zeros[..., 8:16, 8:24].std() < 1e-3 < with_zeros.std()


@pytest.mark.parametrize("edges", ["constant", "replicate"])
@pytest.mark.parametrize("shape", [(16, 16), (13, 21)])
def test_networks_side_by_side_are_networks_one_by_one(shape: tuple[int, int], edges: str) -> None:
    torch.manual_seed(0)
    made = MaskGenerator(3, 2, 4, 4, "sample", edges).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    seen = torch.rand(3, 6, 2, *shape).double().requires_grad_()
    one_by_one, side_by_side = made._one_by_one(seen), made._side_by_side(seen)
    torch.testing.assert_close(one_by_one, side_by_side)
    wanted = [*made.parameters(), seen]
    towards = torch.rand_like(side_by_side)
    for mine, theirs in zip(
        torch.autograd.grad((one_by_one * towards).sum(), wanted),
        torch.autograd.grad((side_by_side * towards).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("shape", [(16, 16), (13, 21)])
def test_a_mask_has_the_size_of_what_is_seen(shape: tuple[int, int]) -> None:
    made = MaskGenerator(2, 3, 4, 4, "sample")
    assert made(torch.rand(2, 3, 3, *shape)).shape == (2, 3, 1, *shape)


def test_halves_have_batch_statistics_of_their_own() -> None:
    torch.manual_seed(0)
    student = Student(1, 10, 8, dropout=0.0).train()
    mine, without = torch.rand(1, 6, 10), 3 * torch.rand(1, 6, 10)
    both = student(torch.cat([mine, without], 1), halves=2)
    norm = nn.BatchNorm1d(8)
    for part, got in ((mine, both[:, :6]), (without, both[:, 6:])):
        hidden = norm(functional.leaky_relu(part[0] @ student.weight[0].T + student.bias[0]))
        wanted = (hidden @ student.last[0, 0] + student.last_bias[0]).sigmoid()
        torch.testing.assert_close(got[0], wanted)
    torch.testing.assert_close(student.mean[0], norm.running_mean)
    torch.testing.assert_close(student.variance[0], norm.running_var)


def test_colours_are_those_of_colorsys() -> None:
    rgb = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    rgb[:5] = torch.tensor([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0.5, 0.5, 0.5]])
    got = hue_saturation_value(255 * rgb[:, :, None, None])[:, :, 0, 0] / 255
    wanted = torch.tensor([colorsys.rgb_to_hsv(*row) for row in rgb.tolist()])
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_other_colours_are_of_the_first_queries_of_a_batch() -> None:
    pictures = torch.rand(2, 10, 3, 4, 4) * 255
    for batch, count in ((0, 6), (1, 4)):
        seen = in_other_colours(pictures, batch)
        assert torch.equal(seen[:, count:], pictures[:, count:])
        assert torch.equal(seen[:, :count], hue_saturation_value(pictures[:, :count]))


def test_patience_ends_training_of_each_input_by_itself() -> None:
    queries = asked(3)
    going = DistillationRecipe(n_epochs=12, mask_epochs=(1, 12), learning_rate=2e-3, **SMALL)
    patient = replace(going, patience=1)
    together = distil(queries, patient)
    errors = distil(queries, going).held_out_error
    ends = []
    for which in range(3):
        fell = errors[1:, which] < errors[:-1, which]
        ends.append(int((~fell).nonzero()[0]) + 2)  # the first epoch that was no better
        until = replace(going, mask_epochs=(1, ends[-1]))
        assert torch.equal(distil(queries, until).masks[which], together.masks[which])
    assert min(ends) < max(ends) == len(together.training_loss)


def test_epochs_that_change_no_mask_are_trained_only_for_the_student() -> None:
    queries = asked(1)
    recipe = DistillationRecipe(n_epochs=5, mask_epochs=(0, 2), **SMALL)
    short, long = distil(queries, recipe), distil(queries, recipe, keep_student=True)
    assert (len(short.training_loss), len(long.training_loss)) == (2, 5)
    assert torch.equal(short.masks, long.masks)


def test_losses_are_told_after_each_epoch() -> None:
    told: list[dict[str, float]] = []
    found = distil(
        asked(1), DistillationRecipe(n_epochs=4, mask_epochs=(1, 3), **SMALL), told=told.append
    )
    assert [one["epoch"] for one in told] == [1, 2, 3]
    assert [one["loss"] for one in told] == found.training_loss[:, 0].tolist()
    assert [one["held_out"] for one in told] == found.held_out_error[:, 0].tolist()


def test_without_held_out_queries_their_error_is_unknown() -> None:
    recipe = DistillationRecipe(held_out=0.0, n_epochs=2, mask_epochs=(1, 2), **SMALL)
    assert bool(distil(asked(1), recipe).held_out_error.isnan().all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "relaese"}, r"loss must be one of release, paper3, .* 'relaese'.*release"),
        ({"loss": (1.0, 2.0)}, "loss must be three numbers"),
        ({"mask_norm": "layer"}, "mask_norm must be one of sample, batch"),
        ({"batch_size": 1}, "batch_size must be an integer >= 2, got 1"),
        ({"filters": 2.5}, "filters must be an integer >= 1, got 2.5"),
        ({"border": -1}, "border must be None or an integer >= 0, got -1"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"held_out": float("nan")}, r"held_out must be in \[0, 1\)"),
        ({"n_epochs": 3}, r"mask_epochs must be \(first, last\) with .* <= 3, got \(0, 5\)"),
        ({"mask_epochs": 6}, r"mask_epochs must be \(first, last\)"),
        ({"n_epochs": None}, r"mask_epochs must be None where n_epochs is, got \(0, 5\)"),
        ({"sees": "edges"}, "sees must be one of segments, pixels, got 'edges'"),
        ({"answers": "ranks"}, "answers must be one of as_they_are, stretched, log_odds, order"),
        ({"patience": 2, "held_out": 0.0}, "held_out must be above 0 where there is patience"),
    ],
)
def test_a_recipe_says_what_is_wrong(options: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=f"DAX: {message}"):
        DistillationRecipe(**options)  # type: ignore[arg-type]


def test_compiled_training_gives_the_same_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    # Everything but the writing of C++, which takes a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    recipe = DistillationRecipe(n_epochs=1, mask_epochs=(1, 1), **SMALL)
    compiled = distil(asked(), replace(recipe, compile=True)).masks
    torch.testing.assert_close(compiled, distil(asked(), recipe).masks, rtol=0, atol=1e-3)
