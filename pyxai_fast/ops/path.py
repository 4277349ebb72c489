"""The path ops: points of straight paths as model inputs, gradients contracted back.

Source: Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks" (2017), equation 3.
`path_points` and `path_accumulate` are each other's transpose, which is also how each is
differentiated.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..reference.path import (
    by_channel,
    by_step,
    compute_dtype,
    memory_format_of,
    step_of,
)
from .batching import folded_rows, mapped_first, refuse_mapped
from .checks import (
    check_affine,
    check_batch,
    check_floating,
    check_rows,
    check_same_device,
    check_together,
    check_writable,
    check_written,
    common_dtype,
    rows_tensor,
)
from .registry import define, fake_nothing


def path_points(
    inputs: Tensor,
    baselines: Tensor | float,
    alphas: Tensor,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Points of the straight paths from `baselines` to `inputs`, ready to be fed to a model.

    Sundararajan et al. (2017), the argument of F in equation 3.

    ``points[s * B + b] = (baselines[b] + alphas[s, b] * (inputs[b] - baselines[b])) * scale``
    ``+ shift``

    Args:
        inputs: [B, ...], float16, bfloat16, float32 or float64, any strides.
        baselines: in the units of the inputs: a number, or a tensor shaped [], [1, ...] or
            [B, ...] on the inputs' device.
        alphas: [S] positions on the path, or [S, B] to give each example its own; 0 is the
            baseline, 1 the input. Rounded once to the type computed in.
        scale, shift: [C], one value for each of the inputs' channels (dimension 1), given together:
            an affine map applied in the same pass, such as the normalisation of pixels. Constants:
            not differentiable.
        dtype: of the points; the inputs' by default. Computed in float32 (float64 for float64
            inputs) and rounded once.
        memory_format: of the points; contiguous by default.
        out: [S * B, ...], contiguous or channels_last, written instead of a new tensor. A loop over
            chunks should reuse one: on a CPU, page faults of a fresh buffer cost several times the
            writing. It must not overlap what is read. Not differentiable.

    Returns:
        [S * B, ...], the steps outermost. Differentiable with respect to inputs, baselines and
        alphas.

    Raises:
        TypeError: an argument that is no floating-point tensor (or number, for baselines).
        ValueError: a shape, device, memory format or combination that does not fit. Messages name
            the argument, what it must be, and what was got.
    """
    check_floating("path_points", "inputs", inputs)
    baselines = rows_tensor("path_points", "baselines", baselines, inputs)
    _check_points(inputs, baselines, alphas, scale, shift)
    rows = alphas.shape[0] * inputs.shape[0]
    check_written("path_points", inputs, rows, dtype, memory_format, out)
    common = common_dtype(inputs, baselines)
    if common != inputs.dtype:
        dtype = dtype or inputs.dtype
        inputs = inputs.to(common)
    baselines = baselines.to(common)
    if out is not None:
        torch.ops.pyxai_fast.path_points.out(inputs, baselines, alphas, scale, shift, out=out)
        return out
    args = (inputs, baselines, alphas, scale, shift, dtype, memory_format)
    # Not only where an argument says requires_grad: duals and tensors under vmap do not say.
    if torch.is_grad_enabled():
        function = _PathPoints if torch.compiler.is_compiling() else _PathPointsWithTangent
        points: Tensor = function.apply(*args)
    else:
        points = torch.ops.pyxai_fast.path_points.default(*args)
    return points


