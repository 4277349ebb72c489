"""The dirichlet ops: points of stick-breaking paths as model inputs, gradients contracted back.

Along a straight path all features go from baseline to input together. Along a stick-breaking path
each goes at its own pace, a random one: its progress F(t) is a Dirichlet process, the limit of
sticks broken off a unit by Beta(1, concentration) and laid down at uniform times. F(t) has the law
Beta(concentration * t, concentration * (1 - t)), so mean t and variance t (1 - t) / (1 +
concentration): a large concentration gives the straight path, a small one a single jump.

Nothing is stored: `dirichlet_accumulate` draws the increments of `dirichlet_points` again, from a
counter, so memory does not grow with the steps, and steps and paths may be handled in any chunks.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from .. import reference
from ..reference.path import compute_dtype, memory_format_of
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
from .random_key import check_key
from .registry import define, fake_nothing

MAX_STEPS = 2**16
MAX_PATHS = 2**32


def dirichlet_points(
    inputs: Tensor,
    baselines: Tensor | float,
    key: Tensor,
    *,
    concentration: float,
    n_steps: int,
    first_step: int = 0,
    count: int | None = None,
    n_paths: int = 1,
    first_path: int = 0,
    position: float = 0.5,
    per: Literal["feature", "pixel"] = "feature",
    examples: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Points of random stick-breaking paths from `baselines` to `inputs`, to be fed to a model.

    With F[m], the progress at the start of step m, between F[0] = 0 and F[n_steps] = 1,

    ``at = F[m] + position * (F[m + 1] - F[m])``, for every step, path, example and feature;
    ``points = (baselines + at * (inputs - baselines)) * scale + shift``.

    The process: Ferguson, "A Bayesian Analysis of Some Nonparametric Problems" (1973), and
    Sethuraman, "A Constructive Definition of Dirichlet Priors" (1994). Increments of equally long
    steps are exactly Dirichlet(concentration / n_steps, ...), drawn by splitting intervals at
    their middle. F is float32, a multiple of 2^-23, and its increments sum to exactly 1.

    The path itself depends on the key, the example, the path's number and the feature, and on
    nothing else. n_steps chooses the times at which it is cut: step m begins at floor(m * cells /
    n_steps) / cells, where cells is the next power of two; so doubling a power of two refines the
    same path. With n_steps no power of two, steps are one or two cells long.

    Args:
        inputs: [B, ...], float16, bfloat16, float32 or float64, any strides, at most 2^32 features.
        baselines: in the units of the inputs: a number, or a tensor shaped [], [1, ...] or
            [B, ...] on the inputs' device.
        key: int64 [2], from `random_key`. Equal keys give equal paths.
        concentration: alpha > 0; the number of sticks that matter.
        n_steps: of a whole path, up to 65536.
        first_step, count: the steps wanted; all by default. Any split gives the same points.
        n_paths, first_path: the paths wanted for every example, numbered up to 2^32.
        position: where in a step its point lies. The middle, 0.5, makes sums of gradient times
            increment exact for quadratic functions on every path; 0 and 1 are the step's ends.
        per: "feature" gives every feature a path of its own; "pixel" gives the channels (dimension
            1) of a pixel one path together.
        examples: int64 [B], the numbers of the examples in the counter, by default 0, 1, ...:
            equal numbers give equal paths, in whatever batch.
        scale, shift: [C], one value for each of the inputs' channels (dimension 1), given together:
            an affine map applied in the same pass, such as the normalisation of pixels.
        dtype: of the points; the inputs' by default. Computed in float32 (float64 for float64
            inputs) and rounded once.
        memory_format: of the points; contiguous by default. Paths do not depend on it.
        out: [count * n_paths * B, ...], contiguous or channels_last, written instead of a new
            tensor. It must not overlap what is read.

    Returns:
        [count * n_paths * B, ...]: the steps outermost, then the paths, then the examples. Not
        differentiable.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: a shape, device, number, memory format or combination that does not fit, or an
            argument that requires grad while derivatives are recorded. Messages name the argument,
            what it must be, and what was got.
    """
    op = "dirichlet_points"
    check_batch(op, "inputs", inputs)
    baselines = rows_tensor(op, "baselines", baselines, inputs)
    check_floating(op, "baselines", baselines)
    check_rows(op, "baselines", baselines, inputs)
    check_affine(op, inputs, scale, shift)
    check_together(op, scale, shift)
    path = _path_arguments(
        op,
        inputs,
        inputs.shape[0],
        key,
        examples,
        concentration,
        n_steps,
        first_step,
        count,
        n_paths,
        first_path,
    )
    if not isinstance(position, (int, float)) or not 0 <= position <= 1:
        raise ValueError(f"{op}: position must be a number in [0, 1], got {position!r}")
    per_pixel = _is_per_pixel(op, per, inputs)
    rows = _steps(op, n_steps, first_step, count)[2] * n_paths * inputs.shape[0]
    check_written(op, inputs, rows, dtype, memory_format, out)
    _check_constant(op, inputs=inputs, baselines=baselines)
    dtype = dtype or inputs.dtype
    common = common_dtype(inputs, baselines)
    inputs, baselines = inputs.to(common), baselines.to(common)
    args = (inputs, baselines, key, examples, *path, float(position), per_pixel, scale, shift)
    if out is not None:
        torch.ops.pyxai_fast.dirichlet_points.out(*args, out=out)
        return out
    points: Tensor = torch.ops.pyxai_fast.dirichlet_points.default(*args, dtype, memory_format)
    return points


