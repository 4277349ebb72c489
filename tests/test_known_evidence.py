"""Known evidence: what is made, what the networks go by, and which maps find it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyxai_fast.audio import Spectrum
from pyxai_fast.known_evidence import (
    SETS,
    Budget,
    Examples,
    accuracy,
    centre_maps,
    judged,
    known_set,
    load_net,
    localisation,
    make_marked_pictures,
    make_pictures,
    make_spectrograms,
    make_tables,
    maps_of,
    names_of,
    probabilities,
    train_net,
    uniform_maps,
)
from pyxai_fast.known_evidence import __main__ as command
from pyxai_fast.known_evidence.draws import Draws
from pyxai_fast.known_evidence.localised import controls_of, values_of
from pyxai_fast.known_evidence.marks import PATTERNS
from pyxai_fast.known_evidence.shapes import REACH, SHAPES, STRAY
from pyxai_fast.known_evidence.spectrograms import CLASS_NAMES as EVENTS
from pyxai_fast.known_evidence.spectrograms import RATE, visible
from pyxai_fast.known_evidence.tables import CAUSES, COMPANIONS, PARTNERS
from pyxai_fast.known_evidence.training import fingerprint
from pyxai_fast.metrics import energy_inside

IMAGES = ("pictures", "marked_pictures", "spectrograms")
TABLES = ("tables", "tables_by_row", "interactions")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The networks are so small that on a busy machine threads mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def net_of(name: str) -> nn.Module:
    return load_net(name, cache=False)


def held_out(name: str, count: int = 200) -> Examples:
    return known_set(name).held_out(count)


def budget_of(name: str, evaluations: int = 64) -> Budget:
    return Budget(evaluations, known_set(name).held_out(40, 2).inputs)


# --- what every set promises ---------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_examples_are_a_function_of_the_seed_alone(name: str) -> None:
    make = SETS[name].make
    before = torch.random.get_rng_state()
    one, again, other = make(12, 5), make(12, 5), make(12, 6)
    assert torch.equal(torch.random.get_rng_state(), before)
    for field in ("inputs", "labels", "masks", "without", "decoys"):
        assert torch.equal(getattr(one, field), getattr(again, field)), field
    assert not torch.equal(one.inputs, other.inputs)


@pytest.mark.parametrize("name", SETS)
def test_nothing_changes_outside_the_evidence(name: str) -> None:
    examples = SETS[name].make(40, 3)
    outside = ~examples.masks.expand_as(examples.inputs)
    assert torch.equal(examples.inputs[outside], examples.without[outside])
    changed = examples.inputs != examples.without
    assert bool(changed.flatten(1).any(1).all())
    assert bool((examples.masks & examples.decoys).sum() == 0)
    assert bool(examples.decoys.flatten(1).any(1).all())
    assert examples.inputs.dtype == torch.float32 and bool(examples.inputs.isfinite().all())


@pytest.mark.parametrize("name", ["pictures", "spectrograms"])
def test_what_is_outside_the_evidence_knows_nothing_of_the_class(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same numbers at random, and every class another one: what is behind stays as it was."""
    make = SETS[name].make
    examples, drawn = make(20, 5), Draws.labels

    def others(draws: Draws, n_classes: int) -> Tensor:
        return (drawn(draws, n_classes) + 1) % n_classes

    monkeypatch.setattr(Draws, "labels", others)
    changed = make(20, 5)
    assert not bool((changed.labels == examples.labels).any())
    assert not torch.equal(changed.inputs, examples.inputs)
    assert torch.equal(changed.without, examples.without)


# Of the first of seed 5: where the evidence is, how much, and the mean of the inputs.
DRAWN: dict[str, tuple[list[int], list[int], float]] = {
    "pictures": ([1, 4, 0, 0, 2, 3], [451, 236, 290, 366, 215, 310], 0.50517),
    "marked_pictures": ([1, 3, 4, 2, 0, 0], [100, 100, 100, 100, 100, 100], 0.49580),
    "spectrograms": ([1, 2, 0, 3, 0, 4], [68, 50, 78, 117, 82, 81], 0.37730),
    "tables": ([1, 0, 0, 2, 2, 1], [1, 1, 1, 1, 1, 1], 0.48725),
    "tables_by_row": ([0, 1, 0, 0, 1, 1], [1, 1, 1, 1, 1, 1], 0.12911),
    "interactions": ([1, 0, 0, 2, 2, 1], [2, 2, 2, 2, 2, 2], 0.70945),
}


