"""The mask ops: segments kept or replaced by coalitions, and inputs blended with masks.

A coalition is a set of segments that stay, as in LIME (Ribeiro, Singh and Guestrin, 2016, section
3.3) and KernelSHAP (Lundberg and Lee, 2017, section 4.1), packed 32 to a word.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..reference.mask import kept_by_coalitions
from ..reference.path import compute_dtype, memory_format_of
from .batching import mapped_first
from .checks import (
    check_batch,
    check_floating,
    check_pixels,
    check_same_device,
    check_whole,
    check_writable,
)
from .registry import define, fake_nothing
from .select import RULES, Rule, check_select, check_sets, fake_select, selected, vmap_select


def pack_coalitions(kept: Tensor) -> Tensor:
    """Coalitions as `mask_segments` reads them: 32 segments to a word.

    Args:
        kept: bool [..., n_segments], True where a segment is kept.

    Returns:
        int32 [..., ceil(n_segments / 32)]: bit ``i % 32`` of word ``i // 32`` is segment i.

    Raises:
        TypeError: kept is not a bool tensor.
        ValueError: kept is a scalar.
    """
    check_whole("pack_coalitions", "kept", kept, (torch.bool,))
    if kept.dim() == 0:
        raise ValueError("pack_coalitions: kept must have shape [..., n_segments], got a scalar")
    return reference.pack_coalitions(kept)


def unpack_coalitions(words: Tensor, n_segments: int) -> Tensor:
    """The inverse of `pack_coalitions`: bool [..., n_segments].

    Args:
        words: int32 [..., W].
        n_segments: how many segments to read, at most 32 * W.

    Raises:
        TypeError: words are not an int32 tensor.
        ValueError: words are a scalar, or hold fewer segments.
    """
    check_whole("unpack_coalitions", "words", words, (torch.int32,))
    if words.dim() == 0:
        raise ValueError("unpack_coalitions: words must have shape [..., W], got a scalar")
    if not 0 <= n_segments <= 32 * words.shape[-1]:
        raise ValueError(
            f"unpack_coalitions: n_segments must be between 0 and {32 * words.shape[-1]}, got "
            f"{n_segments}"
        )
    return reference.unpack_coalitions(words, n_segments)


def mask_segments(
    inputs: Tensor,
    segments: Tensor,
    coalitions: Tensor,
    fill: Tensor | float,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Inputs with the segments outside of each coalition replaced, ready to be fed to a model.

    Ribeiro, Singh and Guestrin, "Why Should I Trust You?" (2016), section 3.3; the h_x(z') of
    Lundberg and Lee, "A Unified Approach to Interpreting Model Predictions" (2017), equation 3.

    ``out[s * B + b] = (inputs[b] where coalitions[s, b] keeps segments[b] else fill[b]) * scale``
    ``+ shift``

    The map and the rounding go before the choice, which moves bits: NaN and infinity are kept.

    Args:
        inputs: [B, ...], float16, bfloat16, float32 or float64, any strides.
        segments: int32 or int64, shaped like the inputs, or with 1 in place of the batch (one
            segmentation for all) or of dimension 1 (one for all channels of a pixel).
        coalitions: int32 words from `pack_coalitions`, [S, W], or [S, B, W] to give each example
            its own. A segment that the W words have no bit for (negative, or 32 * W and more) is
            replaced in every coalition: that is not an error, as looking would wait for the device.
        fill: what replaces segments, in the units of the inputs: a number, or a tensor shaped [],
            [1, ...] or [B, ...] on the inputs' device.
        scale, shift: [C], one value for each of the inputs' channels (dimension 1), given together:
            an affine map applied in the same pass, such as the normalisation of pixels. Constants:
            not differentiable.
        dtype: of the result; the inputs' by default. The map is computed in float32 (float64 for
            float64 inputs) and rounded once.
        memory_format: of the result; contiguous by default.
        out: [S * B, ...], contiguous or channels_last, written instead of a new tensor; see
            `path_points`. It must not overlap what is read. Not differentiable.

    Returns:
        [S * B, ...], the coalitions outermost. Differentiable with respect to inputs and fill.

    Raises:
        TypeError: an argument of a wrong type or dtype.
        ValueError: a shape, device, memory format or combination that does not fit. Messages name
            the argument, what it must be, and what was got.
    """
    op = "mask_segments"
    check_sets(op, "coalitions", coalitions, "[S, W] or [S, B, W]", torch.int32, inputs)
    inputs, fill, dtype = check_select(
        op, inputs, ("fill", fill), ("segments", segments), scale, shift, dtype, memory_format,
        out, coalitions.shape[0],
    )  # fmt: skip
    if out is not None:
        library = torch.ops.pyxai_fast
        library.mask_segments.out(inputs, segments, coalitions, fill, scale, shift, out=out)
        return out
    args = (inputs, fill, segments, coalitions, scale, shift, dtype, memory_format)
    return selected(op, *args)


