"""The ensemble ops against products of matrices and eager expressions."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from contest import (
    DTYPES,
    FORMATS,
    Op,
    Result,
    Rival,
    Setting,
    compiled,
    compiled_in,
    nbytes,
    over_threads,
)
from ensemble_cases import LARGE
from torch import Tensor

from pyxai_fast import ops

IMAGE = "imagenet_224"
# For a GPU: 256 particles of 600 kB.
MANY = replace(LARGE[-2], name="imagenet_224_many", batch=8)
CASES = {case.name: case for case in (*LARGE, MANY)}
NOISE = "with noise"
OBSERVED_VARIANCE = 0.1
LEVELS = {"alpha_bar": 0.5, "alpha_bar_next": 0.6, "step_size": 0.3, "step_proximity": 0.1}


@dataclass(frozen=True)
class Data:
    """The tensors of a setting; `out` is written by every contender. Particles are [B, K, ...]."""

    particles: Tensor
    noise_pred: Tensor
    guide: Tensor
    rows: Tensor
    weights: Tensor
    matrix: Tensor
    outputs: Tensor
    observations: Tensor
    key: Tensor
    eta: float
    out: Tensor

    @property
    def batch(self) -> int:
        return self.particles.shape[0]

    @property
    def flat(self) -> Tensor:
        """[B, K, D] in the order of memory."""
        return in_memory_order(self.particles).flatten(2)

    def shaped(self, rows: Tensor) -> Tensor:
        """[B, n, D] in the order of memory, as [B, n, ...]."""
        return out_of_memory_order(rows, self.particles)

    def each(self, values: Tensor) -> Tensor:
        """[B, K] shaped to multiply particles."""
        return values.view(*values.shape, *[1] * (self.particles.dim() - 2))


def in_memory_order(particles: Tensor) -> Tensor:
    if particles.dim() != 5 or particles.is_contiguous():
        return particles
    return particles.permute(0, 1, 3, 4, 2)


def out_of_memory_order(rows: Tensor, like: Tensor) -> Tensor:
    if like.dim() != 5 or like.is_contiguous():
        return rows.unflatten(2, like.shape[2:])
    channels, height, width = like.shape[2:]
    return rows.unflatten(2, (height, width, channels)).permute(0, 1, 4, 2, 3)


@functools.lru_cache(maxsize=1)
def data(setting: Setting) -> Data:
    made = CASES[setting.case].tensors(
        DTYPES[setting.dtype], FORMATS[setting.layout], setting.device
    )
    names = ("particles", "noise_pred", "guide", "rows", "weights", "matrix")
    return Data(
        **{name: made[name] for name in (*names, "outputs", "observations")},
        key=ops.random_key(1, device=setting.device),
        eta=1.0 if setting.variant == NOISE else 0.0,
        out=torch.empty_like(made["particles"]),
    )


# --- contenders: each takes the data and returns what is timed -----------------------------------


def contract_of_ours(d: Data) -> Callable[[], Result]:
    return lambda: ops.ensemble_contract(d.particles, d.weights)


def variance_of(d: Data) -> Tensor:
    return d.shaped(torch.var(d.flat, dim=1, correction=0, keepdim=True)).squeeze(1)


def contract_by_matmul(d: Data) -> Callable[[], Result]:
    """Weights are centred, so particles need not be; the variance reads them once more."""
    weights = d.weights.mT.to(d.particles.dtype)
    return lambda: (d.shaped(torch.bmm(weights, d.flat)), variance_of(d))


def contract_by_centred(d: Data) -> Callable[[], Result]:
    """The expression of the literature: a centred copy."""
    weights = d.weights.mT.to(d.particles.dtype)

    def run() -> Result:
        centred = d.flat - d.flat.mean(1, keepdim=True)
        variance = d.shaped(centred.square().mean(1, keepdim=True)).squeeze(1)
        return d.shaped(torch.bmm(weights, centred)), variance

    return run


def contract_compiled(d: Data) -> Callable[[], Result]:
    weights = d.weights.mT

    def expression(weights: Tensor, flat: Tensor) -> tuple[Tensor, Tensor]:
        return torch.bmm(weights, flat), torch.var(flat, dim=1, correction=0, keepdim=True)

    fused = compiled(expression)

    def run() -> Result:
        contraction, variance = fused(weights, d.flat)
        return d.shaped(contraction), d.shaped(variance).squeeze(1)

    return run


def moments_of_ours(d: Data) -> Callable[[], Result]:
    return lambda: ops.ensemble_moments(d.particles)


def moments_by_var_mean(d: Data) -> Callable[[], Result]:
    def run() -> Result:
        variance, mean = torch.var_mean(d.flat, dim=1, correction=0, keepdim=True)
        return d.shaped(mean).squeeze(1), d.shaped(variance).squeeze(1)

    return run


def moments_by_mean(d: Data) -> Callable[[], Result]:
    """By way of products of matrices: sums of the particles, and of their squared deviations."""

    def run() -> Result:
        mean = d.flat.mean(1, keepdim=True)
        variance = (d.flat - mean).square_().mean(1, keepdim=True)
        return d.shaped(mean).squeeze(1), d.shaped(variance).squeeze(1)

    return run


def moments_compiled(d: Data) -> Callable[[], Result]:
    def expression(flat: Tensor) -> tuple[Tensor, Tensor]:
        mean = flat.mean(1, keepdim=True)
        return mean, (flat - mean).square().mean(1, keepdim=True)

    fused = compiled(expression)

    def run() -> Result:
        mean, variance = fused(d.flat)
        return d.shaped(mean).squeeze(1), d.shaped(variance).squeeze(1)

    return run


def balanced(d: Data) -> Tensor:
    """A matrix whose rows sum to zero, so that any center will do."""
    return d.matrix - d.matrix.mean(2, keepdim=True)


def transform_of_ours(d: Data) -> Callable[[], Result]:
    matrix = balanced(d)
    return lambda: ops.ensemble_transform(d.particles, matrix, out=d.out)


def transform_by_baddbmm(d: Data) -> Callable[[], Result]:
    """Rows that sum to zero need no center."""
    matrix = balanced(d).to(d.particles.dtype)
    target = in_memory_order(d.out).flatten(2)

    def run() -> Result:
        torch.baddbmm(d.flat, matrix, d.flat, out=target)
        return d.out

    return run


def transform_by_one_matrix(d: Data) -> Callable[[], Result]:
    """The particles themselves are in the matrix, as its diagonal."""
    count = d.particles.shape[1]
    matrix = (balanced(d) + torch.eye(count, device=d.matrix.device)).to(d.particles.dtype)
    target = in_memory_order(d.out).flatten(2)

    def run() -> Result:
        torch.bmm(matrix, d.flat, out=target)
        return d.out

    return run


def transform_by_centred(d: Data) -> Callable[[], Result]:
    """The expression of the literature: a centred copy, and new particles."""
    matrix = balanced(d).to(d.particles.dtype)

    def run() -> Result:
        return d.shaped(d.flat + matrix @ (d.flat - d.flat.mean(1, keepdim=True)))

    return run


def kalman_of_ours(d: Data) -> Callable[[], Result]:
    return lambda: ops.enkf_update(
        d.particles, d.outputs, d.observations, OBSERVED_VARIANCE, out=d.out
    )


def kalman_by_covariances(d: Data) -> Callable[[], Result]:
    """Evensen's equations as they stand: covariances, and a gain [D, n]."""
    count, outputs = d.outputs.shape[1:]
    noise = OBSERVED_VARIANCE * torch.eye(outputs, device=d.outputs.device)

    def run() -> Result:
        anomalies = d.outputs - d.outputs.mean(1, keepdim=True)
        centred = d.flat - d.flat.mean(1, keepdim=True)
        cross = centred.mT @ anomalies / count
        covariance = anomalies.mT @ anomalies / count + noise
        solved = torch.linalg.solve(covariance, (d.observations.unsqueeze(1) - d.outputs).mT)
        return d.shaped(d.flat + (cross @ solved).mT)

    return run


