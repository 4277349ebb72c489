"""What maps are judged by: what each metric says, which way is good, and what it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import ArgumentError, is_one_of, near
from ..metrics.complexity import complexity, sparseness
from ..metrics.curve import Curve
from ..metrics.diffid import diffid
from ..metrics.faithfulness import faithfulness_correlation
from ..metrics.infidelity import infidelity
from ..metrics.information_curves import (
    InformationCurves,
    check_askable,
    performance_information,
)
from ..metrics.insertion_deletion import deletion, insertion
from ..metrics.localisation import best_iou, energy_inside, iou, iou_area, pointing_game
from ..metrics.road import Road, road
from ..metrics.sensitivity import max_sensitivity

# Pixels of a subset, as usual; of small pictures a quarter of all.
SUBSET = 224
# Points of the information curves that are kept of each picture.
INFORMATION_POINTS = 50


@dataclass(frozen=True)
class Question:
    """Maps of one method, for a batch of pictures, that are to be judged.

    Attributes:
        model: as metrics ask it.
        inputs: [B, C, H, W].
        maps: [B, C, H, W] or [B, 1, H, W], finite; their sizes where sizes are to be judged.
        target: int64 [B].
        explain: what made the maps, of other inputs [B, C, H, W]; None where it does not look at
            them.
        masks: bool [B, 1, H, W], where something is known to matter; None where there are none.
        gap: [B], of completeness, relative to the difference of the scores; None where the method
            promises none.
        seed: of all random numbers.
        output: the score that slopes are of, in metrics that compare with them.
        asking: what metrics that ask the model take besides: preprocessing, select_output, cost,
            numbers.
    """

    model: Any
    inputs: Tensor
    maps: Tensor
    target: Tensor
    explain: Callable[[Tensor], Tensor] | None
    masks: Tensor | None = None
    gap: Tensor | None = None
    seed: int = 0
    output: str = "logit"
    asking: Mapping[str, Any] = field(default_factory=dict)

    @property
    def of_maps(self) -> tuple[Any, Tensor, Tensor, Tensor]:
        """What metrics that ask the model take first."""
        return self.model, self.inputs, self.maps, self.target

    def unknown(self) -> Tensor:
        """NaN for each picture."""
        return torch.full((len(self.inputs),), torch.nan, dtype=torch.float64)


class Found(NamedTuple):
    """Values [B], and the curve that they are the area of, if they are."""

    values: Tensor
    curve: Curve | None = None


@dataclass(frozen=True)
class Metric:
    """A number for each map.

    Attributes:
        meaning: in one line.
        large_is_good: None where neither is.
        ask: what is found of a question. Metrics with the same `ask` share what it gives.
        read: the numbers, from that.
        ordered: whether signed maps and their sizes are judged differently.
        needs_masks: whether it needs to be told where something matters.
        along, across: the axes of its curve, if there is one.
        base: 0 or -1, the point of the curve at which nothing is left of the picture; None where
            there is none.
        parts: further metrics that are read from the same answers, and come along.
        part: whether it is one of these, and stands in no headline.
        check: called as check(op, inputs), refuses pictures that it cannot judge, before any map is
            made of them; None where it judges all.
    """

    meaning: str
    large_is_good: bool | None
    ask: Callable[[Question], Any]
    read: Callable[[Any], Found] = Found
    ordered: bool = False
    needs_masks: bool = False
    along: str | None = None
    across: str = "probability of the class"
    base: int | None = None
    parts: tuple[str, ...] = ()
    part: bool = False
    check: Callable[[str, Tensor], None] | None = None

    @property
    def good(self) -> str:
        """Which way is good, in words."""
        if self.large_is_good is None:
            return "neither is good by itself"
        return "large is good" if self.large_is_good else "small is good"


# --- what is asked -------------------------------------------------------------------------------


def _insertion(question: Question) -> Curve:
    return insertion(*question.of_maps, **question.asking)


def _deletion(question: Question) -> Curve:
    return deletion(*question.of_maps, **question.asking)


def _road(question: Question) -> Road:
    return road(*question.of_maps, seed=question.seed, **question.asking)


def _information(question: Question) -> InformationCurves:
    return performance_information(
        *question.of_maps, seed=question.seed, n_points=INFORMATION_POINTS, **question.asking
    )


def _diffid(question: Question) -> Tensor:
    return diffid(*question.of_maps, **question.asking)


def _faithfulness(question: Question) -> Tensor:
    pixels = question.inputs[0, 0].numel()
    return faithfulness_correlation(
        question.model,
        question.inputs,
        # Of pixels: whatever the channels of a map, subsets are as large in the picture.
        question.maps.double().sum(1, keepdim=True),
        question.target,
        subset_size=max(1, min(SUBSET, pixels // 4)),
        seed=question.seed,
        **question.asking,
    )


def _infidelity(question: Question) -> Tensor:
    return infidelity(
        question.model,
        question.inputs,
        question.maps.expand_as(question.inputs),
        question.target,
        normalise=True,
        seed=question.seed,
        output=question.output,
        **question.asking,
    )


def _sensitivity(question: Question) -> Tensor:
    if question.explain is None:  # what never changes is not good for that
        return question.unknown()
    numbers = question.asking.get("numbers")
    return max_sensitivity(question.explain, question.inputs, seed=question.seed, numbers=numbers)


def _gap(question: Question) -> Tensor:
    return question.unknown() if question.gap is None else question.gap


def _inside(measure: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Question], Tensor]:
    """Of the pictures that have a mask with something in it."""

    def ask(question: Question) -> Tensor:
        found, masks = question.unknown(), question.masks
        if masks is not None:
            some = masks.flatten(1).any(1)
            if bool(some.any()):
                found[some.cpu()] = measure(question.maps[some], masks[some]).cpu()
        return found

    return ask


# --- what is read --------------------------------------------------------------------------------


def _area(curve: Curve) -> Found:
    return Found(curve.area, curve)


def _road_difference(found: Road) -> Found:
    return Found(found.least_first.area - found.most_first.area)


METRICS: dict[str, Metric] = {
    "insertion": Metric(
        "mean probability of the class as pixels, the highest ranked first, come into a blurred "
        "picture",
        True,
        _insertion,
        _area,
        ordered=True,
        along="share of pixels inserted",
        base=0,
    ),
    "deletion": Metric(
        "mean probability of the class as pixels, the highest ranked first, become 0 (black, where "
        "pixels are in [0, 1])",
        False,
        _deletion,
        _area,
        ordered=True,
        along="share of pixels deleted",
        base=-1,
    ),
    "road": Metric(
        "how much more of the class is left when the lowest ranked pixels are imputed from their "
        "neighbours than when the highest ranked are",
        True,
        _road,
        _road_difference,
        ordered=True,
        parts=("road_most_first", "road_least_first"),
    ),
    "road_most_first": Metric(
        "mean probability of the class as pixels, the highest ranked first, are imputed",
        False,
        _road,
        lambda found: _area(found.most_first),
        ordered=True,
        along="share of pixels imputed, highest ranked first",
        part=True,
    ),
    "road_least_first": Metric(
        "mean probability of the class as pixels, the lowest ranked first, are imputed",
        True,
        _road,
        lambda found: _area(found.least_first),
        ordered=True,
        along="share of pixels imputed, lowest ranked first",
        part=True,
    ),
    "sic": Metric(
        "mean score as the highest ranked pixels come into a blurred picture, over the bytes that "
        "it takes; of pictures that the model is sure of",
        True,
        _information,
        lambda found: _area(found.sic),
        ordered=True,
        along="share of the information",
        across="share of the score",
        check=check_askable,
    ),
    "aic": Metric(
        "the same, of whether the class comes first",
        True,
        _information,
        lambda found: _area(found.aic),
        ordered=True,
        along="share of the information",
        across="share that is right",
        check=check_askable,
    ),
    "diffid": Metric(
        "how much more often the class stays first when what ranks lowest by size is replaced by a "
        "mean than when what ranks highest is",
        True,
        _diffid,
    ),
    "faithfulness_correlation": Metric(
        "correlation of what a map gives random pixels with what the class loses when they become "
        "0 (black, where pixels are in [0, 1])",
        True,
        _faithfulness,
    ),
    "infidelity": Metric(
        "squared error with which a map, scaled as suits it best, tells what a little noise does "
        "to the score that is asked for (output), or else the logit; a question about slopes, "
        "which maps of shares do not answer",
        False,
        _infidelity,
    ),
    "max_sensitivity": Metric(
        "largest relative change of a map as the picture changes by less than 0.02",
        False,
        _sensitivity,
    ),
    "completeness_gap": Metric(
        "how far attributions are from adding up to the difference of the scores, relative to it; "
        "of methods that promise it",
        False,
        _gap,
    ),
    "complexity": Metric(
        "entropy, in nats, of the shares that features have in a map: small where few have most",
        None,
        lambda question: complexity(question.maps),
    ),
    "sparseness": Metric(
        "Gini index of the sizes in a map: large where few features have most of it",
        None,
        lambda question: sparseness(question.maps),
    ),
    "pointing_game": Metric(
        "how often the hottest pixel is inside the mask",
        True,
        _inside(pointing_game),
        ordered=True,
        needs_masks=True,
    ),
    "iou": Metric(
        "overlap, intersection over union, of the mask and what is hotter than a fifth of the "
        "hottest pixel",
        True,
        _inside(iou),
        ordered=True,
        needs_masks=True,
    ),
    "iou_area": Metric(
        "the same overlap, averaged over all thresholds",
        True,
        _inside(iou_area),
        ordered=True,
        needs_masks=True,
    ),
    "best_iou": Metric(
        "the same overlap, at the threshold that suits each map best",
        True,
        _inside(best_iou),
        ordered=True,
        needs_masks=True,
    ),
    "energy_inside": Metric(
        "share of the sum of what is positive in a map that is inside the mask",
        True,
        _inside(energy_inside),
        ordered=True,
        needs_masks=True,
    ),
}

DEFAULT = ("insertion", "deletion", "road")
LOCALISATION = tuple(name for name, metric in METRICS.items() if metric.needs_masks)


def chosen(names: str | Sequence[str], with_masks: bool) -> tuple[str, ...]:
    """The metrics of a comparison: those that are asked for, with their parts; and where there are
    masks, and none of these needs them, those of localisation.

    Raises:
        TypeError: what is no names.
        ArgumentError: a name that is none, or one that needs masks where there are none.
    """
    if not isinstance(names, (str, Iterable)) or isinstance(names, Tensor):
        raise TypeError(f"evaluate: metrics must be names, got {type(names).__name__}")
    asked = (names,) if isinstance(names, str) else tuple(names)
    if not asked:
        raise ArgumentError("evaluate: metrics must name at least one, got none")
    for name in asked:
        if not is_one_of(name, METRICS):
            raise ArgumentError(
                f"evaluate: metrics must be among {', '.join(METRICS)}, got {name!r}"
                f"{near(str(name), METRICS)}"
            )
        if METRICS[name].needs_masks and not with_masks:
            raise ArgumentError(f"evaluate: masks must be given for {name}, got none")
    if with_masks and not set(asked) & set(LOCALISATION):
        asked += LOCALISATION
    return tuple(dict.fromkeys(one for name in asked for one in (name, *METRICS[name].parts)))


def check_pictures(names: Iterable[str], inputs: Tensor) -> None:
    """Refuses pictures [B, C, H, W] that one of some metrics cannot judge.

    Raises:
        TypeError, ValueError: naming the metric, what it takes and what it gets.
        ImportError: a package that it needs is not installed.
    """
    for name in names:
        check = METRICS[name].check
        if check is not None:
            check(f"evaluate: {name}", inputs)