@pytest.mark.parametrize("name", SETS)
def test_a_seed_gives_the_same_examples_on_every_machine(name: str) -> None:
    """But for what machines differ in: last digits of functions, and the pixels on an edge."""
    examples = SETS[name].make(6, 5)
    labels, areas, mean = DRAWN[name]
    assert examples.labels.tolist() == labels
    assert examples.masks.flatten(1).sum(1).tolist() == pytest.approx(areas, abs=2)
    assert float(examples.inputs.double().mean()) == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize("name", SETS)
def test_classes_are_in_equal_shares_and_nothing_is_the_last(name: str) -> None:
    known = SETS[name]
    counts = known.make(42, 4).labels.bincount(minlength=len(known.class_names))
    assert known.class_names[-1] == "nothing" and counts[-1] == 0
    assert int(counts[:-1].max() - counts[:-1].min()) <= 1


def test_evidence_is_moved_with_its_mask() -> None:
    examples = make_pictures(6, 0)
    grounds = torch.zeros_like(examples.inputs)
    moved = examples.onto(grounds)
    masks = examples.masks.expand_as(moved)
    assert torch.equal(moved[masks], examples.inputs[masks]) and not bool(moved[~masks].any())
    some = examples.take(torch.tensor([4, 1]))
    assert len(some) == 2 and torch.equal(some.inputs[0], examples.inputs[4])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_pictures(0, 1), "make_pictures: count must be an integer >= 1, got 0"),
        (lambda: make_pictures(1, 1.5), "make_pictures: seed must be an integer, got 1.5"),
        (lambda: make_pictures(1, 1, 20), "make_pictures: size must be an integer >= 24, got 20"),
        (lambda: make_spectrograms(1, 1, bins=8), "bins must be an integer >= 16, got 8"),
        (lambda: make_tables(1, 1, per="column"), "per must be one of class, row, got 'column'"),
        (lambda: make_tables(1, 1, per="row", interactions=True), "interactions must be False"),
        (lambda: known_set("picture"), "got 'picture'; did you mean pictures"),
        (lambda: known_set("tables").held_out(1, 0), "seed must not be 0, on which networks"),
        (lambda: maps_of(nn.Identity(), make_tables(2, 1), "lyme", budget_of("tables")), "'lyme'"),
        (
            lambda: maps_of(nn.Identity(), make_tables(2, 1), "blur_ig", budget_of("tables")),
            "got 'blur_ig'",
        ),
    ],
)
def test_what_does_not_fit_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("'", "['\"]")):
        call()


# --- pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SHAPES, "stray"])
def test_shapes_have_the_area_they_say(name: str) -> None:
    shape = {**SHAPES, "stray": STRAY}[name]
    along = (torch.arange(1200, dtype=torch.float64) + 0.5) / 400 - 1.5
    u, v = along[None], along[:, None]
    inside = shape.inside(u, v)
    assert float(inside.double().sum()) / 400**2 == pytest.approx(shape.area, rel=2e-3)
    assert float((u.square() + v.square())[inside].amax().sqrt()) <= REACH
    texture = shape.texture(u.expand(1200, -1), v.expand(-1, 1200))[inside]
    assert float(texture.min()) >= 0 and float(texture.max()) <= 1


# Mean square distance from the middle over the area: of a kind of shape, however it is turned and
# enlarged. For the cross, two bars of 2 x 0.68 less the square that they share.
SPREADS = {
    "disc": 1 / (2 * math.pi),
    "square": 1 / 6,
    "triangle": 1 / (3 * math.sqrt(3)),
    "cross": (8 * (0.34 + 0.34**3) / 3 - 8 * 0.34**4 / 3) / (8 * 0.34 - 4 * 0.34**2) ** 2,
    "ring": (1 + 0.5**2) / (2 * math.pi * (1 - 0.5**2)),
}