def kalman_by_ensemble(d: Data) -> Callable[[], Result]:
    """A matrix [K, K] first, then one product; in place of centred particles its rows are."""
    count, outputs = d.outputs.shape[1:]
    noise = OBSERVED_VARIANCE * torch.eye(outputs, device=d.outputs.device)
    target = in_memory_order(d.out).flatten(2)

    def run() -> Result:
        anomalies = d.outputs - d.outputs.mean(1, keepdim=True)
        covariance = anomalies.mT @ anomalies / count + noise
        solved = torch.linalg.solve(covariance, (d.observations.unsqueeze(1) - d.outputs).mT)
        matrix = (anomalies @ solved).mT / count
        torch.baddbmm(d.flat, matrix, d.flat, out=target)
        return d.out

    return run


def step_of_ours(d: Data) -> Callable[[], Result]:
    return lambda: ops.guided_step(
        d.particles, d.noise_pred, d.guide, **LEVELS, eta=d.eta, origin=d.rows, key=d.key, out=d.out
    )


def step_expression(
    denoised: Tensor, noise_pred: Tensor, guide: Tensor, origin: Tensor, eta: float
) -> Tensor:
    now, following = LEVELS["alpha_bar"], LEVELS["alpha_bar_next"]
    drawn = eta * math.sqrt((1 - now / following) * (1 - following) / (1 - now))
    axes = tuple(range(2, denoised.dim()))

    def directed(direction: Tensor) -> Tensor:
        return direction / torch.linalg.vector_norm(direction, dim=axes, keepdim=True)

    length = torch.linalg.vector_norm(noise_pred, dim=axes, keepdim=True)
    guidance = LEVELS["step_size"] * length * directed(guide)
    proximity = LEVELS["step_proximity"] * length * directed((denoised - origin).sign())
    moved = math.sqrt(following) * denoised + math.sqrt(1 - following - drawn**2) * noise_pred
    moved = moved + math.sqrt(now * following) * (guidance - proximity)
    return moved + drawn * torch.randn_like(denoised) if drawn else moved


