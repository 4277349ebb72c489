"""DAX and its student's slope: what they find, what they refuse, and shared queries."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import pyxai_fast
from pyxai_fast import Cost, Targets
from pyxai_fast.distillation.views import SmallPictures
from pyxai_fast.errors import ArgumentError
from pyxai_fast.methods import DAX, KernelShap, Lime, Rise, StudentGradient

QUICK = dict(sees="pixels", student_size=32, filters=4, width=32)
SIZE, TILE = 64, 16
# Of each picture, row and column of the tile that decides.
PLANTED = ((1, 2), (2, 0))


def planted_pictures() -> Tensor:
    """Grey noise with one red tile."""
    pictures = 0.4 + 0.2 * torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    for picture, (row, column) in zip(pictures, PLANTED, strict=True):
        tile = picture[:, TILE * row : TILE * (row + 1), TILE * column : TILE * (column + 1)]
        tile.copy_(torch.tensor([0.9, 0.1, 0.2])[:, None, None].expand_as(tile))
    return pictures


def reddest_tile(rows: Tensor) -> Tensor:
    """Two classes: the first where there is a red tile."""
    red = (rows[:, 0] - rows[:, 1]).unfold(1, TILE, TILE).unfold(2, TILE, TILE).mean((3, 4))
    score = 10 * (red.amax((1, 2)) - 0.4)
    return torch.stack([score, -score], 1)


def tile_number(row: int, column: int) -> int:
    return row * (SIZE // TILE) + column


def share_within(maps: Tensor) -> list[float]:
    """Of each map's sum, what is in the planted tile, a 16th of the picture."""
    shares = []
    for one, (row, column) in zip(maps, PLANTED, strict=True):
        tile = one[:, TILE * row : TILE * (row + 1), TILE * column : TILE * (column + 1)]
        shares.append(float(tile.sum() / one.sum()))
    return shares


