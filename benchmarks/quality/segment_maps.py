"""The maps that are compared where segments are hidden: what each is called, and how it is made.

All may evaluate the model equally often; a gradient counts as one evaluation. Methods that read
queries of the same kind read the same ones.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyxai_fast import IntegratedGradients, SmoothGrad
from pyxai_fast.distillation import LOSSES
from pyxai_fast.methods import KernelShap, Lime, PerturbationMethod, Rise
from pyxai_fast.methods.dax import DAX, StudentGradient
from pyxai_fast.metrics.centre import centre_maps
from pyxai_fast.models.black_box import BlackBox
from pyxai_fast.models.preprocessing import Preprocessing


@dataclass(frozen=True)
class Setup:
    """What is the same for all inputs.

    Attributes:
        model: as methods take it; preprocessing: of its inputs, where they are pixels.
        n_queries: evaluations of the model for a map.
        output: what the methods that ask explain, in [0, 1]; those that take gradients explain
            `gradient_output`.
        recipe: options of DAX whose networks see pixels, but for the loss.
        noise: standard deviation of SmoothGrad's noise, as a share of the range of the input.
    """

    model: Any
    n_queries: int
    preprocessing: Preprocessing | None = None
    output: str = "prob"
    gradient_output: str = "logit"
    recipe: dict[str, Any] = field(default_factory=dict)
    noise: float = 0.15


@dataclass(frozen=True)
class Case:
    """An input whose evidence is known.

    Attributes:
        name: of it.
        inputs: [1, C, H, W].
        target: the class that is explained.
        mask: bool [H, W], or [W] of a sound: where, or when, the evidence is.
        segments: int32 [1, 1, H, W].
        hidden: what stands for segments that are hidden, as methods take baselines.
        said: figures of the case itself, that are kept with the results.
        shown: [C, H, W] in [0, 1], how the input is drawn; None draws it as it is.
    """

    name: str
    inputs: Tensor
    target: int
    mask: Tensor
    segments: Tensor
    hidden: Any
    said: dict[str, Any] = field(default_factory=dict)
    shown: Tensor | None = None


@dataclass(frozen=True)
class Map:
    """Attributes:
    label: in tables.
    said: how it is made.
    drawn: whether it is different for every seed; others are made for the first one only.
    """

    label: str
    said: str
    drawn: bool = True


# As in the paper, with networks that see pixels.
OF_THE_PAPER = {f"dax_{loss}": loss for loss in LOSSES}
MAPS = {
    "dax": Map("DAX", "learnt mask, of networks that see segments"),
    **{
        name: Map(f"DAX, pixels ({loss})", "of networks that see pixels, with the loss in brackets")
        for name, loss in OF_THE_PAPER.items()
    },
    "student_gradient": Map("slope of DAX's student", "of segments"),
    "lime": Map("LIME", ""),
    "kernel_shap": Map("KernelSHAP", "queries of its own"),
    "rise": Map("RISE by segment", ""),
    "integrated_gradients": Map("integrated gradients", "from zero; sum over channels", False),
    "integrated_gradients_segments": Map(
        "integrated gradients by segment", "its mean over each segment", False
    ),
    "smooth_grad": Map("SmoothGrad", "absolute values, summed over channels", False),
    "smooth_grad_segments": Map("SmoothGrad by segment", "its mean over each segment", False),
    "random": Map("random", "control: a random value for each segment"),
    "centre": Map("centre", "control: a Gaussian at the centre, sigma a quarter of a side", False),
}
LABELS = {name: each.label for name, each in MAPS.items()}
CONTROLS = ("random", "centre")


class Made(NamedTuple):
    """A map [H, W] that is positive where something speaks for the target, the evaluations of the
    model that it took, and the seconds, those evaluations included."""

    values: Tensor
    evaluations: int
    seconds: float


Family = Callable[[Setup, Case, int, Set[str]], Iterator[tuple[str, Made]]]


def maps_of(setup: Setup, case: Case, seed: int, wanted: Set[str]) -> Iterator[tuple[str, Made]]:
    """The maps that are wanted, by name."""
    for names, made in FAMILIES.items():
        if wanted & set(names):
            yield from (
                (name, found) for name, found in made(setup, case, seed, wanted) if name in wanted
            )


def available(model: Any, names: Sequence[str]) -> tuple[str, ...]:
    """Of these maps, those of a model that only answers, which has no gradients, or all."""
    if not isinstance(model, BlackBox):
        return tuple(names)
    return tuple(name for name in names if not name.startswith(("integrated_", "smooth_")))


def by_segment(values: Tensor, segments: Tensor) -> Tensor:
    """A map [H, W] with the mean over its segment at each place; segments [..., H, W]."""
    labels = segments.long().flatten()
    sums = torch.bincount(labels, values.double().flatten())
    return (sums / torch.bincount(labels).clamp(min=1))[labels].view_as(values)


def answers(setup: Setup, case: Case, hidden: Any, n_queries: int, seed: int = 0) -> Tensor:
    """Scores of the target with segments hidden at random, float64 [n_queries - 2]."""
    asking = Rise(setup.model, output=setup.output, preprocessing=setup.preprocessing)
    queries = asking.queries(
        case.inputs, hidden, case.target, feature_mask=case.segments, n_queries=n_queries, seed=seed
    )
    return queries.scores[2:, 0]


def _asked_maps(
    setup: Setup, case: Case, seed: int, wanted: Set[str]
) -> Iterator[tuple[str, Made]]:
    common = {"output": setup.output, "preprocessing": setup.preprocessing}
    queries, asking = _timed(
        lambda: Rise(setup.model, **common).queries(
            case.inputs, case.hidden, case.target, feature_mask=case.segments,
            n_queries=setup.n_queries, seed=seed,
        )
    )  # fmt: skip

    def read(method: PerturbationMethod) -> Made:
        values, seconds = _timed(lambda: method.read(queries)[0, 0])
        return Made(values, len(queries), asking + seconds)

    yield "dax", read(DAX(setup.model, **common))
    yield "student_gradient", read(StudentGradient(setup.model, **common))
    for name, loss in OF_THE_PAPER.items():
        if name in wanted:
            yield name, read(DAX(setup.model, loss=loss, **setup.recipe, **common))
    yield "lime", read(Lime(setup.model, **common))
    yield "rise", read(Rise(setup.model, **common))


def _shapley_maps(
    setup: Setup, case: Case, seed: int, wanted: Set[str]
) -> Iterator[tuple[str, Made]]:
    method = KernelShap(setup.model, output=setup.output, preprocessing=setup.preprocessing)
    values, seconds = _timed(
        lambda: method.attribute(
            case.inputs, case.hidden, case.target, feature_mask=case.segments,
            n_queries=setup.n_queries, seed=seed,
        )
    )  # fmt: skip
    yield "kernel_shap", Made(values[0, 0], setup.n_queries, seconds)


def _path_maps(setup: Setup, case: Case, seed: int, wanted: Set[str]) -> Iterator[tuple[str, Made]]:
    method = IntegratedGradients(
        setup.model, output=setup.gradient_output, preprocessing=setup.preprocessing
    )
    values, seconds = _timed(
        lambda: method.attribute(case.inputs, target=case.target, n_steps=setup.n_queries)
    )
    made = Made(values[0].sum(0), setup.n_queries, seconds)
    yield "integrated_gradients", made
    yield "integrated_gradients_segments", _over_segments(made, case)


def _smooth_maps(
    setup: Setup, case: Case, seed: int, wanted: Set[str]
) -> Iterator[tuple[str, Made]]:
    method = SmoothGrad(
        setup.model, output=setup.gradient_output, preprocessing=setup.preprocessing
    )
    sigma = setup.noise * float(case.inputs.max() - case.inputs.min())
    values, seconds = _timed(
        lambda: method.attribute(
            case.inputs, target=case.target, n_samples=setup.n_queries, sigma=sigma, seed=seed
        )
    )
    made = Made(values[0].abs().sum(0), setup.n_queries, seconds)
    yield "smooth_grad", made
    yield "smooth_grad_segments", _over_segments(made, case)


def _random_maps(
    setup: Setup, case: Case, seed: int, wanted: Set[str]
) -> Iterator[tuple[str, Made]]:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{case.name} {seed}".encode()))
    labels = case.segments[0, 0].long().cpu()
    values = torch.rand(int(labels.max()) + 1, generator=generator)
    yield "random", Made(values[labels], 0, 0.0)


def _centre_maps(
    setup: Setup, case: Case, seed: int, wanted: Set[str]
) -> Iterator[tuple[str, Made]]:
    yield "centre", Made(centre_maps((1, 1, *case.inputs.shape[2:]))[0, 0], 0, 0.0)


FAMILIES: dict[tuple[str, ...], Family] = {
    ("random",): _random_maps,
    ("centre",): _centre_maps,
    ("dax", *OF_THE_PAPER, "student_gradient", "lime", "rise"): _asked_maps,
    ("kernel_shap",): _shapley_maps,
    ("integrated_gradients", "integrated_gradients_segments"): _path_maps,
    ("smooth_grad", "smooth_grad_segments"): _smooth_maps,
}


def _over_segments(made: Made, case: Case) -> Made:
    return made._replace(values=by_segment(made.values, case.segments))


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.perf_counter()
    found = call()
    return found, time.perf_counter() - begin