def step_by_expression(d: Data) -> Callable[[], Result]:
    origin = d.rows.unsqueeze(1)
    return lambda: step_expression(d.particles, d.noise_pred, d.guide, origin, d.eta)


def step_in_place(d: Data) -> Callable[[], Result]:
    """With as few passes as eager PyTorch allows."""
    origin = d.rows.unsqueeze(1)
    now, following = LEVELS["alpha_bar"], LEVELS["alpha_bar_next"]
    drawn = d.eta * math.sqrt((1 - now / following) * (1 - following) / (1 - now))
    joint, axes = math.sqrt(now * following), tuple(range(2, d.particles.dim()))
    noise = torch.empty_like(d.out)

    def run() -> Result:
        length = torch.linalg.vector_norm(d.noise_pred, dim=axes, keepdim=True)
        guided = torch.linalg.vector_norm(d.guide, dim=axes, keepdim=True)
        torch.sub(d.particles, origin, out=d.out).sign_()
        near = torch.linalg.vector_norm(d.out, dim=axes, keepdim=True)
        d.out.mul_(-joint * LEVELS["step_proximity"] * length / near)
        d.out.add_(d.particles, alpha=math.sqrt(following))
        d.out.add_(d.noise_pred, alpha=math.sqrt(1 - following - drawn**2))
        d.out.addcmul_(d.guide, joint * LEVELS["step_size"] * length / guided)
        if drawn:
            d.out.add_(noise.normal_(), alpha=drawn)
        return d.out

    return run


def step_compiled(d: Data) -> Callable[[], Result]:
    origin, eta = d.rows.unsqueeze(1), d.eta

    def expression(denoised: Tensor, noise_pred: Tensor, guide: Tensor, origin: Tensor) -> Tensor:
        return step_expression(denoised, noise_pred, guide, origin, eta)

    fused = compiled(expression)
    return lambda: fused(d.particles, d.noise_pred, d.guide, origin)


# --- settings ------------------------------------------------------------------------------------


def settings(op: str, classes: bool, noise: bool = False) -> Iterator[Setting]:
    for case in LARGE:
        if classes or case.columns == 1:
            yield from over_threads(Setting(op, case.name))
    yield from over_threads(Setting(op, IMAGE, layout="channels_last"))
    if noise:
        yield from over_threads(Setting(op, IMAGE, NOISE), Setting(op, "digits_28", NOISE))


