"""The noise ops: noisy copies of inputs as model inputs, answers contracted with the noise.

The noise is never stored. A value is a function of the key, the example, the sample and the
feature, so `noise_contract` draws again what `perturb` drew, in any chunks, on any device.

Source: Stein's lemma, as in Nesterov and Spokoiny, "Random Gradient-Free Minimization of Convex
Functions" (2017), equation 21; orthogonal directions: Choromanski et al., "Structured Evolution
with Compact Architectures for Scalable Policy Optimization" (2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..reference.path import by_channel, compute_dtype
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
    rows_tensor,
)
from .path import path_accumulate
from .random_key import check_key
from .registry import define, fake_nothing

DISTRIBUTIONS = ("gaussian", "rademacher", "orthogonal", "ones")
MAX_DRAWS = 2**32


def perturb(
    inputs: Tensor,
    n_samples: int,
    sigma: Tensor | float,
    key: Tensor,
    *,
    distribution: str = "gaussian",
    antithetic: bool = False,
    first_sample: int = 0,
    examples: Tensor | None = None,
    mask: Tensor | None = None,
    blocks: Tensor | None = None,
    n_blocks: int | None = None,
    active: Tensor | None = None,
    shared: bool = False,
    keep: float = 1.0,
    clip: tuple[float | None, float | None] | None = None,
    reflect: bool = False,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Noisy copies of the inputs, ready to be fed to a model.

    ``points[k * B + b] = clipped(inputs[b] + sigma[b] * mask[b] * noise[k, b]) * scale + shift``

    Args:
        inputs: [B, ...], float16, bfloat16, float32 or float64, any strides.
        n_samples: K, the copies of each input; with `antithetic`, signs count as copies.
        sigma: the noise's standard deviation in the units of the inputs: a number, or a tensor []
            or [B].
        key: int64 [2], from `random_key`. Equal keys give equal noise.
        distribution: "gaussian": standard normal. "rademacher": +1 or -1, the cheapest, and of less
            variance in gradient estimates. "orthogonal": rows of a Hadamard matrix whose columns
            have random signs; as many rows as the next power of two of the features are orthogonal
            and estimate a linear function without error, then signs are drawn anew. "ones": no
            noise but 1, which shows what is kept.
        antithetic: samples 2j and 2j + 1 have the same noise with opposite signs.
        first_sample: the number of the first copy: chunks of samples continue each other.
        examples: int64 [B], the numbers of the examples in the counter, by default 0, 1, ...: a
            subset of a batch keeps its noise.
        mask: multiplies sigma, feature by feature: a scalar, [1, ...] or [B, ...].
        blocks: int32 or int64 [1 or B, 1 or C, ...], the block of each feature from 0 to
            n_blocks - 1 (others are never perturbed by `shared` or `keep`).
        n_blocks: by default blocks.max() + 1, which waits for the device.
        active: integers [K] or [K, B]: of these blocks only this one is perturbed in a sample.
        shared: the features of a block share one value.
        keep: the share of features (of blocks, where there are blocks) that are perturbed; which
            ones is drawn anew for each sample, or antithetic pair.
        clip: the range of the points in the units of the inputs; None on a side leaves it open.
        reflect: mirror points at the ends of the range instead of setting them to the ends.
        scale, shift: [C], an affine map applied in the same pass, as in `path_points`.
        dtype, memory_format, out: of the points, as in `path_points`. Noise is float32, points are
            computed in float32 (float64 for float64 inputs) and rounded once.

    Returns:
        [K * B, ...], the samples outermost. Differentiable with respect to inputs without `clip`.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a shape, device, memory format, range or combination that does not fit.
    """
    op = "perturb"
    check_batch(op, "inputs", inputs)
    sigma = rows_tensor(op, "sigma", sigma, inputs)
    check_floating(op, "sigma", sigma)
    check_same_device(op, "sigma", sigma, inputs)
    if sigma.dim() > 1 or (sigma.dim() == 1 and sigma.shape[0] != inputs.shape[0]):
        raise ValueError(
            f"{op}: sigma must be a number or have shape [{inputs.shape[0]}], got "
            f"{list(sigma.shape)}"
        )
    if n_samples < 0:
        raise ValueError(f"{op}: n_samples must not be negative, got {n_samples}")
    if mask is not None:
        check_floating(op, "mask", mask)
        check_rows(op, "mask", mask, inputs)
    check_affine(op, inputs, scale, shift)
    check_together(op, scale, shift)
    check_written(op, inputs, n_samples * inputs.shape[0], dtype, memory_format, out)
    low, high = _range(op, clip, reflect)
    n_blocks = _check_noise(
        op, inputs.shape, n_samples, inputs, key, distribution, antithetic, first_sample, examples,
        blocks, n_blocks, active, shared, keep,
    )  # fmt: skip
    blocks, active = _narrow(blocks), _narrow(active)
    mask = None if mask is None else mask.to(inputs.dtype)
    noise = (
        distribution, antithetic, first_sample, examples, mask, blocks, n_blocks, active, shared,
        keep, low, high, reflect, scale, shift,
    )  # fmt: skip
    if out is not None:
        torch.ops.pyxai_fast.perturb.out(inputs, n_samples, sigma, key, *noise, out=out)
        return out
    args = (inputs, n_samples, sigma, key, *noise, dtype, memory_format)
    if torch.is_grad_enabled():
        if inputs.requires_grad and clip is not None:
            raise ValueError(
                f"{op}: clip must be None where inputs require grad, got {clip}; clip the points"
            )
        for name, tensor in (("sigma", sigma), ("mask", mask)):
            if tensor is not None and tensor.requires_grad:
                raise ValueError(f"{op}: {name} must not require grad, got a tensor that does")
        points: Tensor = _Perturb.apply(*args)
    else:
        points = torch.ops.pyxai_fast.perturb.default(*args)
    return points