def test_masks_are_the_shapes_that_the_labels_name() -> None:
    examples = make_pictures(100, 7)
    height, width = examples.masks.shape[2:]
    y, x = torch.arange(height)[:, None].double(), torch.arange(width).double()
    for label, name in enumerate(SHAPES):
        found = []
        for mask in examples.masks[examples.labels == label, 0].double():
            area = mask.sum()
            middle_x, middle_y = (mask * x).sum() / area, (mask * y).sum() / area
            away = (x - middle_x).square() + (y - middle_y).square()
            # A pixel is a small square, of moment 1/6.
            found.append(float((mask * away).sum() / area + 1 / 6) / float(area))
        assert len(found) == 20
        assert sum(found) / 20 == pytest.approx(SPREADS[name], rel=0.02), name
        assert max(found) - min(found) < 0.12 * SPREADS[name]


def test_objects_lie_anywhere_within_the_picture() -> None:
    examples = make_pictures(300, 8)
    masks = examples.masks[:, 0]
    edges = [masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]]
    assert not any(bool(edge.any()) for edge in edges)
    shares = masks.double().mean((1, 2))
    assert float(shares.min()) > 0.01 and float(shares.max()) < 0.15
    # As often left as right, above as below.
    everywhere = masks.double().mean(0)
    for half in (everywhere[:32], everywhere[32:], everywhere[:, :32], everywhere[:, 32:]):
        assert float(half.sum() / everywhere.sum()) == pytest.approx(0.5, abs=0.08)


def test_pictures_of_any_size_are_of_the_same_kind() -> None:
    wide, small = make_pictures(40, 9, (32, 80)), make_pictures(40, 9, 32)
    assert wide.inputs.shape == (40, 3, 32, 80) and wide.masks.shape == (40, 1, 32, 80)
    assert small.inputs.shape == (40, 3, 32, 32)
    pixels = wide.masks.double().sum((1, 2, 3)).mean(), small.masks.double().sum((1, 2, 3)).mean()
    assert float(pixels[0]) == pytest.approx(float(pixels[1]), rel=0.15)
    for one in (wide, small):
        assert float(one.inputs.min()) >= 0 and float(one.inputs.max()) <= 1


def test_a_second_object_is_no_evidence() -> None:
    examples, alone = make_pictures(30, 10, strays=1.0), make_pictures(30, 10)
    assert float(examples.decoys.double().mean()) > float(alone.decoys.double().mean()) + 0.01
    both = examples.inputs[examples.decoys.expand_as(examples.inputs)]
    assert torch.equal(both, examples.without[examples.decoys.expand_as(examples.inputs)])
    # Seldom covered.
    assert float(examples.masks.double().mean()) > 0.03


def test_marks_alone_tell_the_class() -> None:
    examples = make_marked_pictures(200, 11)
    objects = make_pictures(200, 11)
    assert torch.equal(examples.without, objects.inputs)
    assert bool((examples.masks.sum((1, 2, 3)) == 100).all())
    light = examples.inputs.mean(1, keepdim=True)[examples.masks].view(200, 2, 5, 2, 5)
    cells = (light.mean((2, 4)) > 0.5).flatten(1).long()
    told = (cells[:, None] == torch.tensor(PATTERNS)).all(2).long().argmax(1)
    assert torch.equal(told, examples.labels)
    # The object says nothing, and no corner has more than its share.
    assert float((objects.labels == examples.labels).double().mean()) < 0.3
    corners = [
        int(examples.masks[:, 0, down, right].sum()) for down in (1, -2) for right in (1, -2)
    ]
    assert sum(corners) == 200 and min(corners) > 30


# --- spectrograms --------------------------------------------------------------------------------


def test_a_tone_in_the_middle_of_a_bin_is_visible_in_three() -> None:
    # A Hann window has a bin and its neighbours, which are 6 dB below it, and nothing else.
    spectrum = Spectrum(RATE, 128, 64)
    wave = (2 * math.pi * 20 * torch.arange(128 * 20) / 128).sin()[None]
    found = visible(spectrum.of(wave.double()))[0, 0, :, 3:-3]
    assert found.any(1).nonzero()[:, 0].tolist() == [19, 20, 21] and bool(found[19:22].all())


def of_event(examples: Examples, name: str) -> Tensor:
    """Masks [N, F, T] of a kind of event."""
    return examples.masks[examples.labels == EVENTS.index(name), 0]


def runs_of(when: Tensor) -> int:
    """How many times in a row something begins, bool [T]."""
    return int((when[1:] & ~when[:-1]).sum()) + int(when[0])


