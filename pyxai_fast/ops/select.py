"""What the ops share that choose model inputs from two sources: `mask_segments` and `rank_mask`.

Both take inputs, another source, labels (segments or ranks), and sets of labels for the steps
(coalitions or ends of the ranking), each set for all examples or for one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..reference.path import by_channel, compute_dtype
from .batching import folded_rows, mapped_first, refuse_mapped
from .checks import (
    check_affine,
    check_batch,
    check_floating,
    check_pixels,
    check_rows,
    check_same_device,
    check_together,
    check_whole,
    check_written,
    common_dtype,
    rows_tensor,
)


class Rule(NamedTuple):
    """How an op is called, and which features it takes from the inputs."""

    op: Callable[..., Tensor]  # inputs, other, labels, sets, scale, shift, dtype, memory_format
    from_inputs: Callable[[Tensor, Tensor], Tensor]  # labels, sets -> bool [S, 1|B, 1|C, ...]
    set_dims: int  # dimensions of sets [S, ...] for all examples; one more, [S, B, ...], for each


RULES: dict[str, Rule] = {}  # by the op's name


def check_select(
    op: str,
    inputs: Tensor,
    other: tuple[str, Tensor | float],
    labels: tuple[str, Tensor],
    scale: Tensor | None,
    shift: Tensor | None,
    dtype: torch.dtype | None,
    memory_format: torch.memory_format | None,
    out: Tensor | None,
    steps: int,
) -> tuple[Tensor, Tensor, torch.dtype | None]:
    """Inputs and the other source in their common type, and the type to write."""
    check_batch(op, "inputs", inputs)
    rows = rows_tensor(op, *other, inputs)
    check_floating(op, other[0], rows)
    check_rows(op, other[0], rows, inputs)
    check_whole(op, *labels, (torch.int32, torch.int64))
    check_pixels(op, *labels, inputs)
    check_affine(op, inputs, scale, shift)
    check_together(op, scale, shift)
    check_written(op, inputs, steps * inputs.shape[0], dtype, memory_format, out)
    common = common_dtype(inputs, rows)
    if common != inputs.dtype:
        dtype = dtype or inputs.dtype
        inputs = inputs.to(common)
    return inputs, rows.to(common), dtype


def check_sets(
    op: str, name: str, sets: Tensor, shape: str, dtype: torch.dtype, inputs: Tensor
) -> None:
    """Sets of labels [S, ...] for all examples, or [S, B, ...] for each."""
    check_whole(op, name, sets, (dtype,))
    check_batch(op, "inputs", inputs)
    check_same_device(op, name, sets, inputs)
    dims, batch = RULES[op].set_dims, inputs.shape[0]
    if sets.dim() not in (dims, dims + 1) or (sets.dim() > dims and sets.shape[1] != batch):
        raise ValueError(f"{op}: {name} must have shape {shape}, B = {batch}, got "
                         f"{list(sets.shape)}")  # fmt: skip


def selected(op: str, *args: Any) -> Tensor:
    """The op of a Rule, differentiable with respect to the inputs and the other source."""
    if not torch.is_grad_enabled():
        return RULES[op].op(*args)
    function = _Selected if torch.compiler.is_compiling() else _SelectedWithTangent
    result: Tensor = function.apply(op, *args)
    return result


# See ops/path.py for why this is an autograd.Function, and why forward mode is a subclass.
class _Selected(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        op: str,
        inputs: Tensor,
        other: Tensor,
        labels: Tensor,
        sets: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
        dtype: torch.dtype | None,
        memory_format: torch.memory_format | None,
    ) -> Tensor:
        return RULES[op].op(inputs, other, labels, sets, scale, shift, dtype, memory_format)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.op, ctx.dtype, ctx.memory_format = inputs[0], *inputs[7:]
        ctx.save_for_backward(*inputs[1:6])
        ctx.save_for_forward(*inputs[1:6])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, other, labels, sets, scale = ctx.saved_tensors
        grad = grad.unflatten(0, (sets.shape[0], inputs.shape[0])).to(compute_dtype(inputs.dtype))
        if scale is not None:
            grad = grad * by_channel(scale, inputs, grad.dtype)
        taken = RULES[ctx.op].from_inputs(labels, sets)
        grad_inputs = grad_other = None
        if ctx.needs_input_grad[1]:
            grad_inputs = torch.where(taken, grad, 0).sum(0).to(inputs.dtype)
        if ctx.needs_input_grad[2]:
            total = torch.where(taken, 0, grad).sum(0)
            grad_other = total.sum_to_size(other.shape).to(other.dtype)
        return None, grad_inputs, grad_other, *[None] * 6


class _SelectedWithTangent(_Selected):
    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        inputs, other, labels, sets, scale = ctx.saved_tensors
        along_inputs, along_other = tangents[1:3]
        return RULES[ctx.op].op(
            torch.zeros_like(inputs) if along_inputs is None else along_inputs,
            torch.zeros_like(other) if along_other is None else along_other,
            labels,
            sets,
            scale,
            None if scale is None else torch.zeros_like(scale),
            ctx.dtype or inputs.dtype,
            ctx.memory_format,
        )


def fake_select(
    inputs: Tensor,
    sets: Tensor,
    dtype: torch.dtype | None,
    memory_format: torch.memory_format | None,
) -> Tensor:
    return torch.empty(
        (sets.shape[0] * inputs.shape[0], *inputs.shape[1:]),
        dtype=dtype or inputs.dtype,
        device=inputs.device,
        memory_format=memory_format or torch.contiguous_format,
    )


def vmap_select(
    op: str,
    size: int,
    in_dims: tuple[int | None, ...],
    inputs: Tensor,
    other: Tensor,
    labels: Tensor,
    sets: Tensor,
    *rest: Any,
) -> tuple[Tensor, int]:
    """Folds the mapped dimension V into the batch: V * B examples. `in_dims` is in this order."""
    refuse_mapped(op, "scale and shift", in_dims[4:6])
    rule = RULES[op]
    inputs = mapped_first(inputs, in_dims[0], size)
    batch, features = inputs.shape[1], inputs.shape[2:]
    if in_dims[2] is not None or labels.shape[0] != 1:
        labels = mapped_first(labels, in_dims[2], size)
        labels = labels.expand(size, batch, *labels.shape[2:]).flatten(0, 1)
    if in_dims[3] is not None or sets.dim() > rule.set_dims:
        sets = mapped_first(sets, in_dims[3], size)
        if sets.dim() == rule.set_dims + 1:
            sets = sets[:, :, None]
        sets = sets.expand(-1, -1, batch, *sets.shape[3:]).transpose(0, 1).flatten(1, 2)
    selected = rule.op(
        inputs.flatten(0, 1),
        folded_rows(mapped_first(other, in_dims[1], size), inputs),
        labels,
        sets,
        *rest,
    )
    steps = sets.shape[0]
    return selected.reshape(steps, size, batch, *features).transpose(0, 1).flatten(1, 2), 0