def dirichlet_accumulate(
    grads: Tensor,
    key: Tensor,
    *,
    concentration: float,
    n_steps: int,
    first_step: int = 0,
    count: int | None = None,
    n_paths: int = 1,
    first_path: int = 0,
    per: Literal["feature", "pixel"] = "feature",
    examples: Tensor | None = None,
    inputs: Tensor | None = None,
    baselines: Tensor | float | None = None,
    scale: Tensor | None = None,
    total: Tensor | None = None,
) -> Tensor:
    """Gradients at the points of stick-breaking paths, contracted to one value per feature.

    ``sum = sum over the steps m of grads[m] * (F[m + 1] - F[m])``, for every path, example and
    feature, and with `inputs` and `baselines` the attributions ``sum * (inputs - baselines) *
    scale``: the integral of the gradient along each path.

    F is drawn again as `dirichlet_points` drew it, so the arguments that choose paths and steps
    must be those given there. Sums are float64 and add the steps in their order, so any split of
    the steps into chunks, any number of threads and every instruction set give the same bits.

    Args:
        grads: [count * n_paths * B, ...], as `dirichlet_points` lays points out; float16, bfloat16,
            float32 or float64.
        key, concentration, n_steps, first_step, count, n_paths, first_path, per, examples: as given
            to `dirichlet_points`.
        inputs, baselines: the ends of the paths, as given to `dirichlet_points`; both or neither.
        scale: [C], as given to `dirichlet_points` (gradients are taken behind the affine map).
        total: float64 [n_paths * B, ...]: continue this sum in place, and return it, instead of
            starting one; without inputs, baselines and scale.

    Returns:
        [n_paths * B, ...]: float32, or float64 for float64 gradients; `total` when it is given.
        Not differentiable.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: a shape, device, number or combination that does not fit, or an argument that
            requires grad while derivatives are recorded. Messages name the argument, what it must
            be, and what was got.
    """
    op = "dirichlet_accumulate"
    check_batch(op, "grads", grads)
    steps = _steps(op, n_steps, first_step, count)[2]
    paths = _paths(op, n_paths, first_path)[0]
    batch, rest = divmod(grads.shape[0], steps * paths)
    if rest:
        raise ValueError(
            f"{op}: grads must have shape [{steps} * {paths} * B, ...] for {steps} steps of "
            f"{paths} paths, got {list(grads.shape)}"
        )
    path = _path_arguments(
        op,
        grads,
        batch,
        key,
        examples,
        concentration,
        n_steps,
        first_step,
        count,
        n_paths,
        first_path,
    )
    args = (grads, key, examples, *path, _is_per_pixel(op, per, grads))
    _check_constant(op, grads=grads)
    if total is not None:
        if inputs is not None or baselines is not None or scale is not None:
            raise ValueError(f"{op}: total must come without inputs, baselines and scale, got both")
        check_floating(op, "total", total)
        check_same_device(op, "total", total, grads)
        shape = [paths * batch, *grads.shape[1:]]
        if total.dtype != torch.float64 or list(total.shape) != shape:
            raise ValueError(
                f"{op}: total must be float64 of shape {shape}, got {total.dtype} "
                f"{list(total.shape)}"
            )
        check_writable(op, "total", total)
        torch.ops.pyxai_fast.dirichlet_accumulate.out(*args, total=total)
        return total
    if (inputs is None) != (baselines is None):
        raise ValueError(f"{op}: inputs and baselines must be given together, got one")
    if inputs is not None and baselines is not None:
        check_batch(op, "inputs", inputs)
        check_same_device(op, "inputs", inputs, grads)
        if inputs.shape != (batch, *grads.shape[1:]):
            raise ValueError(
                f"{op}: inputs must have shape {[batch, *grads.shape[1:]]} to match the grads, "
                f"got {list(inputs.shape)}"
            )
        baselines = rows_tensor(op, "baselines", baselines, inputs)
        check_floating(op, "baselines", baselines)
        check_rows(op, "baselines", baselines, inputs)
        check_affine(op, inputs, scale, None)
        _check_constant(op, inputs=inputs, baselines=baselines)
        common = common_dtype(inputs, baselines)
        inputs, baselines = inputs.to(common), baselines.to(common)
    elif scale is not None:
        raise ValueError(f"{op}: scale must come with inputs and baselines, got it alone")
    result: Tensor = torch.ops.pyxai_fast.dirichlet_accumulate.default(
        *args, inputs, baselines, scale
    )
    return result