def heights_of(mask: Tensor) -> Tensor:
    """The mean bin of a mask [F, T] at each time that it has any."""
    bins = torch.arange(len(mask)).double()[:, None]
    when = mask.any(0)
    return ((mask * bins).sum(0) / mask.sum(0).clamp(min=1))[when]


def test_masks_are_the_events_that_the_labels_name() -> None:
    examples = make_spectrograms(150, 12)
    for mask in of_event(examples, "rising"):
        assert runs_of(mask.any(0)) == 1 and bool((heights_of(mask).diff() > -0.6).all())
        assert float(heights_of(mask)[-2] - heights_of(mask)[1]) > 3
    for mask in of_event(examples, "falling"):
        assert runs_of(mask.any(0)) == 1 and bool((heights_of(mask).diff() < 0.6).all())
    for mask in of_event(examples, "bursts"):
        assert runs_of(mask.any(0)) == 3 and float(heights_of(mask).std()) < 0.6
    for mask in of_event(examples, "warble"):
        away = heights_of(mask)[1:-1] - heights_of(mask).mean()
        assert runs_of(mask.any(0)) == 1 and runs_of(away > 0) >= 2
    for mask in of_event(examples, "clicks"):
        assert runs_of(mask.any(0)) == 3 and float(mask.any(0).double().mean()) < 0.2


def test_events_stand_out_within_their_masks() -> None:
    examples = make_spectrograms(100, 13)
    louder = (examples.inputs - examples.without)[examples.masks]
    # In tenths of the range, 8 dB.
    assert float(louder.mean()) > 0.15 and float((louder > 0).double().mean()) > 0.95
    assert 0.005 < float(examples.masks.double().mean()) < 0.1
    assert float(examples.inputs.min()) >= 0


def test_spectrograms_of_any_size_have_their_events() -> None:
    examples = make_spectrograms(20, 14, bins=32, frames=100)
    assert examples.inputs.shape == (20, 1, 32, 100)
    assert bool(examples.masks.flatten(1).any(1).all())


# --- tables --------------------------------------------------------------------------------------


def test_what_is_raised_decides() -> None:
    examples = make_tables(300, 15)
    raised = examples.inputs[:, CAUSES] > 1.2
    assert torch.equal(raised.long().argmax(1), examples.labels) and bool(
        (raised.sum(1) == 1).all()
    )
    assert torch.equal(raised, examples.masks[:, CAUSES])
    assert not bool((examples.without[:, CAUSES].abs() > 1.2).any())


def test_rows_tell_which_column_it_was_where_classes_do_not() -> None:
    examples = make_tables(300, 16, per="row")
    causes = examples.inputs[:, CAUSES]
    which = causes.abs().argmax(1)
    assert torch.equal((causes.gather(1, which[:, None])[:, 0] > 0).long(), examples.labels)
    assert torch.equal(which, examples.masks[:, CAUSES].long().argmax(1))
    assert which.bincount().tolist() == pytest.approx([100] * 3, abs=30)


def test_interactions_need_both() -> None:
    examples = make_tables(300, 17, interactions=True)

    def both(rows: Tensor) -> Tensor:
        return (rows[:, CAUSES] > 1.2) & (rows[:, PARTNERS] > 1.2)

    assert torch.equal(both(examples.inputs).long().argmax(1), examples.labels)
    assert bool((both(examples.inputs).sum(1) == 1).all())
    assert not bool(both(examples.without).any())
    assert bool((examples.masks.sum(1) == 2).all())
    # One of them, or neither.
    left = ((examples.without > 1.2) & examples.masks).sum(1)
    assert set(left.tolist()) == {0, 1}


@pytest.mark.parametrize("name", TABLES)
def test_companions_go_along_with_their_causes(name: str) -> None:
    inputs = SETS[name].make(2000, 18).inputs
    for cause, companion in zip(CAUSES, COMPANIONS, strict=True):
        together = torch.corrcoef(inputs[:, [cause, companion]].T)[0, 1]
        assert float(together) > 0.8


# --- networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_networks_are_right_of_what_they_have_not_seen(name: str) -> None:
    assert accuracy(net_of(name), held_out(name, 500)) >= 0.97


