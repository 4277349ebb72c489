"""The rank op: insertion and deletion images, a chunk of steps from one ranking.

Source: Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box
Models" (2018), section 4.2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..reference.rank import below_steps
from .checks import check_batch
from .registry import define, fake_nothing
from .select import RULES, Rule, check_select, check_sets, fake_select, selected, vmap_select


def ranks_of(attributions: Tensor, descending: bool = True) -> Tensor:
    """The place of every feature in the order of its attribution: 0 comes first.

    One stable sort for each example: equal attributions keep their order in memory. NaN counts as
    the largest value, as in torch.sort.

    Args:
        attributions: [B, 1, H, W] to rank pixels, [B, C, H, W] or any [B, ...] to rank features.
        descending: whether the largest comes first.

    Returns:
        int32, shaped like the attributions: each example's are 0, 1, ..., one of each.

    Raises:
        TypeError: attributions are no floating-point tensor.
        ValueError: attributions are a scalar, or have more features than int32 can number.
    """
    check_batch("ranks_of", "attributions", attributions)
    features = attributions[:1].numel()
    if features >= 2**31:
        raise ValueError(
            f"ranks_of: attributions must have fewer than 2**31 features, got {features}"
        )
    return reference.ranks_of(attributions, descending)


def rank_mask(
    inputs: Tensor,
    base: Tensor | float,
    ranks: Tensor,
    steps: Tensor,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Inputs with the first features of a ranking replaced, ready to be fed to a model.

    Petsiuk, Das and Saenko (2018), section 4.2: the images of the deletion metric. Those of the
    insertion metric have inputs and base exchanged.

    ``out[s * B + b] = (base[b] where ranks[b] < steps[s, b] else inputs[b]) * scale + shift``

    The map and the rounding go before the choice, which moves bits: NaN and infinity are kept.

    Args:
        inputs: [B, ...], float16, bfloat16, float32 or float64, any strides.
        base: what replaces features, in the units of the inputs: a number, or a tensor shaped [],
            [1, ...] or [B, ...] on the inputs' device.
        ranks: int32 or int64, from `ranks_of`: shaped like the inputs, or with 1 in place of the
            batch (one ranking for all) or of dimension 1 (one for all channels of a pixel).
        steps: int64, [S] or [S, B]: how many features are replaced.
        scale, shift, dtype, memory_format, out: as in `mask_segments`.

    Returns:
        [S * B, ...], the steps outermost. Differentiable with respect to inputs and base.

    Raises:
        TypeError: an argument of a wrong type or dtype.
        ValueError: a shape, device, memory format or combination that does not fit. Messages name
            the argument, what it must be, and what was got.
    """
    op = "rank_mask"
    check_sets(op, "steps", steps, "[S] or [S, B]", torch.int64, inputs)
    inputs, base, dtype = check_select(
        op, inputs, ("base", base), ("ranks", ranks), scale, shift, dtype, memory_format, out,
        steps.shape[0],
    )  # fmt: skip
    if out is not None:
        torch.ops.pyxai_fast.rank_mask.out(inputs, base, ranks, steps, scale, shift, out=out)
        return out
    args = (inputs, base, ranks, steps, scale, shift, dtype, memory_format)
    return selected(op, *args)


# --- declarations --------------------------------------------------------------------------------


def _masked(*args: Any) -> Tensor:
    masked: Tensor = torch.ops.pyxai_fast.rank_mask.default(*args)
    return masked


def _from_inputs(ranks: Tensor, steps: Tensor) -> Tensor:
    return ~below_steps(ranks, steps)


RULES["rank_mask"] = Rule(_masked, _from_inputs, set_dims=1)


def _fake_masked(
    inputs: Tensor,
    base: Tensor,
    ranks: Tensor,
    steps: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format | None = None,
) -> Tensor:
    return fake_select(inputs, steps, dtype, memory_format)


def _vmap_masked(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
    return vmap_select("rank_mask", info.batch_size, in_dims, *args)


define(
    "rank_mask(Tensor inputs, Tensor base, Tensor ranks, Tensor steps, Tensor? scale=None, "
    "Tensor? shift=None, ScalarType? dtype=None, MemoryFormat? memory_format=None) -> Tensor",
    reference=reference.rank_mask,
    fake=_fake_masked,
    vmap=_vmap_masked,
)
define(
    "rank_mask.out(Tensor inputs, Tensor base, Tensor ranks, Tensor steps, "
    "Tensor? scale=None, Tensor? shift=None, *, Tensor(a!) out) -> ()",
    reference=reference.rank_mask_out,
    fake=fake_nothing,
)
