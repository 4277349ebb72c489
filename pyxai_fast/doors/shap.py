"""shap draws our explanations: a `shap.Explanation` of one of ours."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..models.errors import MissingDependency
from ..models.target import select_target

if TYPE_CHECKING:
    from ..explanation import Explanation


def shap_explanation(explanation: Explanation) -> Any:
    """A `shap.Explanation` with the same numbers, for shap's plots.

    Base values are the scores from which attributions count, so that with the values they add up to
    the explained outputs, but for the completeness gap: of methods that report a gap, and of
    `kernel_shap` where each feature of a table is hidden by itself. Attributions of other methods
    add up to nothing, and have no base values; `waterfall` and `force` cannot draw those.

    Returns:
        Of tables [B, D] values [B, D], and [B, D, n] of n Targets. Of pictures [B, C, H, W] values
        [B, H, W, C, n], n = 1 for a single target, with channels last as shap has them. Other
        inputs keep their dimensions. Outputs are named by their classes where all rows have the
        same.

    Raises:
        TypeError: what is no explanation.
        ValueError: inputs are a tuple of tensors.
        MissingDependency: shap is not installed.
    """
    from ..explanation import Explanation

    if not isinstance(explanation, Explanation):
        raise TypeError(
            f"to_shap: explanation must be an Explanation, got {type(explanation).__name__}"
        )
    shap = _shap()
    inputs, maps, errors = explanation.inputs, explanation.attributions, explanation.standard_error
    if isinstance(inputs, tuple) or isinstance(maps, tuple) or isinstance(errors, tuple):
        raise ArgumentError("to_shap: inputs must be one tensor, got a tuple")
    base = _base_values(explanation, maps)
    names = _output_names(explanation)
    pictures = inputs.dim() == 4
    if explanation.n_targets is None and pictures:
        # shap writes names above pictures of several outputs alone.
        maps = maps[:, None]
        errors = None if errors is None else errors[:, None]
        base = None if base is None else base[:, None]
    several = explanation.n_targets is not None or pictures
    if not several:
        output_names: Any = None if names is None else names[0]
    else:
        output_names = names or [f"output {i + 1}" for i in range(maps.shape[1])]
    return shap.Explanation(
        _as_shap_has_it(maps, several, pictures),
        base_values=None if base is None else base.cpu().numpy(),
        data=_as_shap_has_it(inputs, False, pictures),
        feature_names=explanation.feature_names,
        output_names=output_names,
        error_std=None if errors is None else _as_shap_has_it(errors, several, pictures),
        compute_time=explanation.cost.seconds,
    )


def _shap() -> Any:
    try:
        return import_module("shap")
    except ImportError as error:
        raise MissingDependency("to_shap: shap is needed; run: pip install shap") from error


def _as_shap_has_it(maps: Tensor, several: bool, pictures: bool) -> Any:
    """[B, (n,) ...] with outputs last, and channels of pictures last but for those."""
    if several:
        maps = maps.movedim(1, -1)
    if pictures:
        maps = maps.movedim(1, 3)
    maps = maps.detach().cpu()
    return (maps.float() if maps.dtype in (torch.float16, torch.bfloat16) else maps).numpy()


def _base_values(explanation: Explanation, maps: Tensor) -> Tensor | None:
    """Scores that attributions count from, float64 [B], or [B, n] for Targets; None where they add
    up to nothing."""
    scores = _scores(explanation)
    total = maps.detach().double().flatten(scores.dim()).sum(scores.dim())
    if explanation.delta is not None:
        return scores - total + explanation.delta.detach().double()
    settings = explanation.settings
    by_itself = maps.dim() == scores.dim() + 1 and not (
        settings.get("feature_mask") or settings.get("segments")
    )
    return scores - total if explanation.method == "kernel_shap" and by_itself else None


def _scores(explanation: Explanation) -> Tensor:
    """The explained outputs, float64 [B], or [B, n] for Targets."""
    outputs, target = explanation.outputs.detach().double(), explanation.target
    batch = len(outputs)
    if target is None:
        return outputs.reshape(batch)
    if explanation.n_targets is None:
        return select_target(outputs, target.reshape(batch, -1))
    columns = [select_target(outputs, one.reshape(batch, -1)) for one in target.unbind(1)]
    return torch.stack(columns, 1)


def _output_names(explanation: Explanation) -> list[str] | None:
    """Of the explained classes, where all rows have the same and they are numbers."""
    target = explanation.target
    if target is None or len(target) == 0 or bool((target != target[:1]).any()):
        return None
    first = target[:1] if explanation.n_targets is None else target[0]
    if first.dim() != 1:
        return None
    known = explanation.class_names
    return [f"class {i}" if known is None else known[i] for i in first.tolist()]
