"""By how much maps change as their inputs hardly do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..errors import ArgumentError
from ..front_door import explain as explain_by_name
from ..models.input_numbers import numbers_of
from .asked import check_count, check_inputs, check_size, random_key, samples_of
from .perturbed_model import returned_maps

# Of the random numbers; see the streams of paths, gradients and queries.
STREAM = 2**15 + 2**13 + 2

# Called as explain(inputs) on [B, ...]; returns attributions [B, ...].
ExplainInputs = Callable[[Tensor], Any]


def max_sensitivity(
    explain: ExplainInputs | str,
    inputs: Tensor,
    *,
    radius: float = 0.02,
    n_samples: int = 10,
    norm: float = 2.0,
    seed: int = 0,
    noise: Tensor | None = None,
    numbers: Sequence[int] | None = None,
    model: Any = None,
    target: Any = None,
    **options: Any,
) -> Tensor:
    """The largest change of a map, relative to its length, as noise is added to the input.

    ``max over e of |A(x + e) - A(x)| / |A(x)|``, e uniform in the cube of this radius: Yeh et al.,
    "On the (In)fidelity and Sensitivity of Explanations" (2019), section 3, estimated by samples
    and relative, as captum has it. A map of zeros counts as one of length 1.

    Args:
        explain: called as explain(inputs) on all inputs [B, ...], once as they are and once for
            each sample, it returns attributions [B, ...] as a tensor or an array, drawing no
            numbers that differ from call to call; or the name of a method of `pyxai_fast.explain`,
            which gets the model, the target and the options.
        inputs: floating-point [B, ...], with at least one input.
        radius: in the units of the inputs.
        n_samples: of the noise.
        norm: p of the length of maps, ``(sum |A_i|^p)^(1/p)``, at least 1; infinity is the largest.
        seed: of the noise, with the inputs' numbers: counter-based, the same on every device.
        noise: [n_samples, B, ...] or [n_samples, 1, ...], added instead of what is drawn.
        numbers: of the inputs, as in `Asked`; those of a method by name too.
        model: that a method by name explains.
        target: a class, or [B] of them, for a method by name; None explains what the model predicts
            for the inputs as they are, at every sample.
        options: of the method that `explain` names, and of `pyxai_fast.explain`.

    Returns:
        float64 [B]; small is good.

    Raises:
        TypeError, ValueError: naming the argument, what it must be and what it is.
    """
    op = "max_sensitivity"
    check_inputs(op, inputs)
    inputs = inputs.detach()
    drawn: Callable[[int], Tensor]
    if noise is None:
        check_count(op, "n_samples", n_samples)
        check_size(op, "radius", radius)
        drawn = _uniform(inputs, radius, seed, numbers_of(op, numbers, len(inputs)))
    else:
        given = samples_of(op, "noise", noise, inputs)
        n_samples, drawn = len(given), given.__getitem__
    if isinstance(norm, bool) or not isinstance(norm, (int, float)) or not norm >= 1:
        raise ArgumentError(f"{op}: norm must be a number >= 1, got {norm!r}")
    if numbers is not None and isinstance(explain, str):
        options["numbers"] = numbers
    maps, of = _explained(op, explain, inputs, model, target, options)
    largest = torch.zeros(len(inputs), dtype=torch.float64, device=maps.device)
    for sample in range(n_samples):
        moved = of(inputs + drawn(sample))
        change = torch.linalg.vector_norm(moved - maps, norm, dim=1)
        largest = torch.maximum(largest, change)
    length = torch.linalg.vector_norm(maps, norm, dim=1)
    return largest / torch.where(length == 0, 1.0, length)


def _explained(
    op: str,
    explain: ExplainInputs | str,
    inputs: Tensor,
    model: Any,
    target: Any,
    options: dict[str, Any],
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The maps of the inputs, float64 [B, D], and what makes those of inputs like them."""
    ask: ExplainInputs
    if isinstance(explain, str):
        if model is None:
            raise TypeError(f"{op}: model must be given with a method's name, got None")
        asking = {"method": explain, **options}
        found = explain_by_name(model, inputs, target=target, **asking)
        own, chosen = found.attributions, found.target

        def by_name(changed: Tensor) -> Any:
            return explain_by_name(model, changed, target=chosen, **asking).attributions

        ask = by_name
    else:
        if not callable(explain):
            kind = type(explain).__name__
            raise TypeError(f"{op}: explain must be callable or a method's name, got {kind}")
        not_its = {"model": model, "target": target, **options}
        if names := [name for name, value in not_its.items() if value is not None]:
            raise TypeError(
                f"{op}: {', '.join(names)} must be given to explain itself where it is a callable"
            )
        own, ask = explain(inputs), explain

    def of(changed: Tensor) -> Tensor:
        return _flat(op, ask(changed), len(inputs))

    return _flat(op, own, len(inputs)), of


def _flat(op: str, made: Any, batch: int) -> Tensor:
    return returned_maps(op, made, batch).flatten(1).double()


def _uniform(inputs: Tensor, radius: float, seed: int, numbers: Tensor) -> Callable[[int], Tensor]:
    key = random_key("max_sensitivity", seed, STREAM, inputs.device)
    numbers = numbers.to(inputs.device)
    zeros = torch.zeros_like(inputs)

    def draw(sample: int) -> Tensor:
        normal = ops.perturb(zeros, 1, 1.0, key, first_sample=sample, examples=numbers)
        # The distribution function of a normal number is uniform; this is it from -1 to 1.
        uniform: Tensor = torch.special.erf(normal / 2**0.5)
        return radius * uniform

    return draw