def noise_contract(
    weights: Tensor,
    shape: Sequence[int] | None,
    key: Tensor,
    *,
    distribution: str = "gaussian",
    antithetic: bool = False,
    first_sample: int = 0,
    examples: Tensor | None = None,
    blocks: Tensor | None = None,
    n_blocks: int | None = None,
    active: Tensor | None = None,
    keep: float = 1.0,
    squared: bool = False,
    total: Tensor | None = None,
) -> Tensor:
    """Weights of noisy copies, contracted with the noise that `perturb` drew for them.

    ``sum[b, n] = sum over k of weights[b, k, n] * noise[k, b]``, the noise before sigma and mask.

    With answers s of a model as weights, sum / (K * sigma) estimates the gradient of the smoothed
    model: of E[s(x + sigma z)]. Nothing of the size of all copies is ever in memory.

    Sums are float64 and add the samples in their order, so any split of the samples into chunks,
    any number of threads and every instruction set give the same bits.

    Args:
        weights: [B, K], or [B, K, n] for n targets that share the noise; float16, bfloat16, float32
            or float64.
        shape: of one example's features; None where `total` says it.
        key, distribution, antithetic, first_sample, examples, blocks, n_blocks, active, keep: as
            given to `perturb`. Noise that was `shared` by blocks is contracted block by block: give
            shape=[n_blocks] and, with `active`, blocks=arange(n_blocks)[None].
        squared: contract with the squares of the noise; with squared weights, the second moments
            that standard errors need.
        total: float64 [B, ...] or [B, n, ...], contiguous: continue this sum in place, and return
            it.

    Returns:
        [B, *shape] or [B, n, *shape], contiguous: float32, or float64 for float64 weights; `total`
        when it is given. Not differentiable.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a shape, device, range or combination that does not fit.
    """
    op = "noise_contract"
    check_floating(op, "weights", weights)
    if weights.dim() not in (2, 3):
        raise ValueError(
            f"{op}: weights must have shape [B, K] or [B, K, n], got {list(weights.shape)}"
        )
    if weights.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{op}: weights must not require grad, got a tensor that does")
    lead = [weights.shape[0], *weights.shape[2:]]
    if total is not None:
        check_floating(op, "total", total)
        check_same_device(op, "total", total, weights)
        wanted = lead + list(total.shape[len(lead) :] if shape is None else shape)
        if total.dtype != torch.float64 or list(total.shape) != wanted:
            raise ValueError(
                f"{op}: total must be float64 of shape {wanted}, got {total.dtype} "
                f"{list(total.shape)}"
            )
        check_writable(op, "total", total)
        if not total.is_contiguous():
            raise ValueError(f"{op}: total must be contiguous, got strides {total.stride()}")
        shape = total.shape[len(lead) :]
    elif shape is None:
        raise ValueError(f"{op}: shape must be given without total, got None")
    features = torch.Size((weights.shape[0], *shape))
    n_blocks = _check_noise(
        op, features, weights.shape[1], weights, key, distribution, antithetic, first_sample,
        examples, blocks, n_blocks, active, False, keep,
    )  # fmt: skip
    blocks, active = _narrow(blocks), _narrow(active)
    noise = (
        distribution, antithetic, first_sample, examples, blocks, n_blocks, active, keep, squared,
    )  # fmt: skip
    if total is not None:
        torch.ops.pyxai_fast.noise_contract.out(weights, key, *noise, total=total)
        return total
    contracted: Tensor = torch.ops.pyxai_fast.noise_contract.default(
        weights, list(shape), key, *noise
    )
    return contracted


