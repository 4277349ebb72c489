"""The ensemble ops: particles around explained inputs, contracted, transformed and guided.

Sources: Evensen, "The Ensemble Kalman Filter: theoretical formulation and practical implementation"
(2003); Bishop, Etherton and Majumdar, "Adaptive Sampling with the Ensemble Transform Kalman Filter"
(2001); Song, Meng and Ermon, "Denoising Diffusion Implicit Models" (2021).

Particles are [B, K, ...]: K of them for each of B explained inputs, which never mix. Contiguous
ones are read where they lie, and so are model inputs [B * K, C, H, W] in channels_last under
`unflatten(0, (B, K))`. A center, origin or taper is a number or a tensor [], [1, ...] or [B, ...].

None of these ops is differentiable: an argument that requires grad in grad mode is a ValueError.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..reference.path import compute_dtype, memory_format_of
from ..reference.random import normals_of_features
from .batching import folded_rows, mapped_first
from .checks import check_floating, check_rows, check_same_device, check_writable
from .random_key import check_key
from .registry import define, fake_nothing

# Particles from which on ensemble_transform is torch.baddbmm: arithmetic takes longer than memory.
MATMUL_FROM = 64


def ensemble_contract(
    particles: Tensor, weights: Tensor, center: Tensor | float | None = None
) -> tuple[Tensor, Tensor]:
    """Weighted sums of centred particles, and the particles' variance, in one read of them.

    ``contraction[b] = sum over k of weights[b, k] * (particles[b, k] - center[b])``, the
    cross-covariance C_xf of particles with outputs times a direction when the weights of an example
    are centred outputs over K; the sum over features of the variance is the trace of C_xx.

    Where an example's weights sum to zero, any center gives the same contraction but for rounding,
    and the nearer to the particles the better. Differences are rounded once to float32, exactly
    representable within a factor of two of the center; sums are float64 and add the particles in
    their order, so every number of threads and every instruction set give the same bits.

    Args:
        particles: [B, K, ...], K >= 1, float16, bfloat16, float32 or float64.
        weights: [B, K], or [B, K, n] for n contractions; rounded once to float32 (float64 for
            float64 particles).
        center: a number, or a tensor [], [1, ...] or [B, ...]; each example's first particle by
            default.

    Returns:
        The contraction, [B, ...] for weights [B, K] and [B, n, ...] for [B, K, n], and the
        population variance [B, ...]; float32, or float64 for float64 particles.

    Raises:
        TypeError: an argument that is no floating-point tensor (or number, for center).
        ValueError: a shape or device that does not fit, or requires_grad in grad mode.
    """
    op = "ensemble_contract"
    _check_particles(op, "particles", particles)
    check_floating(op, "weights", weights)
    check_same_device(op, "weights", weights, particles)
    if weights.dim() not in (2, 3) or weights.shape[:2] != particles.shape[:2]:
        raise ValueError(
            f"{op}: weights must have shape {list(particles.shape[:2])} or "
            f"{[*particles.shape[:2], 'n']}, got {list(weights.shape)}"
        )
    rows = _rows(op, "center", center, particles)
    _check_no_grad(op, particles=particles, weights=weights, center=rows)
    columns = weights if weights.dim() == 3 else weights[:, :, None]
    contraction, variance = torch.ops.pyxai_fast.ensemble_contract.default(
        particles.flatten(0, 1), columns, rows
    )
    if weights.dim() == 3:
        contraction = contraction.unflatten(0, (weights.shape[0], weights.shape[2]))
    return contraction, variance


def ensemble_moments(
    particles: Tensor, center: Tensor | float | None = None
) -> tuple[Tensor, Tensor]:
    """Mean and population variance of the particles of each example, in one read of them.

    Both from sums shifted by the center, as in `ensemble_contract`.

    Args:
        particles: [B, K, ...], K >= 1, float16, bfloat16, float32 or float64.
        center: a constant near the particles; each example's first particle by default.

    Returns:
        Mean and variance, [B, ...] each; float32, or float64 for float64 particles.

    Raises:
        TypeError, ValueError: as `ensemble_contract`.
    """
    op = "ensemble_moments"
    _check_particles(op, "particles", particles)
    rows = _rows(op, "center", center, particles)
    _check_no_grad(op, particles=particles, center=rows)
    mean, variance = torch.ops.pyxai_fast.ensemble_moments.default(
        particles.flatten(0, 1), particles.shape[1], rows
    )
    return mean, variance


def ensemble_transform(
    particles: Tensor,
    matrix: Tensor,
    center: Tensor | float | None = None,
    taper: Tensor | float | None = None,
    *,
    add_particles: bool = True,
    out: Tensor | None = None,
) -> Tensor:
    """Each particle moved by a combination of its ensemble, in one read and one write of them.

    ``out[b, i] = particles[b, i] + taper[b] * sum over j of matrix[b, i, j] * (particles[b, j] -``
    ``center[b])``; without `add_particles` only the increment.

    Where the rows of a matrix sum to zero, any center gives the same result but for rounding, and
    the nearer to the particles the better. Sums are float32 (float64 for float64 particles) in the
    order of j, rounded after each product: the same bits for any number of threads and every
    instruction set. Ensembles so large that arithmetic takes longer than memory (K >= 64) go
    through torch.baddbmm on a centred copy, which sums in an order of its own.

    Args:
        particles: [B, K, ...], K >= 1, float16, bfloat16, float32 or float64.
        matrix: [B, K, K]; rounded once to the type computed in.
        center: a number, or a tensor [], [1, ...] or [B, ...]; each example's first particle by
            default.
        taper: shaped as a center: multiplies the increment of each feature.
        add_particles: whether the increment is added to the particles, or is the result.
        out: like the particles, its merged form [B * K, ...] contiguous or channels_last; it must
            not overlap what is read.

    Returns:
        [B, K, ...], the particles' dtype and memory format; `out` when it is given.

    Raises:
        TypeError, ValueError: as `ensemble_contract`.
    """
    op = "ensemble_transform"
    _check_particles(op, "particles", particles)
    check_floating(op, "matrix", matrix)
    check_same_device(op, "matrix", matrix, particles)
    batch, count = particles.shape[:2]
    if matrix.shape != (batch, count, count):
        raise ValueError(
            f"{op}: matrix must have shape {[batch, count, count]}, got {list(matrix.shape)}"
        )
    center_rows = _rows(op, "center", center, particles)
    taper_rows = _rows(op, "taper", taper, particles)
    _check_no_grad(op, particles=particles, matrix=matrix, center=center_rows, taper=taper_rows)
    merged = particles.flatten(0, 1)
    target = None if out is None else _merged_out(op, out, particles)
    if count >= MATMUL_FROM:
        moved = _transform_by_matmul(merged, matrix, center_rows, taper_rows, add_particles)
        if target is None or out is None:
            return _split(moved, batch, count)
        target.copy_(moved)
        return out
    args = (merged, matrix, center_rows, taper_rows, add_particles)
    if target is None or out is None:
        moved = torch.ops.pyxai_fast.ensemble_transform.default(*args)
        return _split(moved, batch, count)
    torch.ops.pyxai_fast.ensemble_transform.out(*args, out=target)
    return out


def enkf_update(
    particles: Tensor,
    outputs: Tensor,
    observations: Tensor,
    noise_covariance: Tensor | float,
    *,
    method: str = "stochastic",
    inflation: float = 1.0,
    localisation: Tensor | float | None = None,
    key: Tensor | None = None,
    center: Tensor | float | None = None,
    out: Tensor | None = None,
) -> Tensor:
    r"""The analysis step of an ensemble Kalman filter: particles moved towards the observations.

    With x_k the particles, g_k their outputs, y the observation and R the noise covariance of an
    example, and C population covariances of the ensemble, "stochastic" is

    ``x_k' = x_k + C_xg (C_gg + R)^-1 (y + e_k - g_k)``

    (Evensen 2003, equations 19 to 21), where e_k is drawn from N(0, R) by `key`, less its mean over
    the ensemble, and is zero without a key. "transform" (Bishop et al. 2001, with the symmetric
    square root) moves the mean by ``C_xg (C_gg + R)^-1 (y - mean g)`` and turns the deviations from
    it so that their covariance is exactly ``C_xx - C_xg (C_gg + R)^-1 C_gx``; it draws nothing.

    The algebra. Let R = L L^T, Y [K, n] the outputs' deviations from their mean, times
    inflation / sqrt(K), times L^-T, and V [K, n] the innovations (y + e_k - g_k), of inflated
    outputs, times L^-T. Either method is ``x_i' = x_i + sum_j T_ij (x_j - c)`` with

    - stochastic: ``T = r / sqrt(K) V (1 + Y^T Y)^-1 Y^T + (r - 1) (1 - J)``,
      and ``(1 + Y^T Y)^-1 Y^T = Y^T (1 + Y Y^T)^-1``: the smaller of an n x n and a K x K system;
    - transform: ``T = r / sqrt(K) mean(V) (1 + Y^T Y)^-1 Y^T + r M - 1 - (r - 1) J``,
      ``M = (1 + Y Y^T)^-1/2``, both from the singular values of Y;

    r the inflation, J the matrix of entries 1/K. The rows of T sum to zero, as those of Y^T do and
    M J = J, so c is any constant near the particles, and `ensemble_transform` applies T in one read
    and one write of them. The eigenvalues of what is inverted are at least one: an ensemble without
    variance stays where it is. T is computed in float64.

    Args:
        particles: [B, K, ...], K >= 1, float16, bfloat16, float32 or float64.
        outputs: [B, K, n], the model's answers to the particles.
        observations: [B, n].
        noise_covariance: R: a number > 0, variances [n], or a positive definite [n, n].
        method: "stochastic" or "transform".
        inflation: r > 0: particles and outputs are first spread about their means by it.
        localisation: a taper in [0, 1] for the increment of each feature: [...] or [B, ...].
        key: as `random_key` makes it, for the stochastic method.
        center: as in `ensemble_transform`.
        out: as in `ensemble_transform`.

    Returns:
        [B, K, ...], the particles' dtype and memory format; `out` when it is given.

    Raises:
        TypeError, ValueError: as `ensemble_contract`; torch.linalg.LinAlgError for a noise
            covariance [n, n] that is not positive definite.
    """
    op = "enkf_update"
    _check_particles(op, "particles", particles)
    for name, tensor in (("outputs", outputs), ("observations", observations)):
        check_floating(op, name, tensor)
        check_same_device(op, name, tensor, particles)
    batch, count = particles.shape[:2]
    if outputs.dim() != 3 or outputs.shape[:2] != (batch, count):
        raise ValueError(
            f"{op}: outputs must have shape {[batch, count, 'n']}, got {list(outputs.shape)}"
        )
    if observations.shape != (batch, outputs.shape[2]):
        raise ValueError(
            f"{op}: observations must have shape {[batch, outputs.shape[2]]}, got "
            f"{list(observations.shape)}"
        )
    if method not in ("stochastic", "transform"):
        raise ValueError(f"{op}: method must be 'stochastic' or 'transform', got {method!r}")
    if not inflation > 0:
        raise ValueError(f"{op}: inflation must be greater than 0, got {inflation}")
    if key is not None:
        if method == "transform":
            raise ValueError(f"{op}: key must be None with method 'transform', got a tensor")
        check_key(op, key, particles)
    if isinstance(localisation, Tensor) and localisation.dim() == particles.dim() - 2 > 0:
        localisation = localisation.unsqueeze(0)
    covariance = noise_covariance if isinstance(noise_covariance, Tensor) else None
    _check_no_grad(op, outputs=outputs, observations=observations, noise_covariance=covariance)
    matrix = _kalman_matrix(outputs, observations, noise_covariance, method, inflation, key)
    return ensemble_transform(particles, matrix, center, localisation, out=out)


def guided_step(
    denoised: Tensor,
    noise_pred: Tensor,
    guide: Tensor,
    *,
    alpha_bar: float,
    alpha_bar_next: float,
    eta: float,
    step_size: float,
    step_proximity: float,
    origin: Tensor | float,
    center: Tensor | float | None = None,
    weights: Tensor | None = None,
    key: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """One reverse diffusion step of every particle, guided, and held near the explained input.

    Song et al. (2021), equation 12, with two more terms: for each particle, |.| the norm over its
    features,

    ``next = sqrt(a') denoised + c1 noise + c2 noise_pred + sqrt(a a') (guidance - proximity)``,
    ``guidance  = step_size |noise_pred| d / |d|``, ``d = weight (guide - center)``,
    ``proximity = step_proximity |noise_pred| s / |s|``, ``s = sign(denoised - origin)``,
    ``c1 = eta sqrt((1 - a / a') (1 - a') / (1 - a))``, ``c2 = sqrt(1 - a' - c1^2)``,

    where a is `alpha_bar` and a' `alpha_bar_next`; a direction whose norm is zero contributes
    nothing. Only the sign of a weight matters. With both step sizes zero and eta = 0 it is plain
    DDIM.

    Two reads of the particles, the second of which writes. Norms are float64 sums in a fixed order
    of the features in memory; noise is drawn by the key, b, k and the feature's place in contiguous
    order, whatever the memory format. So results are the same bits for any number of threads and
    every instruction set.

    Args:
        denoised: [B, K, ...], the model's estimates of clean particles.
        noise_pred: like `denoised`, the noise it predicted.
        guide: like `denoised`: ensemble guidance (`ensemble_transform` without the particles), or
            the particles themselves with their mean as center and weights.
        alpha_bar, alpha_bar_next: signal levels, 0 < alpha_bar < 1, alpha_bar <= alpha_bar_next
            <= 1.
        eta: 0 draws no noise (DDIM), 1 as much as DDPM.
        step_size, step_proximity: in units of the norm of the predicted noise.
        origin: the explained inputs: a number, or a tensor [], [1, ...] or [B, ...].
        center: shaped as an origin; 0 by default.
        weights: [B, K]; 1 by default.
        key: as `random_key` makes it; needed where eta draws noise.
        out: like `denoised`, its merged form [B * K, ...] contiguous or channels_last; it must not
            overlap what is read.

    Returns:
        [B, K, ...], the dtype and memory format of `denoised`; `out` when it is given.

    Raises:
        TypeError, ValueError: as `ensemble_contract`, and for numbers out of range.
    """
    op = "guided_step"
    _check_particles(op, "denoised", denoised)
    for name, tensor in (("noise_pred", noise_pred), ("guide", guide)):
        check_floating(op, name, tensor)
        check_same_device(op, name, tensor, denoised)
        if tensor.shape != denoised.shape:
            raise ValueError(
                f"{op}: {name} must have shape {list(denoised.shape)}, got {list(tensor.shape)}"
            )
    if origin is None:
        raise TypeError(f"{op}: origin must be a number or a tensor, got NoneType")
    origin_rows = _rows(op, "origin", origin, denoised)
    center_rows = _rows(op, "center", 0.0 if center is None else center, denoised)
    batch, count = denoised.shape[:2]
    if weights is not None:
        check_floating(op, "weights", weights)
        check_same_device(op, "weights", weights, denoised)
        if weights.shape != (batch, count):
            raise ValueError(
                f"{op}: weights must have shape {[batch, count]}, got {list(weights.shape)}"
            )
    if key is not None:
        check_key(op, key, denoised)
    _check_no_grad(
        op,
        denoised=denoised,
        noise_pred=noise_pred,
        guide=guide,
        origin=origin_rows,
        center=center_rows,
        weights=weights,
    )
    noise, direction = _ddim_coefficients(op, alpha_bar, alpha_bar_next, eta)
    if noise != 0.0 and key is None:
        raise ValueError(f"{op}: key must be given where eta draws noise, got None")
    joint = math.sqrt(alpha_bar * alpha_bar_next)
    args = (
        denoised.flatten(0, 1),
        noise_pred.flatten(0, 1),
        guide.flatten(0, 1),
        origin_rows,
        center_rows,
        weights,
        key,
        count,
        math.sqrt(alpha_bar_next),
        noise,
        direction,
        joint * step_size,
        joint * step_proximity,
    )
    if out is None:
        following: Tensor = torch.ops.pyxai_fast.guided_step.default(*args)
        return _split(following, batch, count)
    torch.ops.pyxai_fast.guided_step.out(*args, out=_merged_out(op, out, denoised))
    return out


def _split(merged: Tensor, batch: int, count: int) -> Tensor:
    """[B * K, ...] as [B, K, ...]."""
    split: Tensor = merged.unflatten(0, (batch, count))
    return split


# --- numbers -------------------------------------------------------------------------------------


def _ddim_coefficients(
    op: str, alpha_bar: float, alpha_bar_next: float, eta: float
) -> tuple[float, float]:
    """The factors of fresh and of predicted noise."""
    if not (0 < alpha_bar <= alpha_bar_next <= 1 and alpha_bar < 1):
        raise ValueError(
            f"{op}: alpha_bar must be in (0, 1) and alpha_bar_next in [alpha_bar, 1], got "
            f"{alpha_bar} and {alpha_bar_next}"
        )
    left = 1 - alpha_bar_next
    noise = eta * math.sqrt((1 - alpha_bar / alpha_bar_next) * left / (1 - alpha_bar))
    if not (eta >= 0 and noise * noise <= left):
        raise ValueError(
            f"{op}: eta must be at least 0 and leave sqrt(1 - alpha_bar_next - c1^2) real, got "
            f"{eta}"
        )
    return noise, math.sqrt(left - noise * noise)


def _kalman_matrix(
    outputs: Tensor,
    observations: Tensor,
    noise_covariance: Tensor | float,
    method: str,
    inflation: float,
    key: Tensor | None,
) -> Tensor:
    """T of enkf_update's docstring, float64 [B, K, K]."""
    batch, count, n = outputs.shape
    outputs = outputs.to(torch.float64)
    mean = outputs.mean(1, keepdim=True)
    deviations = outputs - mean
    innovations = observations.to(torch.float64).unsqueeze(1) - mean - inflation * deviations
    anomalies = _whitened(deviations * (inflation / math.sqrt(count)), noise_covariance)
    innovations = _whitened(innovations, noise_covariance)
    scale = inflation / math.sqrt(count)
    identity = torch.eye(count, dtype=torch.float64, device=outputs.device)
    if method == "transform":
        left, values, right = torch.linalg.svd(anomalies, full_matrices=False)
        gains = values / (1 + values.square())
        shift = (innovations.mean(1, keepdim=True) @ right.mT * gains.unsqueeze(1)) @ left.mT
        shrunk = (1 + values.square()).rsqrt() - 1
        root = identity + (left * shrunk.unsqueeze(1)) @ left.mT
        matrix = scale * shift + inflation * root - identity - (inflation - 1) / count
    else:
        if key is not None:
            rows = torch.arange(batch * count, device=outputs.device)
            drawn = normals_of_features(n, rows // count, (rows % count)[:, None], key)
            drawn = drawn.to(torch.float64).reshape(batch, count, n)
            innovations = innovations + drawn - drawn.mean(1, keepdim=True)
        if n <= count:
            inner = torch.eye(n, dtype=torch.float64, device=outputs.device)
            inner = torch.linalg.cholesky(inner + anomalies.mT @ anomalies)
            gain = torch.cholesky_solve(anomalies.mT, inner)
        else:
            inner = torch.linalg.cholesky(identity + anomalies @ anomalies.mT)
            gain = torch.cholesky_solve(anomalies, inner).mT
        matrix = scale * innovations @ gain + (inflation - 1) * (identity - 1 / count)
    # Rows that sum to zero but for the rounding to the particles' type.
    balanced: Tensor = matrix - matrix.mean(2, keepdim=True)
    return balanced


def _whitened(rows: Tensor, covariance: Tensor | float) -> Tensor:
    """Rows [B, K, n] times L^-T, where the covariance is L L^T."""
    op, n = "enkf_update", rows.shape[2]
    if not isinstance(covariance, Tensor):
        if not isinstance(covariance, (int, float)):
            raise TypeError(
                f"{op}: noise_covariance must be a number or a tensor, got "
                f"{type(covariance).__name__}"
            )
        if not covariance > 0:
            raise ValueError(f"{op}: noise_covariance must be greater than 0, got {covariance}")
        return rows / math.sqrt(covariance)
    check_floating(op, "noise_covariance", covariance)
    check_same_device(op, "noise_covariance", covariance, rows)
    covariance = covariance.to(torch.float64)
    if covariance.shape == (n, n) and covariance.dim() == 2:
        root = torch.linalg.cholesky(covariance)
        solved: Tensor = torch.linalg.solve_triangular(root.mT, rows, upper=True, left=False)
        return solved
    if covariance.shape not in ((), (n,)):
        raise ValueError(
            f"{op}: noise_covariance must be a number, or have shape {[n]} or {[n, n]}, got "
            f"{list(covariance.shape)}"
        )
    if not torch.compiler.is_compiling() and not bool((covariance > 0).all()):
        raise ValueError(f"{op}: noise_covariance must be greater than 0, got other variances")
    return rows / covariance.sqrt()


def _transform_by_matmul(
    particles: Tensor,
    matrix: Tensor,
    center: Tensor | None,
    taper: Tensor | None,
    add_particles: bool,
) -> Tensor:
    """ensemble_transform of merged particles by torch.baddbmm."""
    batch, count = matrix.shape[:2]
    memory_format = memory_format_of(particles)
    compute = compute_dtype(particles.dtype)

    def in_memory_order(rows: Tensor, count: int) -> Tensor:
        """[B, count, features], in the type computed in."""
        if rows.dim() > 2 and memory_format != torch.contiguous_format:
            rows = rows.movedim(1, -1)
        return rows.to(compute).reshape(rows.shape[0] // count, count, math.prod(rows.shape[1:]))

    many = in_memory_order(particles, count)
    origin = many[:, :1] if center is None else center
    if origin.dim() > 0 and center is not None:
        origin = in_memory_order(center, 1)
    shifted = many - origin
    matrix = matrix.to(compute)
    if taper is not None:
        moved = torch.bmm(matrix, shifted)
        moved *= taper if taper.dim() == 0 else in_memory_order(taper, 1)
        if add_particles:
            moved += many
    else:
        moved = torch.baddbmm(many, matrix, shifted) if add_particles else matrix @ shifted
    features = particles.shape[1:]
    if memory_format == torch.contiguous_format:
        moved = moved.reshape(batch * count, *features)
    else:
        moved = moved.reshape(batch * count, *features[1:], features[0]).movedim(-1, 1)
    return moved.to(particles.dtype)


# --- declarations --------------------------------------------------------------------------------


def _empty(like: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(
        (rows, *like.shape[1:]),
        dtype=dtype,
        device=like.device,
        memory_format=memory_format_of(like),
    )


def _fake_contract(
    particles: Tensor, weights: Tensor, center: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    batch, _, columns = weights.shape
    dtype = compute_dtype(particles.dtype)
    return _empty(particles, batch * columns, dtype), _empty(particles, batch, dtype)


def _fake_moments(
    particles: Tensor, count: int, center: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    batch, dtype = particles.shape[0] // count, compute_dtype(particles.dtype)
    return _empty(particles, batch, dtype), _empty(particles, batch, dtype)


def _fake_like_first(particles: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return _empty(particles, particles.shape[0], particles.dtype)


def _mapped_rows(
    rows: Tensor | None, dim: int | None, size: int, batch: int, particles: Tensor
) -> Tensor | None:
    """Rows of any kind for particles [V, B * K, ...], as [V * B, ...]."""
    if rows is None:
        return None
    return folded_rows(mapped_first(rows, dim, size), particles[:, :batch])


def _vmap_contract(
    info: Any,
    in_dims: tuple[int | None, ...],
    particles: Tensor,
    weights: Tensor,
    center: Tensor | None = None,
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    size = info.batch_size
    particles = mapped_first(particles, in_dims[0], size)
    weights = mapped_first(weights, in_dims[1], size)
    rows = _mapped_rows(center, _dim(in_dims, 2), size, weights.shape[1], particles)
    both = torch.ops.pyxai_fast.ensemble_contract.default(
        particles.flatten(0, 1), weights.flatten(0, 1), rows
    )
    return tuple(one.unflatten(0, (size, -1)) for one in both), (0, 0)


def _vmap_moments(
    info: Any,
    in_dims: tuple[int | None, ...],
    particles: Tensor,
    count: int,
    center: Tensor | None = None,
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    size = info.batch_size
    particles = mapped_first(particles, in_dims[0], size)
    rows = _mapped_rows(center, _dim(in_dims, 2), size, particles.shape[1] // count, particles)
    both = torch.ops.pyxai_fast.ensemble_moments.default(particles.flatten(0, 1), count, rows)
    return tuple(one.unflatten(0, (size, -1)) for one in both), (0, 0)


def _vmap_transform(
    info: Any,
    in_dims: tuple[int | None, ...],
    particles: Tensor,
    matrix: Tensor,
    center: Tensor | None = None,
    taper: Tensor | None = None,
    add_particles: bool = True,
) -> tuple[Tensor, int]:
    size = info.batch_size
    particles = mapped_first(particles, in_dims[0], size)
    matrix = mapped_first(matrix, in_dims[1], size)
    batch = matrix.shape[1]
    moved = torch.ops.pyxai_fast.ensemble_transform.default(
        particles.flatten(0, 1),
        matrix.flatten(0, 1),
        _mapped_rows(center, _dim(in_dims, 2), size, batch, particles),
        _mapped_rows(taper, _dim(in_dims, 3), size, batch, particles),
        add_particles,
    )
    return moved.unflatten(0, (size, -1)), 0


def _vmap_step(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
    """One by one: the noise of an example goes by its number in its own batch."""
    steps = []
    for index in range(info.batch_size):
        own = [
            arg if dim is None else arg.select(dim, index)
            for arg, dim in zip(args, in_dims, strict=True)
        ]
        steps.append(torch.ops.pyxai_fast.guided_step.default(*own))
    return torch.stack(steps), 0


def _dim(in_dims: tuple[int | None, ...], position: int) -> int | None:
    return in_dims[position] if position < len(in_dims) else None


define(
    "ensemble_contract(Tensor particles, Tensor weights, Tensor? center=None) -> (Tensor, Tensor)",
    reference=reference.ensemble_contract,
    fake=_fake_contract,
    vmap=_vmap_contract,
)
define(
    "ensemble_moments(Tensor particles, int count, Tensor? center=None) -> (Tensor, Tensor)",
    reference=reference.ensemble_moments,
    fake=_fake_moments,
    vmap=_vmap_moments,
)
_TRANSFORM = (
    "Tensor particles, Tensor matrix, Tensor? center=None, Tensor? taper=None, "
    "bool add_particles=True"
)
define(
    f"ensemble_transform({_TRANSFORM}) -> Tensor",
    reference=reference.ensemble_transform,
    fake=_fake_like_first,
    vmap=_vmap_transform,
)
define(
    f"ensemble_transform.out({_TRANSFORM}, *, Tensor(a!) out) -> ()",
    reference=reference.ensemble_transform_out,
    fake=fake_nothing,
)
_STEP = (
    "Tensor denoised, Tensor noise_pred, Tensor guide, Tensor origin, Tensor center, "
    "Tensor? weights, Tensor? key, int count, float signal, float noise, float direction, "
    "float guidance, float proximity"
)
define(
    f"guided_step({_STEP}) -> Tensor",
    reference=reference.guided_step,
    fake=_fake_like_first,
    vmap=_vmap_step,
)
define(
    f"guided_step.out({_STEP}, *, Tensor(a!) out) -> ()",
    reference=reference.guided_step_out,
    fake=fake_nothing,
)


# --- checks --------------------------------------------------------------------------------------


def _check_particles(op: str, name: str, particles: Tensor) -> None:
    check_floating(op, name, particles)
    if particles.dim() < 2 or particles.shape[1] == 0:
        raise ValueError(
            f"{op}: {name} must have shape [B, K, ...] with K >= 1, got {list(particles.shape)}"
        )


def _rows(op: str, name: str, value: Tensor | float | None, particles: Tensor) -> Tensor | None:
    """A number or rows [], [1, ...] or [B, ...], in the type computed in."""
    if value is None:
        return None
    dtype = compute_dtype(particles.dtype)
    if isinstance(value, (int, float)):
        return torch.full((), value, dtype=dtype, device=particles.device)
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be a number or a tensor, got {type(value).__name__}")
    check_floating(op, name, value)
    check_rows(op, name, value, particles[:, 0])
    return value.to(dtype)


def _check_no_grad(op: str, **tensors: Tensor | None) -> None:
    if not torch.is_grad_enabled():
        return
    for name, tensor in tensors.items():
        if tensor is not None and tensor.requires_grad:
            raise ValueError(
                f"{op}: {name} must not require grad in grad mode, got a tensor that does: the op "
                "is not differentiable"
            )


def _merged_out(op: str, out: Tensor, particles: Tensor) -> Tensor:
    """[B * K, ...], a view of `out`."""
    check_floating(op, "out", out)
    check_same_device(op, "out", out, particles)
    if out.shape != particles.shape or out.dtype != particles.dtype:
        raise ValueError(
            f"{op}: out must be {particles.dtype} {list(particles.shape)}, got {out.dtype} "
            f"{list(out.shape)}"
        )
    batch, count = out.shape[:2]
    if batch > 1 and out.stride(0) != count * out.stride(1):
        raise ValueError(
            f"{op}: out must be contiguous or channels_last, got strides {out.stride()}"
        )
    merged = out.flatten(0, 1)
    check_writable(op, "out", merged)
    return merged