def mask_blend(inputs: Tensor, masks: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Inputs times a soft mask, and inputs times its complement, in one pass.

    ``result[0] = inputs * masks`` and ``result[1] = inputs * (1 - masks)``: what a mask keeps and
    what it removes. ``result.flatten(0, 1)`` is both as one batch, without a copy.

    Args:
        inputs: [N, ...], float16, bfloat16, float32 or float64, any strides.
        masks: floating point, shaped like the inputs, or with 1 in place of the batch or of
            dimension 1 (one mask for all channels of a pixel).
        out: [2, N, ...] in the inputs' dtype, whose ``flatten(0, 1)`` is contiguous or
            channels_last, written instead of a new tensor. It must not overlap what is read. Not
            differentiable.

    Returns:
        [2, N, ...] in the inputs' dtype; each half is channels_last where the inputs are. Computed
        in float32 (float64 for float64 inputs; masks are brought to that type) and rounded once.
        Differentiable with respect to inputs and masks.

    Raises:
        TypeError: an argument that is no floating-point tensor.
        ValueError: a shape, device or memory format that does not fit.
    """
    op = "mask_blend"
    check_batch(op, "inputs", inputs)
    check_floating(op, "masks", masks)
    check_pixels(op, "masks", masks, inputs)
    if out is not None:
        torch.ops.pyxai_fast.mask_blend.out(inputs, masks, out=_both_halves(inputs, out))
        return out
    if torch.is_grad_enabled():
        function = _MaskBlend if torch.compiler.is_compiling() else _MaskBlendWithTangent
        blended: Tensor = function.apply(inputs, masks)
    else:
        blended = torch.ops.pyxai_fast.mask_blend.default(inputs, masks)
    halves: Tensor = blended.unflatten(0, (2, inputs.shape[0]))
    return halves


def _both_halves(inputs: Tensor, out: Tensor) -> Tensor:
    """The [2 * N, ...] view of out [2, N, ...]."""
    op = "mask_blend"
    check_floating(op, "out", out)
    check_same_device(op, "out", out, inputs)
    shape = [2, *inputs.shape]
    if list(out.shape) != shape or out.dtype != inputs.dtype:
        raise ValueError(
            f"{op}: out must have shape {shape} and the inputs' {inputs.dtype}, got "
            f"{list(out.shape)} and {out.dtype}"
        )
    rows = inputs.shape[0]
    if rows > 1 and out.numel() > 0 and out.stride(0) != rows * out.stride(1):
        raise ValueError(f"{op}: out must have its halves side by side, got {out.stride()}")
    flat = out.flatten(0, 1)
    check_writable(op, "out", flat)
    return flat


# --- derivatives ---------------------------------------------------------------------------------
#
# See ops/path.py for why these are autograd.Functions, and why forward mode is a subclass.


class _MaskBlend(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(inputs: Tensor, masks: Tensor) -> Tensor:
        blended: Tensor = torch.ops.pyxai_fast.mask_blend.default(inputs, masks)
        return blended

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, masks = ctx.saved_tensors
        compute = compute_dtype(inputs.dtype)
        kept, rest = grad.to(compute).unflatten(0, (2, inputs.shape[0])).unbind()
        difference = kept - rest
        grad_inputs = grad_masks = None
        if ctx.needs_input_grad[0]:
            grad_inputs = (rest + masks.to(compute) * difference).to(inputs.dtype)
        if ctx.needs_input_grad[1]:
            total = (inputs.to(compute) * difference).sum_to_size(masks.shape)
            grad_masks = total.to(masks.dtype)
        return grad_inputs, grad_masks


class _MaskBlendWithTangent(_MaskBlend):
    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        inputs, masks = ctx.saved_tensors
        along_inputs, along_masks = tangents
        parts = []
        if along_inputs is not None:
            parts.append(mask_blend(along_inputs, masks).flatten(0, 1))
        if along_masks is not None:
            moved = (inputs.to(compute_dtype(inputs.dtype)) * along_masks).to(inputs.dtype)
            parts.append(torch.cat([moved, -moved]))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]


# --- declarations --------------------------------------------------------------------------------


def _segments(
    inputs: Tensor, fill: Tensor, segments: Tensor, coalitions: Tensor, *rest: Any
) -> Tensor:
    """The op with its arguments in the order of a Rule."""
    masked: Tensor = torch.ops.pyxai_fast.mask_segments.default(
        inputs, segments, coalitions, fill, *rest
    )
    return masked


RULES["mask_segments"] = Rule(_segments, kept_by_coalitions, set_dims=2)


def _fake_segments(
    inputs: Tensor,
    segments: Tensor,
    coalitions: Tensor,
    fill: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format | None = None,
) -> Tensor:
    return fake_select(inputs, coalitions, dtype, memory_format)


def _vmap_segments(
    info: Any,
    in_dims: tuple[int | None, ...],
    inputs: Tensor,
    segments: Tensor,
    coalitions: Tensor,
    fill: Tensor,
    *rest: Any,
) -> tuple[Tensor, int]:
    of_inputs, of_segments, of_coalitions, of_fill, *others = in_dims
    dims = (of_inputs, of_fill, of_segments, of_coalitions, *others)
    args = (inputs, fill, segments, coalitions, *rest)
    return vmap_select("mask_segments", info.batch_size, dims, *args)


def _fake_blend(inputs: Tensor, masks: Tensor) -> Tensor:
    return torch.empty(
        (2 * inputs.shape[0], *inputs.shape[1:]),
        dtype=inputs.dtype,
        device=inputs.device,
        memory_format=memory_format_of(inputs),
    )


def _vmap_blend(
    info: Any, in_dims: tuple[int | None, ...], inputs: Tensor, masks: Tensor
) -> tuple[Tensor, int]:
    size = info.batch_size
    inputs = mapped_first(inputs, in_dims[0], size)
    masks = mapped_first(masks, in_dims[1], size)
    batch = inputs.shape[1]
    masks = masks.expand(size, batch, *masks.shape[2:])
    blended = torch.ops.pyxai_fast.mask_blend.default(inputs.flatten(0, 1), masks.flatten(0, 1))
    halves = blended.reshape(2, size, *inputs.shape[1:])
    return halves.transpose(0, 1).flatten(1, 2), 0


define(
    "mask_segments(Tensor inputs, Tensor segments, Tensor coalitions, Tensor fill, "
    "Tensor? scale=None, Tensor? shift=None, ScalarType? dtype=None, "
    "MemoryFormat? memory_format=None) -> Tensor",
    reference=reference.mask_segments,
    fake=_fake_segments,
    vmap=_vmap_segments,
)
define(
    "mask_segments.out(Tensor inputs, Tensor segments, Tensor coalitions, Tensor fill, "
    "Tensor? scale=None, Tensor? shift=None, *, Tensor(a!) out) -> ()",
    reference=reference.mask_segments_out,
    fake=fake_nothing,
)
define(
    "mask_blend(Tensor inputs, Tensor masks) -> Tensor",
    reference=reference.mask_blend,
    fake=_fake_blend,
    vmap=_vmap_blend,
)
define(
    "mask_blend.out(Tensor inputs, Tensor masks, *, Tensor(a!) out) -> ()",
    reference=reference.mask_blend_out,
    fake=fake_nothing,
)