def large(op: str) -> list[Setting]:
    return [Setting(op, MANY.name, layout=layout, threads=2) for layout in FORMATS]


def noisy(setting: Setting) -> bool:
    return setting.variant == NOISE


COMPILED = compiled_in(IMAGE, large=MANY.name)
# Ours sums in float64, or shifted by a particle; rivals in float32.
CLOSE = {"float32": 1e-4}

OPS = [
    Op(
        "ensemble",
        "ensemble_contract",
        "Weighted sums of particles, and their variance, in one read. Ours adds shifted particles "
        "in float64, rivals in float32.",
        data,
        contract_of_ours,
        {
            "bmm, torch.var": Rival(contract_by_matmul),
            "a centred copy": Rival(contract_by_centred),
            "torch.compile": Rival(contract_compiled, "compile", COMPILED),
        },
        list(settings("ensemble_contract", classes=True)),
        moved=lambda d: nbytes(d.particles, *[d.rows] * (d.weights.shape[2] + 1)),
        # Many contractions are arithmetic.
        memory_bound=lambda setting: CASES[setting.case].columns == 1,
        tolerance=CLOSE,
        large=large("ensemble_contract"),
    ),
    Op(
        "ensemble",
        "ensemble_moments",
        "Mean and variance of the particles, in one read.",
        data,
        moments_of_ours,
        {
            "torch.var_mean": Rival(moments_by_var_mean),
            "mean, square_, mean": Rival(moments_by_mean),
            "torch.compile": Rival(moments_compiled, "compile", COMPILED),
        },
        list(settings("ensemble_moments", classes=False)),
        moved=lambda d: nbytes(d.particles, d.rows, d.rows),
        tolerance=CLOSE,
        large=large("ensemble_moments"),
    ),
    Op(
        "ensemble",
        "ensemble_transform",
        "Particles moved by combinations of their ensemble, written into a reused buffer: products "
        "of matrices, as the rivals are, but with the bits of the reference.",
        data,
        transform_of_ours,
        {
            "baddbmm(out=)": Rival(transform_by_baddbmm),
            "bmm(out=), the identity in the matrix": Rival(transform_by_one_matrix),
            "a centred copy": Rival(transform_by_centred),
        },
        list(settings("ensemble_transform", classes=False)),
        moved=lambda d: nbytes(d.particles, d.out),
        memory_bound=lambda setting: setting.on_cuda,
        tolerance=CLOSE,
        large=large("ensemble_transform"),
    ),
    Op(
        "ensemble",
        "enkf_update",
        "The analysis step of an ensemble Kalman filter, without drawn noise. Ours solves in "
        "float64.",
        data,
        kalman_of_ours,
        {
            "a matrix [K, K], baddbmm": Rival(kalman_by_ensemble),
            "covariances and a gain [D, n]": Rival(kalman_by_covariances),
        },
        list(settings("enkf_update", classes=True)),
        tolerance=CLOSE,
        large=large("enkf_update"),
    ),
    Op(
        "ensemble",
        "guided_step",
        "A guided step of reverse diffusion, written into a reused buffer. Three norms of every "
        "particle come first, so that memory is read twice where a particle does not fit a cache.",
        data,
        step_of_ours,
        {
            "the expression": Rival(step_by_expression, when=lambda setting: not noisy(setting)),
            "the fewest passes": Rival(step_in_place, when=lambda setting: not noisy(setting)),
            "torch.compile": Rival(
                step_compiled,
                "compile",
                lambda setting: COMPILED(setting) and not noisy(setting),
            ),
            "the fewest passes, normal_": Rival(step_in_place, when=noisy, draws=True),
            "torch.compile, randn": Rival(
                step_compiled,
                "compile",
                lambda setting: COMPILED(setting) and noisy(setting),
                draws=True,
            ),
        },
        list(settings("guided_step", classes=False, noise=True)),
        moved=lambda d: nbytes(d.particles, d.noise_pred, d.guide, d.out),
        memory_bound=lambda setting: not noisy(setting),
        tolerance=CLOSE,
        large=large("guided_step"),
    ),
]