def path_accumulate(
    grads: Tensor,
    weights: Tensor,
    inputs: Tensor | None = None,
    baselines: Tensor | float | None = None,
    *,
    scale: Tensor | None = None,
    total: Tensor | None = None,
) -> Tensor:
    """Gradients at the points of a path, contracted to one value per feature.

    Sundararajan et al. (2017), equation 3.

    ``sum[b] = sum over s of weights[s, b] * grads[s * B + b]``, and with `inputs` and `baselines`
    the attributions ``sum[b] * (inputs[b] - baselines[b]) * scale``.

    Sums are float64 and add the steps in their order, so any split of the steps into chunks, any
    number of threads and every instruction set give the same bits.

    Args:
        grads: [S * B, ...], the steps outermost, as `path_points` lays them out; float16, bfloat16,
            float32 or float64.
        weights: [S], or [S, B] to give each example its own quadrature.
        inputs, baselines: the ends of the paths, as given to `path_points`; both or neither.
        scale: [C], as given to `path_points` (gradients are taken behind the affine map).
        total: float64 [B, ...]: continue this sum in place, and return it, instead of starting one;
            without inputs, baselines and scale. Not differentiable.

    Returns:
        [B, ...]: float32, or float64 for float64 gradients; `total` when it is given.
        Differentiable with respect to grads, weights, inputs and baselines.

    Raises:
        TypeError: an argument that is no floating-point tensor (or number, for baselines).
        ValueError: a shape, device, memory format or combination that does not fit. Messages name
            the argument, what it must be, and what was got.
    """
    _check_sum(grads, weights, total)
    if total is not None:
        if inputs is not None or baselines is not None or scale is not None:
            raise ValueError(
                "path_accumulate: total must come without inputs, baselines and scale, got both"
            )
        torch.ops.pyxai_fast.path_accumulate.out(grads, weights, total=total)
        return total
    if (inputs is None) != (baselines is None):
        raise ValueError("path_accumulate: inputs and baselines must be given together, got one")
    if inputs is None or baselines is None:
        if scale is not None:
            raise ValueError("path_accumulate: scale must come with inputs and baselines, got None")
        return _weighted_sum(grads, weights)
    check_floating("path_accumulate", "inputs", inputs)
    baselines = rows_tensor("path_accumulate", "baselines", baselines, inputs)
    _check_ends("path_accumulate", inputs, baselines, scale, None)
    check_same_device("path_accumulate", "inputs", inputs, grads)
    batch = grads.shape[0] // weights.shape[0]
    if inputs.shape != (batch, *grads.shape[1:]):
        raise ValueError(
            f"path_accumulate: inputs must have shape {[batch, *grads.shape[1:]]} to match the "
            f"grads and weights, got {list(inputs.shape)}"
        )
    common = common_dtype(inputs, baselines)
    inputs, baselines = inputs.to(common), baselines.to(common)
    if torch.is_grad_enabled():
        total = _weighted_sum(grads.to(torch.float64), weights)
        return (total * step_of(inputs, baselines, scale)).to(compute_dtype(grads.dtype))
    attributions: Tensor = torch.ops.pyxai_fast.path_accumulate.default(
        grads, weights, inputs, baselines, scale
    )
    return attributions