@pytest.mark.parametrize("name", SETS)
def test_the_class_goes_with_the_evidence_and_with_nothing_else(name: str) -> None:
    """On held-out data: without the evidence the class collapses, in another place it stays."""
    net, examples = net_of(name), held_out(name)
    whole = probabilities(net, examples.inputs, examples.labels)
    without = probabilities(net, examples.without, examples.labels)
    elsewhere = probabilities(net, examples.onto(examples.without.roll(1, 0)), examples.labels)
    assert float(whole.mean()) > 0.93
    assert float(without.mean()) < 0.03 and float((without < 0.5).double().mean()) > 0.97
    assert float(elsewhere.mean()) > 0.92 and float((elsewhere > 0.5).double().mean()) > 0.94


def test_the_class_follows_the_mark_and_not_the_object() -> None:
    net, examples = net_of("marked_pictures"), held_out("marked_pictures")
    # Another object under the same mark; the same object under another mark.
    other_object = examples.onto(examples.without.roll(1, 0))
    assert float(probabilities(net, other_object, examples.labels).mean()) > 0.93
    other_mark = examples.take(torch.arange(200).roll(1))
    marked = other_mark.onto(examples.without)
    assert float(probabilities(net, marked, other_mark.labels).mean()) > 0.93
    # A network that knows objects sees the objects of the same pictures.
    objects = make_pictures(200, 1)
    assert torch.equal(objects.inputs, examples.without)
    bare = objects.take(~(objects.masks & examples.masks).flatten(1).any(1))
    assert float(probabilities(net_of("pictures"), bare.inputs, bare.labels).mean()) > 0.93


def test_a_companion_changes_nothing() -> None:
    net, examples = net_of("tables"), held_out("tables")
    shuffled = torch.where(examples.decoys, examples.inputs.roll(1, 0), examples.inputs)
    assert float(probabilities(net, shuffled, examples.labels).mean()) > 0.95


