"""Whether attributions tell what small changes of the input do to the score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..errors import ArgumentError, check_bool
from .asked import Asked, check_attributions, check_count, check_size, random_key, samples_of

# Of the random numbers; see the streams of paths, gradients and queries.
STREAM = 2**15 + 2**13 + 1

# Called as perturb(rows) on rows [R, ...] of inputs, it returns what each attribution is multiplied
# by, and the changed rows, both [R, ...]: captum's convention.
Perturb = Callable[[Tensor], tuple[Any, Any]]


def infidelity(
    model: Any,
    inputs: Tensor,
    attributions: Tensor,
    target: Any = None,
    *,
    perturbations: float | Tensor | Perturb = 0.1,
    n_samples: int = 10,
    seed: int = 0,
    normalise: bool = False,
    output: str = "logit",
    **asking: Any,
) -> Tensor:
    """The expected squared difference of what attributions foretell and what happens.

    ``mean over I of (I . A - (s(x) - s(x - I)))^2``: Yeh et al., "On the (In)fidelity and
    Sensitivity of Explanations" (2019), section 2.

    Attributions that are slopes are multiplied by the perturbation itself. Those that are shares of
    the score, as slopes times the way from a baseline x', are multiplied by I / (x - x'), which a
    function has to say; captum's `infidelity_perturb_func_decorator` makes one.

    Args:
        model, inputs, target: as in `Asked`, and so is `asking`.
        attributions: shaped as the inputs.
        perturbations: the standard deviation of Gaussian noise, in the units of the inputs; or the
            perturbations I themselves, [n_samples, B, ...] or [n_samples, 1, ...]; or a function
            as captum takes it: called with rows [R, ...], copies of inputs, it returns what
            attributions are multiplied by and the changed rows, both [R, ...].
        n_samples: perturbations of each input.
        seed: of the noise, with the inputs' numbers: counter-based, the same on every device and in
            any chunks.
        normalise: multiply each map by the number that makes its infidelity least, so that its
            scale does not matter (captum's `normalize`).
        output: that the attributions are of.

    Returns:
        float64 [B]; small is good.

    Raises:
        TypeError, ValueError: naming the argument, what it must be and what it is.
    """
    op = "infidelity"
    check_bool(op, "normalise", normalise)
    asked = Asked(op, model, inputs, target, output=output, **asking)
    maps = check_attributions(op, attributions, asked.inputs).double()
    if maps.shape != inputs.shape:
        raise ArgumentError(
            f"{op}: attributions must be shaped as the inputs, {list(inputs.shape)}, got "
            f"{list(maps.shape)}"
        )
    if isinstance(perturbations, Tensor):
        besides = "a number, a function, or "
        perturbations = samples_of(op, "perturbations", perturbations, asked.inputs, besides)
        perturbations = perturbations.expand(-1, len(inputs), *inputs.shape[1:])
        n_samples = len(perturbations)
    check_count(op, "n_samples", n_samples)
    perturb = _perturbed(asked, perturbations, seed)
    foretold = maps.new_empty(n_samples, len(inputs))

    def rows(examples: slice, steps: slice) -> Tensor:
        factors, changed = perturb(examples, steps)
        told = factors.view(-1, *maps[examples].shape).double() * maps[examples]
        foretold[steps, examples] = told.flatten(2).sum(2)
        return asked.model_inputs(changed)

    falls = asked.clean - asked.scores(n_samples, rows, "perturbed")
    if normalise:
        squares = foretold.square().sum(0)
        foretold = foretold * ((foretold * falls).sum(0) / torch.where(squares > 0, squares, 1.0))
    return (foretold - falls).square().mean(0)


def _perturbed(
    asked: Asked, perturbations: Any, seed: int
) -> Callable[[slice, slice], tuple[Tensor, Tensor]]:
    """What gives, for some examples and samples, factors of attributions and changed rows."""
    op, inputs = asked.op, asked.inputs
    if isinstance(perturbations, Tensor):
        given = perturbations

        def subtract(examples: slice, samples: slice) -> tuple[Tensor, Tensor]:
            some = given[samples, examples]
            return some.flatten(0, 1), (inputs[examples] - some).flatten(0, 1)

        return subtract
    if callable(perturbations):
        function = perturbations

        def ask(examples: slice, samples: slice) -> tuple[Tensor, Tensor]:
            count = samples.stop - samples.start
            rows = inputs[examples].repeat(count, *[1] * (inputs.dim() - 1))
            return _pair(op, function(rows), rows.shape)

        return ask
    check_size(op, "perturbations", perturbations)
    sigma, key = float(perturbations), random_key(op, seed, STREAM, inputs.device)

    def draw(examples: slice, samples: slice) -> tuple[Tensor, Tensor]:
        count = samples.stop - samples.start
        some = inputs[examples]
        numbers = asked.numbers[examples]
        changed = ops.perturb(some, count, sigma, key, first_sample=samples.start, examples=numbers)
        # What the model sees, with its rounding.
        return some.repeat(count, *[1] * (some.dim() - 1)) - changed, changed

    return draw


def _pair(op: str, made: Any, shape: torch.Size) -> tuple[Tensor, Tensor]:
    if isinstance(made, tuple) and len(made) == 2:
        # captum's decorator returns two tuples, of a tensor for each tensor of inputs.
        factors, changed = (
            part[0] if isinstance(part, tuple) and len(part) == 1 else part for part in made
        )
        if isinstance(factors, Tensor) and isinstance(changed, Tensor):
            if factors.shape == shape and changed.shape == shape:
                return factors.detach(), changed.detach()
            got: Any = [list(factors.shape), list(changed.shape)]
        else:
            got = f"{type(factors).__name__} and {type(changed).__name__}"
    else:
        got = type(made).__name__
    raise ArgumentError(
        f"{op}: perturbations must return two tensors {list(shape)}, what attributions are "
        f"multiplied by and the changed rows, got {got}"
    )