# --- declarations --------------------------------------------------------------------------------

PATH = (
    "Tensor? examples, float concentration, int n_steps, int first_step, int count, int n_paths, "
    "int first_path"
)


def _fake_points(
    inputs: Tensor,
    baselines: Tensor,
    key: Tensor,
    examples: Tensor | None,
    concentration: float,
    n_steps: int,
    first_step: int,
    count: int,
    n_paths: int,
    first_path: int,
    position: float,
    per_pixel: bool,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format | None = None,
) -> Tensor:
    return torch.empty(
        (count * n_paths * inputs.shape[0], *inputs.shape[1:]),
        dtype=dtype or inputs.dtype,
        device=inputs.device,
        memory_format=memory_format or torch.contiguous_format,
    )


def _fake_sum(
    grads: Tensor,
    key: Tensor,
    examples: Tensor | None,
    concentration: float,
    n_steps: int,
    first_step: int,
    count: int,
    n_paths: int,
    first_path: int,
    per_pixel: bool,
    inputs: Tensor | None = None,
    baselines: Tensor | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    return torch.empty(
        (grads.shape[0] // count, *grads.shape[1:]),
        dtype=compute_dtype(grads.dtype),
        device=grads.device,
        memory_format=memory_format_of(grads),
    )


def _folded_examples(
    examples: Tensor | None, dim: int | None, size: int, batch: int, key: Tensor
) -> Tensor:
    """The examples' numbers for [V * B]: each part has those it would have on its own."""
    if examples is None:
        return torch.arange(batch, device=key.device).repeat(size)
    return mapped_first(examples, dim, size).flatten()


def _vmap_points(
    info: Any,
    in_dims: tuple[int | None, ...],
    inputs: Tensor,
    baselines: Tensor,
    key: Tensor,
    examples: Tensor | None,
    concentration: float,
    n_steps: int,
    first_step: int,
    count: int,
    n_paths: int,
    first_path: int,
    position: float,
    per_pixel: bool,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format | None = None,
) -> tuple[Tensor, int]:
    refuse_mapped("dirichlet_points", "key, scale and shift", (in_dims[2], *in_dims[12:14]))
    size = info.batch_size
    inputs = mapped_first(inputs, in_dims[0], size)
    batch, features = inputs.shape[1], inputs.shape[2:]
    points = torch.ops.pyxai_fast.dirichlet_points.default(
        inputs.flatten(0, 1),
        folded_rows(mapped_first(baselines, in_dims[1], size), inputs),
        key,
        _folded_examples(examples, in_dims[3], size, batch, key),
        concentration,
        n_steps,
        first_step,
        count,
        n_paths,
        first_path,
        position,
        per_pixel,
        scale,
        shift,
        dtype,
        memory_format,
    )
    rows = count * n_paths
    return points.reshape(rows, size, batch, *features).transpose(0, 1).flatten(1, 2), 0


def _vmap_sum(
    info: Any,
    in_dims: tuple[int | None, ...],
    grads: Tensor,
    key: Tensor,
    examples: Tensor | None,
    concentration: float,
    n_steps: int,
    first_step: int,
    count: int,
    n_paths: int,
    first_path: int,
    per_pixel: bool,
    inputs: Tensor | None = None,
    baselines: Tensor | None = None,
    scale: Tensor | None = None,
) -> tuple[Tensor, int]:
    refuse_mapped("dirichlet_accumulate", "key and scale", (in_dims[1], *in_dims[12:]))
    size = info.batch_size
    grads = mapped_first(grads, in_dims[0], size)
    rows = count * n_paths
    batch, features = grads.shape[1] // rows, grads.shape[2:]
    grads = grads.reshape(size, rows, batch, *features).transpose(0, 1).flatten(0, 2)
    if inputs is not None and baselines is not None:
        inputs = mapped_first(inputs, in_dims[10], size)
        baselines = folded_rows(mapped_first(baselines, in_dims[11], size), inputs)
        inputs = inputs.flatten(0, 1)
    total = torch.ops.pyxai_fast.dirichlet_accumulate.default(
        grads,
        key,
        _folded_examples(examples, in_dims[2], size, batch, key),
        concentration,
        n_steps,
        first_step,
        count,
        n_paths,
        first_path,
        per_pixel,
        inputs,
        baselines,
        scale,
    )
    return total.reshape(n_paths, size, batch, *features).transpose(0, 1).flatten(1, 2), 0


define(
    f"dirichlet_points(Tensor inputs, Tensor baselines, Tensor key, {PATH}, float position, "
    "bool per_pixel, Tensor? scale=None, Tensor? shift=None, ScalarType? dtype=None, "
    "MemoryFormat? memory_format=None) -> Tensor",
    reference=reference.dirichlet_points,
    fake=_fake_points,
    vmap=_vmap_points,
)
define(
    f"dirichlet_points.out(Tensor inputs, Tensor baselines, Tensor key, {PATH}, float position, "
    "bool per_pixel, Tensor? scale=None, Tensor? shift=None, *, Tensor(a!) out) -> ()",
    reference=reference.dirichlet_points_out,
    fake=fake_nothing,
)
define(
    f"dirichlet_accumulate(Tensor grads, Tensor key, {PATH}, bool per_pixel, Tensor? inputs=None, "
    "Tensor? baselines=None, Tensor? scale=None) -> Tensor",
    reference=reference.dirichlet_accumulate,
    fake=_fake_sum,
    vmap=_vmap_sum,
)
define(
    f"dirichlet_accumulate.out(Tensor grads, Tensor key, {PATH}, bool per_pixel, *, "
    "Tensor(a!) total) -> ()",
    reference=reference.dirichlet_accumulate_out,
    fake=fake_nothing,
)


# --- checks --------------------------------------------------------------------------------------


def _check_whole(op: str, **numbers: Any) -> None:
    for name, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool):
            raise TypeError(f"{op}: {name} must be an int, got {type(number).__name__}")


def _steps(op: str, n_steps: int, first_step: int, count: int | None) -> tuple[int, int, int]:
    _check_whole(op, n_steps=n_steps, first_step=first_step)
    if not 1 <= n_steps <= MAX_STEPS:
        raise ValueError(f"{op}: n_steps must be in [1, {MAX_STEPS}], got {n_steps}")
    if not 0 <= first_step < n_steps:
        raise ValueError(f"{op}: first_step must be in [0, {n_steps - 1}], got {first_step}")
    left = n_steps - first_step
    if count is None:
        count = left
    _check_whole(op, count=count)
    if not 1 <= count <= left:
        raise ValueError(f"{op}: count must be in [1, {left}], got {count}")
    return n_steps, first_step, count


def _paths(op: str, n_paths: int, first_path: int) -> tuple[int, int]:
    _check_whole(op, n_paths=n_paths, first_path=first_path)
    if not 1 <= n_paths <= MAX_PATHS:
        raise ValueError(f"{op}: n_paths must be in [1, {MAX_PATHS}], got {n_paths}")
    if not 0 <= first_path <= MAX_PATHS - n_paths:
        raise ValueError(
            f"{op}: first_path must be in [0, {MAX_PATHS - n_paths}], got {first_path}"
        )
    return n_paths, first_path


def _check_examples(op: str, examples: Any, batch: int, like: Tensor) -> None:
    if not isinstance(examples, Tensor) or examples.dtype not in (torch.int32, torch.int64):
        got = examples.dtype if isinstance(examples, Tensor) else type(examples).__name__
        raise TypeError(f"{op}: examples must be an int32 or int64 tensor, got {got}")
    check_same_device(op, "examples", examples, like)
    if examples.shape != (batch,):
        raise ValueError(f"{op}: examples must have shape [{batch}], got {list(examples.shape)}")


def _path_arguments(
    op: str,
    like: Tensor,
    batch: int,
    key: Tensor,
    examples: Tensor | None,
    concentration: float,
    n_steps: int,
    first_step: int,
    count: int | None,
    n_paths: int,
    first_path: int,
) -> tuple[float, int, int, int, int, int]:
    """The checked numbers that choose paths and steps, in the order of the schemas."""
    check_key(op, key, like)
    if examples is not None:
        _check_examples(op, examples, batch, like)
    if not isinstance(concentration, (int, float)) or isinstance(concentration, bool):
        kind = type(concentration).__name__
        raise TypeError(f"{op}: concentration must be a number, got {kind}")
    if not (concentration > 0 and math.isfinite(concentration)):
        raise ValueError(f"{op}: concentration must be positive and finite, got {concentration}")
    steps = _steps(op, n_steps, first_step, count)
    return (float(concentration), *steps, *_paths(op, n_paths, first_path))


def _is_per_pixel(op: str, per: str, inputs: Tensor) -> bool:
    if per not in ("feature", "pixel"):
        raise ValueError(f'{op}: per must be "feature" or "pixel", got {per!r}')
    if per == "pixel" and inputs.dim() < 2:
        raise ValueError(
            f'{op}: per="pixel" must come with shape [B, C, ...], got {list(inputs.shape)}'
        )
    return per == "pixel"


def _check_constant(op: str, **tensors: Tensor) -> None:
    if not torch.is_grad_enabled():
        return
    for name, tensor in tensors.items():
        if tensor.requires_grad:
            raise ValueError(
                f"{op}: {name} must not require grad, as the op is not differentiable; detach it, "
                "or call within torch.no_grad()"
            )