def test_training_is_the_same_every_time_and_leaves_the_random_state_alone() -> None:
    known = known_set("spectrograms")
    short = replace(known, recipe=replace(known.recipe, examples=40, steps=3))
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    nets = [train_net(short) for _ in range(2)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(one, other) and not one.requires_grad
    assert not nets[0].training


def test_networks_are_kept_and_known_by_what_made_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyxai_fast.known_evidence import training

    trained = []

    def quick(known: Any, *, progress: bool = False) -> nn.Module:
        trained.append(known.name)
        return known.net().eval()

    monkeypatch.setattr(training, "train_net", quick)
    monkeypatch.setattr(training, "_in_memory", {})
    net = load_net("tables", cache=tmp_path)
    (file,) = tmp_path.iterdir()
    assert load_net("tables", cache=tmp_path) is not None and trained == ["tables"]
    monkeypatch.setattr(training, "_in_memory", {})
    again = load_net("tables", cache=tmp_path)
    assert trained == ["tables"]
    for one, other in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    # What cannot be read is trained again.
    file.write_bytes(b"nothing")
    monkeypatch.setattr(training, "_in_memory", {})
    load_net("tables", cache=tmp_path)
    assert trained == ["tables"] * 2
    monkeypatch.setattr(training, "_in_memory", {})
    load_net("tables", cache=tmp_path)
    assert trained == ["tables"] * 2
    # The user's own folder, by default.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load_net("tables")
    assert len(list((tmp_path / "cache" / "pyxai_fast" / "known_evidence").iterdir())) == 1


def test_what_callers_do_to_a_network_changes_neither_the_next_one_nor_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyxai_fast.known_evidence import training

    monkeypatch.setattr(training, "train_net", lambda known, progress: known.net().eval())
    monkeypatch.setattr(training, "_in_memory", {})
    first = load_net("tables", cache=False)
    untouched = {name: value.clone() for name, value in first.state_dict().items()}
    for parameter in first.train().double().parameters():
        parameter.detach().add_(1)
    second = load_net("tables", cache=tmp_path)
    (file,) = tmp_path.iterdir()
    for found in (second.state_dict(), torch.load(file, weights_only=True)):
        assert found.keys() == untouched.keys()
        for name, value in found.items():
            assert value.dtype == torch.float32 and torch.equal(value, untouched[name]), name
    assert not second.training


def test_another_recipe_or_set_is_another_network() -> None:
    known = known_set("tables")
    longer = replace(known, recipe=replace(known.recipe, steps=1))
    other = replace(known, make=make_pictures)
    assert len({fingerprint(one) for one in (known, longer, other)}) == 3
    assert fingerprint(known) == fingerprint(known)


# --- maps that are known -------------------------------------------------------------------------


class Linear(nn.Module):
    """A logit for each class of a table, a weighted sum of the columns."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(4, 12, generator=torch.Generator().manual_seed(7))
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, rows: Tensor) -> Tensor:
        return rows @ self.weight.T


class LinearProbability(Linear):
    """As Linear, of the probabilities of two classes, which black-box methods explain."""

    def forward(self, rows: Tensor) -> Tensor:
        first = 0.5 + 0.01 * super().forward(rows)[:, :1]
        return torch.cat([first, 1 - first], 1).log()


@pytest.mark.parametrize("name", ["saliency", "smooth_grad"])
def test_slopes_of_a_linear_net_are_its_weights(name: str) -> None:
    net, examples = Linear(), make_tables(8, 20)
    found = maps_of(net, examples, name, budget_of("tables")).attributions
    assert torch.allclose(found, net.weight[examples.labels], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["integrated_gradients", "guided_ig", "stick_breaking_ig", "input_x_gradient"]
)
def test_paths_of_a_linear_net_are_weights_times_what_was_gone(name: str) -> None:
    net, examples, budget = Linear(), make_tables(8, 20), budget_of("tables")
    start = 0 * budget.mean if name == "input_x_gradient" else budget.mean
    found = maps_of(net, examples, name, budget).attributions
    wanted = net.weight[examples.labels] * (examples.inputs - start)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["kernel_shap", "lime"])
def test_hidden_columns_of_a_linear_net_tell_what_they_add(name: str) -> None:
    net, budget = LinearProbability(), budget_of("tables", 512)
    examples = replace(make_tables(8, 20), labels=torch.zeros(8, dtype=torch.long))
    found = maps_of(net, examples, name, budget).attributions
    wanted = 0.01 * net.weight[0] * (examples.inputs - budget.mean)
    assert torch.allclose(found, wanted, rtol=1e-2, atol=2e-4)


def test_a_product_is_shared_between_its_factors() -> None:
    """The integral of a b along the line from 0 gives half of it to each."""

    class Products(nn.Module):
        def forward(self, rows: Tensor) -> Tensor:
            return rows[:, CAUSES] * rows[:, PARTNERS]

    examples = make_tables(8, 21, interactions=True)
    budget = Budget(64, torch.zeros(1, 12))
    found = maps_of(Products(), examples, "integrated_gradients", budget).attributions
    assert isinstance(found, Tensor)
    each = 0.5 * examples.inputs[examples.masks].view(8, 2).prod(1)
    assert torch.allclose(found[examples.masks].view(8, 2), each[:, None].expand(8, 2), rtol=1e-4)
    assert not bool(found[~examples.masks].any())
    assert judged(found, examples.masks)["energy"].tolist() == [1.0] * 8


# --- maps of networks that learnt ----------------------------------------------------------------

CASES = 12


@pytest.fixture(scope="module")
def shares() -> Callable[[str, str], tuple[Tensor, Tensor]]:
    """How much of a map is inside the evidence, and inside the decoys, [CASES] each, by set and
    map; each made once."""
    found: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}

    def shares_of(name: str, how: str) -> tuple[Tensor, Tensor]:
        if (name, how) not in found:
            examples = held_out(name, CASES)
            values = values_of(net_of(name), examples, how, budget_of(name))
            found[name, how] = (
                energy_inside(values, examples.masks),
                energy_inside(values, examples.decoys),
            )
        return found[name, how]

    return shares_of


# The gain in the mean share inside, over the better control, of which a third is asked for.
GAINS: dict[str, dict[str, float]] = {
    "pictures": {
        "saliency": 0.38,
        "integrated_gradients": 0.59,
        "expected_gradients": 0.43,
        "blur_ig": 0.55,
        "lime": 0.15,
        "rise": 0.14,
        "dax": 0.45,
    },
    "marked_pictures": {
        "saliency": 0.33,
        "integrated_gradients": 0.81,
        "expected_gradients": 0.64,
        "blur_ig": 0.58,
        "lime": 0.21,
        "rise": 0.17,
        "dax": 0.51,
    },
    "spectrograms": {
        "saliency": 0.19,
        "input_x_gradient": 0.50,
        "integrated_gradients": 0.71,
        "expected_gradients": 0.63,
        "blur_ig": 0.63,
        "lime": 0.07,
        "rise": 0.06,
    },
    "tables": {
        "saliency": 0.52,
        "integrated_gradients": 0.77,
        "expected_gradients": 0.67,
        "guided_ig": 0.77,
        "stick_breaking_ig": 0.77,
        "geometrically_guided_ig": 0.40,
        "likelihood_ratio": 0.27,
        "freemcg": 0.20,
        "lime": 0.82,
        "kernel_shap": 0.91,
        "rise": 0.70,
    },
    "tables_by_row": {
        "saliency": 0.53,
        "integrated_gradients": 0.84,
        "lime": 0.81,
        "kernel_shap": 0.91,
    },
    "interactions": {
        "saliency": 0.46,
        "integrated_gradients": 0.69,
        "lime": 0.64,
        "kernel_shap": 0.74,
        "dax": 0.66,
    },
}


@pytest.mark.parametrize(
    ("name", "how"), [(name, how) for name, gains in GAINS.items() for how in gains]
)
def test_maps_find_the_evidence_better_than_controls(
    name: str, how: str, shares: Callable[[str, str], tuple[Tensor, Tensor]]
) -> None:
    inside, _ = shares(name, how)
    controls = [shares(name, control)[0] for control in controls_of(held_out(name, CASES))]
    best = max(controls, key=lambda each: float(each.mean()))
    assert float((inside - best).mean()) > GAINS[name][how] / 3


@pytest.mark.parametrize("how", ["saliency", "integrated_gradients", "dax"])
def test_maps_find_the_planted_shortcut_and_not_the_object(
    how: str, shares: Callable[[str, str], tuple[Tensor, Tensor]]
) -> None:
    """Masks of `marked_pictures` are those of the marks, and the objects are its decoys. Of a
    network that knows objects the same maps of the same pictures find the objects."""
    mark, thing = shares("marked_pictures", how)
    assert float((mark > thing).double().mean()) > 0.8 and float((mark - thing).mean()) > 0.1
    examples, objects = held_out("marked_pictures", CASES), make_pictures(CASES, 1)
    of_objects = replace(examples, labels=objects.labels)
    values = values_of(net_of("pictures"), of_objects, how, budget_of("pictures"))
    on_mark = energy_inside(values, examples.masks)
    on_thing = energy_inside(values, examples.decoys)
    assert float((on_thing - on_mark).mean()) > 0.1


def test_controls_know_nothing() -> None:
    examples = held_out("pictures", 60)
    share = float(examples.masks.double().mean())
    random = judged(uniform_maps(examples.masks.shape), examples.masks)
    assert float(random["energy"].mean()) == pytest.approx(share, rel=0.05)
    assert float(random["pointing"].mean()) < 3 * share
    centre = centre_maps(examples.masks.shape)
    assert torch.equal(centre, centre.flip(3)) and float(centre.amax()) == pytest.approx(
        1, abs=1e-2
    )
    assert float(judged(centre, examples.masks)["energy"].mean()) < 2 * share
    perfect = judged(examples.masks.double(), examples.masks)
    assert {name: float(values.mean()) for name, values in perfect.items()} == {
        name: 1.0 for name in perfect
    }


def test_all_maps_of_a_set_are_judged_together() -> None:
    examples, budget = held_out("tables", 6), budget_of("tables", 16)
    found = localisation(net_of("tables"), examples, budget)
    assert list(found) == [*names_of(budget), "random"] and "blur_ig" not in found
    for metrics in found.values():
        assert set(metrics) == set(command.HEADINGS)
        assert all(bool(((v >= 0) & (v <= 1)).all()) and v.shape == (6,) for v in metrics.values())


def test_the_command_prints_figures_and_draws_maps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="the gallery needs matplotlib")
    common = ["--no-progress", "--cache", str(tmp_path / "nets"), "--out", str(tmp_path / "out")]
    command.main(["--sets", "tables", "--examples", "4", "--evaluations", "16", *common])
    said = capsys.readouterr().out
    assert "## tables" in said and "| integrated gradients " in said and "is 8.3% of" in said
    assert (tmp_path / "out" / "gallery.png").stat().st_size > 10_000
    assert len(list((tmp_path / "nets").iterdir())) == 1
    with pytest.raises(SystemExit):
        command.main(["--sets", "rows", *common])
    assert "--sets must be among pictures" in capsys.readouterr().err