def _weighted_sum(grads: Tensor, weights: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        compiling = torch.compiler.is_compiling()
        function = _PathAccumulate if compiling else _PathAccumulateWithTangent
        total: Tensor = function.apply(grads, weights)
    else:
        total = torch.ops.pyxai_fast.path_accumulate.default(grads, weights, None, None, None)
    return total


# --- derivatives ---------------------------------------------------------------------------------
#
# Written as autograd.Function with setup_context because register_autograd does not work under
# torch.func. Each backward calls the public ops, so it can itself be differentiated. Both ops are
# linear in every tensor that has derivatives, so the tangent is the op at the tangents.
# torch.compile does not trace a Function with a jvp, so forward mode is a subclass it never sees.


class _PathPoints(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        inputs: Tensor,
        baselines: Tensor,
        alphas: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
        dtype: torch.dtype | None,
        memory_format: torch.memory_format | None,
    ) -> Tensor:
        points: Tensor = torch.ops.pyxai_fast.path_points.default(
            inputs, baselines, alphas, scale, shift, dtype, memory_format
        )
        return points

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.save_for_forward(*inputs[:4])
        ctx.dtype, ctx.memory_format = inputs[5:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, baselines, alphas, scale = ctx.saved_tensors
        needs_inputs, needs_baselines, needs_alphas = ctx.needs_input_grad[:3]
        grad = grad.to(compute_dtype(inputs.dtype))
        if scale is not None:
            grad = grad * by_channel(scale, inputs, grad.dtype)
        grad_inputs = grad_baselines = grad_alphas = None
        if needs_inputs:
            grad_inputs = path_accumulate(grad, alphas).to(inputs.dtype)
        if needs_baselines:
            toward = path_accumulate(grad, 1 - alphas.to(torch.float64))
            grad_baselines = toward.sum_to_size(baselines.shape).to(baselines.dtype)
        if needs_alphas:
            grad_alphas = _sum_features(
                grad.unflatten(0, (alphas.shape[0], -1)) * step_of(inputs, baselines), alphas
            )
        return grad_inputs, grad_baselines, grad_alphas, None, None, None, None


class _PathPointsWithTangent(_PathPoints):
    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        inputs, baselines, alphas, scale = ctx.saved_tensors
        along_inputs, along_baselines, along_alphas = tangents[:3]
        dtype = ctx.dtype or inputs.dtype
        zero = torch.zeros((), dtype=inputs.dtype, device=inputs.device)
        no_shift = None if scale is None else torch.zeros_like(scale)
        tangent = torch.zeros((), dtype=dtype, device=inputs.device)
        if along_inputs is not None or along_baselines is not None:
            tangent = path_points(
                torch.zeros_like(inputs) if along_inputs is None else along_inputs,
                zero if along_baselines is None else along_baselines,
                alphas,
                scale=scale,
                shift=no_shift,
                dtype=dtype,
            )
        if along_alphas is not None:
            step = step_of(inputs, baselines, scale)
            moved = by_step(along_alphas, inputs, step.dtype) * step
            tangent = tangent + moved.flatten(0, 1).to(dtype)
        return tangent.contiguous(memory_format=ctx.memory_format or torch.contiguous_format)


class _PathAccumulate(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(grads: Tensor, weights: Tensor) -> Tensor:
        total: Tensor = torch.ops.pyxai_fast.path_accumulate.default(
            grads, weights, None, None, None
        )
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads, weights = ctx.saved_tensors
        needs_grads, needs_weights = ctx.needs_input_grad
        grad_grads = grad_weights = None
        if needs_grads:
            grad_grads = path_points(grad, 0.0, weights, dtype=grads.dtype)
        if needs_weights:
            grad_weights = _sum_features(
                grads.unflatten(0, (weights.shape[0], -1)).to(grad.dtype) * grad, weights
            )
        return grad_grads, grad_weights


class _PathAccumulateWithTangent(_PathAccumulate):
    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        grads, weights = ctx.saved_tensors
        along_grads, along_weights = tangents
        parts = []
        if along_grads is not None:
            parts.append(path_accumulate(along_grads, weights))
        if along_weights is not None:
            parts.append(path_accumulate(grads, along_weights))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def _sum_features(products: Tensor, like: Tensor) -> Tensor:
    """[S, B, ...] summed to the shape of coefficients [S] or [S, B]."""
    return products.reshape(*products.shape[: like.dim()], -1).sum(-1).to(like.dtype)


# --- declarations --------------------------------------------------------------------------------


def _fake_points(
    inputs: Tensor,
    baselines: Tensor,
    alphas: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format | None = None,
) -> Tensor:
    return torch.empty(
        (alphas.shape[0] * inputs.shape[0], *inputs.shape[1:]),
        dtype=dtype or inputs.dtype,
        device=inputs.device,
        memory_format=memory_format or torch.contiguous_format,
    )


def _fake_sum(
    grads: Tensor,
    weights: Tensor,
    inputs: Tensor | None = None,
    baselines: Tensor | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    return torch.empty(
        (grads.shape[0] // weights.shape[0], *grads.shape[1:]),
        dtype=compute_dtype(grads.dtype),
        device=grads.device,
        memory_format=memory_format_of(grads),
    )


def _vmap_points(
    info: Any,
    in_dims: tuple[int | None, ...],
    inputs: Tensor,
    baselines: Tensor,
    alphas: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format | None = None,
) -> tuple[Tensor, int]:
    """Folds the mapped dimension V into the batch: V * B examples, each with its own alphas."""
    refuse_mapped("path_points", "scale and shift", in_dims[3:5])
    size = info.batch_size
    inputs = mapped_first(inputs, in_dims[0], size)
    batch, features = inputs.shape[1], inputs.shape[2:]
    alphas = mapped_first(alphas, in_dims[2], size)
    points = torch.ops.pyxai_fast.path_points.default(
        inputs.flatten(0, 1),
        folded_rows(mapped_first(baselines, in_dims[1], size), inputs),
        _folded_coefficients(alphas, batch),
        scale,
        shift,
        dtype,
        memory_format,
    )
    steps = alphas.shape[1]
    return points.reshape(steps, size, batch, *features).transpose(0, 1).flatten(1, 2), 0


def _vmap_sum(
    info: Any,
    in_dims: tuple[int | None, ...],
    grads: Tensor,
    weights: Tensor,
    inputs: Tensor | None = None,
    baselines: Tensor | None = None,
    scale: Tensor | None = None,
) -> tuple[Tensor, int]:
    refuse_mapped("path_accumulate", "scale", in_dims[4:])
    size = info.batch_size
    grads = mapped_first(grads, in_dims[0], size)
    weights = mapped_first(weights, in_dims[1], size)
    steps = weights.shape[1]
    batch, features = grads.shape[1] // steps, grads.shape[2:]
    grads = grads.reshape(size, steps, batch, *features).transpose(0, 1).flatten(0, 2)
    if inputs is not None and baselines is not None:
        inputs = mapped_first(inputs, in_dims[2], size)
        baselines = folded_rows(mapped_first(baselines, in_dims[3], size), inputs)
        inputs = inputs.flatten(0, 1)
    total = torch.ops.pyxai_fast.path_accumulate.default(
        grads, _folded_coefficients(weights, batch), inputs, baselines, scale
    )
    return total.reshape(size, batch, *features), 0


def _folded_coefficients(coefficients: Tensor, batch: int) -> Tensor:
    """Coefficients [V, S] or [V, S, B] as [S, V * B]."""
    if coefficients.dim() == 2:
        coefficients = coefficients[:, :, None]
    return coefficients.expand(-1, -1, batch).transpose(0, 1).flatten(1)


define(
    "path_points(Tensor inputs, Tensor baselines, Tensor alphas, Tensor? scale=None, "
    "Tensor? shift=None, ScalarType? dtype=None, MemoryFormat? memory_format=None) -> Tensor",
    reference=reference.path_points,
    fake=_fake_points,
    vmap=_vmap_points,
)
define(
    "path_points.out(Tensor inputs, Tensor baselines, Tensor alphas, Tensor? scale=None, "
    "Tensor? shift=None, *, Tensor(a!) out) -> ()",
    reference=reference.path_points_out,
    fake=fake_nothing,
)
define(
    "path_accumulate(Tensor grads, Tensor weights, Tensor? inputs=None, Tensor? baselines=None, "
    "Tensor? scale=None) -> Tensor",
    reference=reference.path_accumulate,
    fake=_fake_sum,
    vmap=_vmap_sum,
)
define(
    "path_accumulate.out(Tensor grads, Tensor weights, *, Tensor(a!) total) -> ()",
    reference=reference.path_accumulate_out,
    fake=fake_nothing,
)


# --- checks --------------------------------------------------------------------------------------


def _check_ends(
    op: str, inputs: Tensor, baselines: Tensor, scale: Tensor | None, shift: Tensor | None
) -> None:
    check_batch(op, "inputs", inputs)
    check_rows(op, "baselines", baselines, inputs)
    check_affine(op, inputs, scale, shift)


def _check_coefficients(op: str, name: str, tensor: Tensor, batch: int, like: Tensor) -> None:
    check_floating(op, name, tensor)
    check_same_device(op, name, tensor, like)
    if tensor.dim() not in (1, 2) or (tensor.dim() == 2 and tensor.shape[1] != batch):
        raise ValueError(
            f"{op}: {name} must have shape [S] or [S, {batch}], got {list(tensor.shape)}"
        )


def _check_points(
    inputs: Tensor,
    baselines: Tensor,
    alphas: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
) -> None:
    op = "path_points"
    _check_ends(op, inputs, baselines, scale, shift)
    _check_coefficients(op, "alphas", alphas, inputs.shape[0], inputs)
    check_together(op, scale, shift)


def _check_sum(grads: Tensor, weights: Tensor, total: Tensor | None) -> None:
    op = "path_accumulate"
    check_floating(op, "grads", grads)
    check_floating(op, "weights", weights)
    if weights.dim() == 0 or weights.shape[0] == 0:
        raise ValueError(f"{op}: weights must have at least one step, got {list(weights.shape)}")
    steps = weights.shape[0]
    if grads.dim() == 0 or grads.shape[0] % steps != 0:
        raise ValueError(
            f"{op}: grads must have shape [{steps} * B, ...] for {steps} steps, got "
            f"{list(grads.shape)}"
        )
    batch = grads.shape[0] // steps
    _check_coefficients(op, "weights", weights, batch, grads)
    if total is None:
        return
    check_floating(op, "total", total)
    check_same_device(op, "total", total, grads)
    if total.dtype != torch.float64 or total.shape != (batch, *grads.shape[1:]):
        raise ValueError(
            f"{op}: total must be float64 of shape {[batch, *grads.shape[1:]]}, got "
            f"{total.dtype} {list(total.shape)}"
        )
    check_writable(op, "total", total)