# --- checks --------------------------------------------------------------------------------------


def _range(
    op: str, clip: tuple[float | None, float | None] | None, reflect: bool
) -> tuple[float | None, float | None]:
    if clip is None:
        if reflect:
            raise ValueError(f"{op}: reflect must come with clip, got clip=None")
        return None, None
    low, high = clip
    if low is not None and high is not None and not low < high:
        raise ValueError(f"{op}: clip must be a range (low, high), got {clip}")
    return low, high


def _narrow(blocks: Tensor | None) -> Tensor | None:
    """Numbers of blocks as the kernels have them, int32: what does not fit is no block."""
    if blocks is None or blocks.dtype == torch.int32:
        return blocks
    known = (blocks >= 0) & (blocks < 2**31)
    return blocks.masked_fill(~known, -1).to(torch.int32)


def _check_noise(
    op: str,
    shape: torch.Size,
    n_samples: int,
    like: Tensor,
    key: Tensor,
    distribution: str,
    antithetic: bool,
    first_sample: int,
    examples: Tensor | None,
    blocks: Tensor | None,
    n_blocks: int | None,
    active: Tensor | None,
    shared: bool,
    keep: float,
) -> int:
    """Checks what is drawn for features of a shape [B, ...]; returns the number of blocks."""
    check_key(op, key, like)
    if distribution not in DISTRIBUTIONS:
        raise ValueError(
            f"{op}: distribution must be one of {', '.join(DISTRIBUTIONS)}, got {distribution!r}"
        )
    if first_sample < 0:
        raise ValueError(f"{op}: first_sample must not be negative, got {first_sample}")
    # What the counter can tell apart; an antithetic pair is one.
    most = MAX_DRAWS * (2 if antithetic else 1)
    if first_sample + n_samples > most:
        raise ValueError(
            f"{op}: first_sample and the number of samples must add up to at most {most}, got "
            f"{first_sample} and {n_samples}"
        )
    if not 0.0 < keep <= 1.0:
        raise ValueError(f"{op}: keep must be in (0, 1], got {keep}")
    for name, integers in (("examples", examples), ("blocks", blocks), ("active", active)):
        if integers is None:
            continue
        if not isinstance(integers, Tensor) or integers.dtype not in (torch.int32, torch.int64):
            got = integers.dtype if isinstance(integers, Tensor) else type(integers).__name__
            raise TypeError(f"{op}: {name} must be an int32 or int64 tensor, got {got}")
        check_same_device(op, name, integers, like)
    batch = shape[0]
    if examples is not None and examples.shape != (batch,):
        raise ValueError(f"{op}: examples must have shape [{batch}], got {list(examples.shape)}")
    if active is not None and active.shape not in ((n_samples,), (n_samples, batch)):
        raise ValueError(
            f"{op}: active must have shape [{n_samples}] or [{n_samples}, {batch}], got "
            f"{list(active.shape)}"
        )
    if blocks is None:
        if shared or active is not None or n_blocks is not None:
            raise ValueError(f"{op}: shared, active and n_blocks must come with blocks, got None")
        return 0
    one_map = len(shape) > 2 and blocks.dim() == len(shape) and blocks.shape[1] == 1
    expected = (shape[1:2] if not one_map else (1,)) + tuple(shape[2:])
    if (
        blocks.dim() != len(shape)
        or tuple(blocks.shape[1:]) != tuple(expected)
        or blocks.shape[0] not in (1, batch)
    ):
        raise ValueError(
            f"{op}: blocks must have shape [1 or {batch}, 1 or C, ...] for features "
            f"{list(shape)}, got {list(blocks.shape)}"
        )
    if n_blocks is None:
        n_blocks = int(blocks.max()) + 1 if blocks.numel() else 1
    if n_blocks < 1:
        raise ValueError(f"{op}: n_blocks must be at least 1, got {n_blocks}")
    return n_blocks