def half_red(rows: Tensor) -> Tensor:
    """Two classes: the first where the left half is more red than green, which grey never is."""
    left = rows[:, :, :, : rows.shape[-1] // 2].mean((2, 3))
    red = 8 * (left[:, 0] - left[:, 1])
    return torch.stack([red, -red], 1)


def small_pictures(batch: int = 2) -> Tensor:
    pictures = torch.rand(batch, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    pictures[:, 0] = 0.5 + pictures[:, 0] / 2
    return pictures


# --- what they find ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("answers", ["order", "log_odds", "stretched"])
def test_the_mask_is_where_the_black_box_looks(answers: str, seed: int) -> None:
    dax = DAX(reddest_tile, f"tiles:{TILE}", n_queries=300, answers=answers)
    masks = dax.attribute(planted_pictures(), target=0, seed=seed)
    # The tile is a 16th of the picture, and nothing else counts.
    assert min(share_within(masks[:, :1])) > 5 / 16
    for one, (row, column) in zip(masks[:, 0], PLANTED, strict=True):
        tiles = one.unfold(0, TILE, TILE).unfold(1, TILE, TILE).mean((2, 3)).flatten()
        at = tile_number(row, column)
        rest = tiles[torch.arange(len(tiles)) != at]
        assert tiles[at] > 0.9
        # Without it the second reddest is the reddest, by little: in order that is enough.
        assert rest.max() < 0.1 if answers != "order" else rest.sort().values[-2] < 0.1
    assert dax.distilled is not None and float(dax.distilled.held_out_error[-1].max()) < 0.2


@pytest.mark.parametrize("answers", ["order", "stretched"])
def test_the_students_slope_is_where_the_black_box_looks(answers: str) -> None:
    method = StudentGradient(reddest_tile, f"tiles:{TILE}", n_queries=240, answers=answers)
    queries = method.queries(planted_pictures(), target=0)
    slopes = method.read(queries, return_input_shape=False)
    assert slopes.argmax(1).tolist() == [tile_number(*place) for place in PLANTED]


def test_networks_that_see_pixels_learn_what_the_black_box_answers() -> None:
    """Where their masks are is another matter, of which nothing is promised."""
    method = StudentGradient(
        reddest_tile, f"tiles:{TILE}", n_queries=240, sees="pixels", filters=8, width=64, n_epochs=5
    )
    slopes = method.attribute(planted_pictures(), target=0)
    assert slopes.shape == (2, 3, SIZE, SIZE) and bool(slopes.isfinite().all())
    assert method.distilled is not None and method.distilled.masks.shape == (2, 1, 1, SIZE, SIZE)
    assert float(method.distilled.held_out_error[-1].max()) < 0.5


def test_a_mask_does_not_depend_on_the_inputs_beside_it() -> None:
    """Not even on how many segments these have."""
    pictures = planted_pictures()
    fine = torch.arange(64).view(8, 8).repeat_interleave(8, 0).repeat_interleave(8, 1)
    coarse = torch.arange(16).view(4, 4).repeat_interleave(16, 0).repeat_interleave(16, 1)
    segments = torch.stack([fine, coarse])[:, None].int()
    dax = DAX(reddest_tile, n_queries=120, n_epochs=8)
    both = dax.attribute(pictures, target=0, feature_mask=segments)
    for which in range(2):
        queries = dax.queries(pictures, target=0, feature_mask=segments).of_example(which)
        torch.testing.assert_close(dax.read(queries)[0], both[which], rtol=0, atol=1e-3)


def test_the_papers_losses_are_of_networks_that_see_pixels() -> None:
    pictures = small_pictures(1)
    for options, sees in (
        ({}, "segments"), ({"loss": "paper3"}, "pixels"), ({"sees": "pixels"}, "pixels"),
        ({"loss": "release", "sees": "segments"}, "segments"),
    ):  # fmt: skip
        dax = DAX(half_red, "tiles:4", n_queries=20, n_epochs=1, student_size=16, **options)
        dax.attribute(pictures, target=0)
        assert dax.distilled is not None and dax.distilled.recipe.sees == sees
    with pytest.raises(ArgumentError, match="DAX: sees must be segments, or None, for tables"):
        DAX(half_red, sees="pixels").attribute(torch.rand(2, 5), target=0)
    with pytest.raises(ArgumentError, match="DAX: sees must be one of segments, pixels"):
        DAX(half_red, sees="edges")


def test_a_mask_of_pictures_is_from_0_to_1_and_the_same_in_all_channels() -> None:
    maps = DAX(half_red, "tiles:4", n_queries=40, **QUICK).attribute(small_pictures(), target=0)
    assert maps.shape == (2, 3, 16, 16) and maps.dtype == torch.float32
    assert torch.equal(maps[:, :1].expand_as(maps), maps)
    assert torch.equal(maps.amin((1, 2, 3)), torch.zeros(2))
    assert torch.equal(maps.amax((1, 2, 3)), torch.ones(2))


def test_a_mask_is_zero_along_the_border() -> None:
    dax = DAX(half_red, "tiles:4", n_queries=40, border=3, **QUICK)
    maps = dax.attribute(small_pictures(), target=0)
    inner = torch.zeros(16, 16, dtype=torch.bool)
    inner[3:-3, 3:-3] = True
    assert bool((maps[..., ~inner] == 0).all()) and bool((maps[..., inner] > 0).any())


@pytest.mark.parametrize("sees", ["segments", "pixels"])
@pytest.mark.parametrize("kind", [DAX, StudentGradient])
def test_a_black_box_that_always_says_the_same_is_no_evidence(kind: type[DAX], sees: str) -> None:
    options = {**QUICK, "sees": sees}
    method = kind(lambda rows: rows.new_zeros(len(rows), 2), "tiles:4", n_queries=30, **options)
    with pytest.warns(UserWarning, match="no evidence for 2 of 2 maps"):
        maps = method.attribute(small_pictures(), target=0)
    assert torch.equal(maps, torch.zeros_like(maps))
    assert method.distilled is not None
    assert method.distilled.evidence.tolist() == [False, False]
    if sees == "segments":
        # There is nothing to learn, and what there is is learnt.
        assert float(method.distilled.training_loss[-1].max()) < 0.02


# --- whom they share queries with ----------------------------------------------------------------


def test_queries_of_another_method_are_read() -> None:
    pictures = small_pictures()
    dax = DAX(half_red, "tiles:4", **QUICK)
    queries = Rise(half_red, "tiles:4").queries(
        pictures, "segment_grey", target=0, n_queries=40, seed=5
    )
    maps = dax.attribute(pictures, target=0, n_queries=40, seed=5)
    assert torch.equal(dax.read(queries), maps)
    assert Lime(half_red).read(dax.queries(pictures, target=0, n_queries=40)).shape == maps.shape


def test_targets_share_the_queries() -> None:
    pictures, cost = small_pictures(), Cost()
    dax = DAX(half_red, "tiles:4", n_queries=40, **QUICK)
    both = dax.attribute(pictures, target=Targets(0, 1), cost=cost)
    assert both.shape == (2, 2, 3, 16, 16) and cost.queries == 2 * 40
    assert dax.distilled is not None and dax.distilled.masks.shape == (2, 2, 1, 16, 16)
    for position, target in enumerate((0, 1)):
        alone = dax.attribute(pictures, target=target)
        torch.testing.assert_close(both[:, position], alone, rtol=0, atol=1e-2)


def test_a_call_may_ask_more_or_less_than_the_method_says() -> None:
    dax = DAX(half_red, "tiles:4", n_queries=40, **QUICK)
    for options, count in (({}, 40), ({"n_queries": 30}, 30)):
        cost = Cost()
        dax.attribute(small_pictures(1), target=0, cost=cost, **options)
        assert cost.queries == count
    assert DAX(half_red).n_queries == 3000


def test_it_is_a_method_of_the_front_door() -> None:
    explanation = pyxai_fast.explain(
        half_red, small_pictures(), method="dax", segments="tiles:4", n_queries=30, **QUICK
    )
    assert isinstance(explanation.attributions, Tensor)
    assert explanation.attributions.shape == (2, 3, 16, 16)
    assert explanation.delta is None and explanation.cost.queries >= 60
    assert explanation.settings["n_queries"] == 30 and explanation.settings["output"] == "prob"


# --- what is seen --------------------------------------------------------------------------------


def test_the_networks_see_pictures_from_0_to_255_at_the_students_size() -> None:
    pictures = 3 * torch.rand(2, 3, 40, 60) - 1
    queries = DAX(half_red, "tiles:10").queries(pictures, target=0, n_queries=12)
    view = SmallPictures(queries, 30)
    assert view.shape == (3, 20, 30)
    whole = view(slice(0, 1))[:, 0]
    torch.testing.assert_close(whole.flatten(1).amin(1), torch.zeros(2), rtol=0, atol=1e-3)
    torch.testing.assert_close(whole.flatten(1).amax(1), torch.full((2,), 255.0))
    # Segments are hidden as in the large pictures, but for what mixes where they meet.
    large = functional.interpolate(queries.masked(slice(0, 12)), (20, 30), mode="area")
    hidden = large.unflatten(0, (12, 2)).transpose(0, 1)
    inside = torch.zeros(20, 30, dtype=torch.bool)
    inside[2::5, 2::5] = True
    low = small(pictures).flatten(1).amin(1).view(-1, 1, 1, 1, 1)
    span = small(pictures).flatten(1).amax(1).view(-1, 1, 1, 1, 1) - low
    seen, wanted = view(slice(0, 12)), 255 * (hidden - low) / span
    grey = ~queries.kept().bool()[:, :, 0]
    torch.testing.assert_close(seen[grey][..., 2, 2], wanted[grey][..., 2, 2], rtol=1e-3, atol=0.5)


def small(pictures: Tensor) -> Tensor:
    return functional.interpolate(
        pictures, (20, 30), mode="bilinear", align_corners=False, antialias=True
    )


def test_a_transform_says_what_is_seen() -> None:
    dax = DAX(half_red, "tiles:4", n_queries=30, transform=lambda rows: rows.mean(1, True), **QUICK)
    maps = dax.attribute(small_pictures(), target=0)
    assert dax.distilled is not None and dax.distilled.networks[0].view.shape == (1, 16, 16)
    # Nothing is known of what is at its edges, so that they count.
    assert bool((maps[:, :, 0] > 0).any())


# --- what they refuse ----------------------------------------------------------------------------


def test_what_cannot_be_used_is_refused_in_words() -> None:
    with pytest.raises(ArgumentError, match=r"DAX: output must be prob or logit, .* 'margin'"):
        DAX(half_red, output="margin")
    with pytest.raises(ArgumentError, match="DAX: n_queries must be an integer >= 3, got 2"):
        DAX(half_red, n_queries=2)
    with pytest.raises(ArgumentError, match=r"DAX: inputs must be pictures .* got \[2, 3, 4\]"):
        DAX(half_red).attribute(torch.rand(2, 3, 4), target=0)
    with pytest.raises(ArgumentError, match=r"DAX: the model's answers must be in \[0, 1\]"):
        DAX(lambda rows: 9 * half_red(rows), "tiles:4", output="logit").attribute(
            small_pictures(), target=0, n_queries=20
        )
    with pytest.raises(ArgumentError, match=r"DAX: transform must give \[R, C, 16, 16\]"):
        DAX(half_red, "tiles:4", sees="pixels", transform=lambda rows: rows[..., :8]).attribute(
            small_pictures(), target=0, n_queries=20
        )
    queries = KernelShap(half_red, "tiles:4").queries(small_pictures(), target=0, n_queries=30)
    with pytest.raises(ArgumentError, match=r"DAX: queries must be .* bernoulli, got shapley"):
        DAX(half_red).read(queries)