# --- derivatives: a sum over the copies, as path_accumulate with weights of one -------------------


class _Perturb(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        inputs: Tensor,
        n_samples: int,
        sigma: Tensor,
        key: Tensor,
        distribution: str,
        antithetic: bool,
        first_sample: int,
        examples: Tensor | None,
        mask: Tensor | None,
        blocks: Tensor | None,
        n_blocks: int,
        active: Tensor | None,
        shared: bool,
        keep: float,
        low: float | None,
        high: float | None,
        reflect: bool,
        scale: Tensor | None,
        shift: Tensor | None,
        dtype: torch.dtype | None,
        memory_format: torch.memory_format | None,
    ) -> Tensor:
        points: Tensor = torch.ops.pyxai_fast.perturb.default(
            inputs, n_samples, sigma, key, distribution, antithetic, first_sample, examples, mask,
            blocks, n_blocks, active, shared, keep, low, high, reflect, scale, shift, dtype,
            memory_format,
        )  # fmt: skip
        return points

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], inputs[17])
        ctx.n_samples, ctx.arguments = inputs[1], len(inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, scale = ctx.saved_tensors
        if ctx.n_samples == 0:
            return torch.zeros_like(inputs), *[None] * (ctx.arguments - 1)
        ones = torch.ones(ctx.n_samples, dtype=torch.float64, device=grad.device)
        total = path_accumulate(grad.to(compute_dtype(inputs.dtype)), ones)
        if scale is not None:
            total = total * by_channel(scale, inputs, total.dtype)
        return total.to(inputs.dtype), *[None] * (ctx.arguments - 1)


# --- declarations --------------------------------------------------------------------------------


def _fake_perturb(
    inputs: Tensor,
    n_samples: int,
    sigma: Tensor,
    key: Tensor,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    bound = dict(zip(_PERTURB_NAMES, args, strict=False)) | kwargs
    return torch.empty(
        (n_samples * inputs.shape[0], *inputs.shape[1:]),
        dtype=bound.get("dtype") or inputs.dtype,
        device=inputs.device,
        memory_format=bound.get("memory_format") or torch.contiguous_format,
    )


_PERTURB_NAMES = (
    "distribution", "antithetic", "first_sample", "examples", "mask", "blocks", "n_blocks",
    "active", "shared", "keep", "low", "high", "reflect", "scale", "shift", "dtype",
    "memory_format",
)  # fmt: skip


def _fake_contract(weights: Tensor, shape: list[int], *args: Any, **kwargs: Any) -> Tensor:
    return torch.empty(
        (weights.shape[0], *weights.shape[2:], *shape),
        dtype=compute_dtype(weights.dtype),
        device=weights.device,
    )


def _vmap_perturb(
    info: Any,
    in_dims: tuple[int | None, ...],
    inputs: Tensor,
    n_samples: int,
    sigma: Tensor,
    key: Tensor,
    *args: Any,
) -> tuple[Tensor, int]:
    """Folds the mapped dimension V into the batch; each of the V gets the noise of a call alone."""
    named = dict(zip(_PERTURB_NAMES, args, strict=False))
    dims = dict(zip(_PERTURB_NAMES, in_dims[4:], strict=False))
    refused = [dims.get(name) for name in ("examples", "blocks", "active", "scale", "shift")]
    refuse_mapped(
        "perturb", "key, examples, blocks, active, scale and shift", (in_dims[3], *refused)
    )
    size = info.batch_size
    inputs = mapped_first(inputs, in_dims[0], size)
    batch, features = inputs.shape[1], inputs.shape[2:]
    sigma = mapped_first(sigma, in_dims[2], size).reshape(size, -1).expand(size, batch).flatten()
    examples = named.get("examples")
    if examples is None:
        examples = torch.arange(batch, device=inputs.device)
    named["examples"] = examples.repeat(size)
    if (mask := named.get("mask")) is not None:
        named["mask"] = folded_rows(mapped_first(mask, dims["mask"], size), inputs)
    blocks, active = named.get("blocks"), named.get("active")
    if blocks is not None and blocks.shape[0] != 1:
        named["blocks"] = blocks.repeat(size, *[1] * (blocks.dim() - 1))
    if active is not None and active.dim() == 2:
        named["active"] = active.repeat(1, size)
    points = torch.ops.pyxai_fast.perturb.default(
        inputs.flatten(0, 1), n_samples, sigma, key, **named
    )
    points = points.reshape(n_samples, size, batch, *features)
    return points.transpose(0, 1).flatten(1, 2), 0


def _vmap_contract(
    info: Any,
    in_dims: tuple[int | None, ...],
    weights: Tensor,
    shape: list[int],
    key: Tensor,
    *args: Any,
) -> tuple[Tensor, int]:
    """The mapped dimension V becomes more targets: they share the noise."""
    others = (*in_dims[2:],)
    refuse_mapped("noise_contract", "all but the weights", others)
    size = info.batch_size
    weights = mapped_first(weights, in_dims[0], size)  # [V, B, K] or [V, B, K, n]
    targets = weights.shape[3:]
    together = weights.reshape(*weights.shape[:3], -1).permute(1, 2, 0, 3).flatten(2)
    total = torch.ops.pyxai_fast.noise_contract.default(together, shape, key, *args)
    total = total.reshape(weights.shape[1], size, *targets, *shape)
    return total.transpose(0, 1), 0


_NOISE = (
    'str distribution="gaussian", bool antithetic=False, SymInt first_sample=0, '
    "Tensor? examples=None"
)
_BLOCKS = "Tensor? blocks=None, SymInt n_blocks=0, Tensor? active=None"
_PERTURB = (
    f"Tensor inputs, SymInt n_samples, Tensor sigma, Tensor key, {_NOISE}, Tensor? mask=None, "
    f"{_BLOCKS}, bool shared=False, float keep=1.0, float? low=None, float? high=None, "
    "bool reflect=False, Tensor? scale=None, Tensor? shift=None"
)
_CONTRACT = f"Tensor key, {_NOISE}, {_BLOCKS}, float keep=1.0, bool squared=False"

define(
    f"perturb({_PERTURB}, ScalarType? dtype=None, MemoryFormat? memory_format=None) -> Tensor",
    reference=reference.perturb,
    fake=_fake_perturb,
    vmap=_vmap_perturb,
)
define(
    f"perturb.out({_PERTURB}, *, Tensor(a!) out) -> ()",
    reference=reference.perturb_out,
    fake=fake_nothing,
)
define(
    f"noise_contract(Tensor weights, SymInt[] shape, {_CONTRACT}) -> Tensor",
    reference=reference.noise_contract,
    fake=_fake_contract,
    vmap=_vmap_contract,
)
define(
    f"noise_contract.out(Tensor weights, {_CONTRACT}, *, Tensor(a!) total) -> ()",
    reference=reference.noise_contract_out,
    fake=fake_nothing,
)
