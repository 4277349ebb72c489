"""The noise ops against the best plain PyTorch and the expressions of captum's NoiseTunnel."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from contest import (
    DTYPES,
    FORMATS,
    Op,
    Rival,
    Setting,
    compiled,
    compiled_in,
    nbytes,
    over_threads,
)
from noise_cases import LARGE
from torch import Tensor

from pyxai_fast import ops

SIGMA = 0.25
RADEMACHER, ORTHOGONAL = "rademacher", "orthogonal"
TEN = "10 targets"
IMAGE = "imagenet_224"
# Many inputs with few samples; and, for a GPU, many of both.
BATCH = replace(LARGE[-1], name="imagenet_224_batch", samples=2, batch=32)
MANY = replace(LARGE[-1], name="imagenet_224_many", samples=100, batch=8)
CASES = {case.name: case for case in (*LARGE, BATCH, MANY)}


@dataclass(frozen=True)
class Data:
    """The tensors of a setting; `out` and `total` are written by every contender."""

    samples: int
    inputs: Tensor
    weights: Tensor
    key: Tensor
    distribution: str
    out: Tensor
    total: Tensor

    @property
    def many(self) -> tuple[int, ...]:
        """[K, B, ...]"""
        return (self.samples, *self.inputs.shape)

    @property
    def by_sample(self) -> Tensor:
        """The buffer as [K, B, ...]."""
        return self.out.unflatten(0, (self.samples, -1))

    @property
    def drawn(self) -> int:
        return self.samples * self.inputs.numel()


@functools.lru_cache(maxsize=1)
def data(setting: Setting) -> Data:
    case = CASES[setting.case]
    dtype, layout = DTYPES[setting.dtype], FORMATS[setting.layout]
    inputs = case.inputs(dtype, layout, setting.device)
    targets = 10 if setting.variant == TEN else 1
    weights = replace(case, targets=targets).weights(device=setting.device)
    rows = (case.samples * case.batch, *case.features)
    out = torch.empty(rows, dtype=dtype, device=setting.device)
    return Data(
        case.samples,
        inputs,
        weights,
        ops.random_key(1, device=setting.device),
        setting.variant if setting.variant in (RADEMACHER, ORTHOGONAL) else "gaussian",
        out.contiguous(memory_format=layout) if len(rows) == 4 else out,
        torch.zeros(
            (case.batch, targets, *case.features), dtype=torch.float64, device=setting.device
        ),
    )


# --- contenders of perturb: each takes the data and returns what is timed ------------------------


def perturb_of_ours(d: Data) -> Callable[[], Tensor]:
    return lambda: ops.perturb(
        d.inputs, d.samples, SIGMA, d.key, distribution=d.distribution, out=d.out
    )


def perturb_by_randn(d: Data) -> Callable[[], Tensor]:
    """The expression of the literature: everything is new."""

    def run() -> Tensor:
        noise = torch.randn(d.many, dtype=d.inputs.dtype, device=d.inputs.device)
        return torch.add(d.inputs, noise, alpha=SIGMA).flatten(0, 1)

    return run


def perturb_by_normal_in_place(d: Data) -> Callable[[], Tensor]:
    """Drawn where the points will be."""

    def run() -> Tensor:
        d.by_sample.normal_(0.0, SIGMA).add_(d.inputs)
        return d.out

    return run


def perturb_by_buffers(d: Data) -> Callable[[], Tensor]:
    """A buffer for the noise and one for the points."""
    noise = torch.empty_like(d.by_sample)

    def run() -> Tensor:
        torch.add(d.inputs, noise.normal_(), alpha=SIGMA, out=d.by_sample)
        return d.out

    return run


def perturb_compiled(d: Data) -> Callable[[], Tensor]:
    def expression(inputs: Tensor, out: Tensor) -> None:
        out.copy_(inputs + SIGMA * torch.randn(out.shape, dtype=out.dtype, device=out.device))

    fused = compiled(expression)

    def run() -> Tensor:
        fused(d.inputs, d.by_sample)
        return d.out

    return run


def perturb_by_noise_tunnel(d: Data) -> Callable[[], Tensor]:
    """captum's: inputs repeated, noise drawn with a tensor of standard deviations."""

    def run() -> Tensor:
        inputs = torch.repeat_interleave(d.inputs, d.samples, dim=0)
        deviations = torch.full_like(inputs, SIGMA)
        return inputs + torch.normal(torch.zeros_like(inputs), deviations)

    return run


def perturb_by_bernoulli(d: Data) -> Callable[[], Tensor]:
    """Coins in place; the inputs are lowered once, instead of every sign."""

    def run() -> Tensor:
        lowered = d.inputs - SIGMA
        d.by_sample.bernoulli_(0.5).mul_(2 * SIGMA).add_(lowered)
        return d.out

    return run


def signs_of_bytes(d: Data) -> Callable[[], Tensor]:
    """[K, B, ...] of +1 and -1: random bytes, each looked up as eight signs."""
    count = -(-d.drawn // 8)
    bits = torch.arange(256)[:, None] >> torch.arange(8) & 1
    table = (2.0 * bits - 1.0).to(d.inputs.device, d.inputs.dtype)

    def run() -> Tensor:
        drawn = torch.randint(0, 256, (count,), dtype=torch.int32, device=d.inputs.device)
        return table.index_select(0, drawn).flatten()[: d.drawn].view(d.many)

    return run


def perturb_by_bytes(d: Data) -> Callable[[], Tensor]:
    signs = signs_of_bytes(d)

    def run() -> Tensor:
        torch.add(d.inputs, signs(), alpha=SIGMA, out=d.by_sample)
        return d.out

    return run


def perturb_signs_compiled(d: Data) -> Callable[[], Tensor]:
    def expression(inputs: Tensor, out: Tensor) -> None:
        coins = torch.rand(out.shape, device=out.device) < 0.5
        out.copy_(torch.where(coins, inputs + SIGMA, inputs - SIGMA))

    fused = compiled(expression)

    def run() -> Tensor:
        fused(d.inputs, d.by_sample)
        return d.out

    return run


# --- contenders of noise_contract ----------------------------------------------------------------


def contract_of_ours(d: Data) -> Callable[[], Tensor]:
    def run() -> Tensor:
        return ops.noise_contract(d.weights, d.inputs.shape[1:], d.key, distribution=d.distribution)

    return run


def contracted(d: Data, noise: Tensor) -> Tensor:
    """Weights [B, K, n] times noise [K, B, ...], as a product of matrices."""
    if d.inputs.shape[0] == 1:
        sums = torch.mm(d.weights[0].T, noise.reshape(d.samples, -1))
    else:
        sums = torch.bmm(d.weights.mT, noise.flatten(2).transpose(0, 1))
    return sums.view(d.total.shape)


def contract_by_randn(d: Data) -> Callable[[], Tensor]:
    """All noise drawn again into a buffer, then a product of matrices."""
    noise = torch.empty(d.many, device=d.inputs.device)
    return lambda: contracted(d, noise.normal_())


def contract_by_sample(d: Data) -> Callable[[], Tensor]:
    """One sample's noise at a time, in a buffer that stays in cache."""
    noise = torch.empty_like(d.inputs, memory_format=torch.contiguous_format)
    total = torch.empty(d.total.shape, device=d.inputs.device)
    weights = d.weights.view(*d.weights.shape, *[1] * (d.inputs.dim() - 1)).unbind(1)

    def run() -> Tensor:
        total.zero_()
        for weight in weights:
            total.addcmul_(weight, noise.normal_().unsqueeze(1))
        return total

    return run


def contract_compiled(d: Data) -> Callable[[], Tensor]:
    def expression(weights: Tensor) -> Tensor:
        return contracted(d, torch.randn(d.many, device=weights.device))

    fused = compiled(expression)
    return lambda: fused(d.weights)


def contract_by_bernoulli(d: Data) -> Callable[[], Tensor]:
    """Sums over coins, and the sum of all weights: 2 coin - 1 is a sign."""
    coins = torch.empty(d.many, device=d.inputs.device)
    sums = d.weights.sum(1).view(*d.total.shape[:2], *[1] * (d.inputs.dim() - 1))
    return lambda: contracted(d, coins.bernoulli_(0.5)).mul_(2.0).sub_(sums)


def contract_by_bytes(d: Data) -> Callable[[], Tensor]:
    signs = signs_of_bytes(d)
    return lambda: contracted(d, signs())


def contract_by_perturb(d: Data) -> Callable[[], Tensor]:
    """Our own noise written down, then a product of matrices: what contracting avoids."""
    zeros, rows = torch.zeros_like(d.inputs), d.out

    def run() -> Tensor:
        ops.perturb(zeros, d.samples, 1.0, d.key, distribution=d.distribution, out=rows)
        return contracted(d, d.by_sample)

    return run


# --- settings ------------------------------------------------------------------------------------


def perturb_settings() -> Iterator[Setting]:
    for case in LARGE:
        for variant in ("", RADEMACHER):
            yield from over_threads(Setting("perturb", case.name, variant))
    yield from over_threads(
        Setting("perturb", IMAGE, layout="channels_last"),
        Setting("perturb", BATCH.name),
        Setting("perturb", IMAGE, ORTHOGONAL),
    )
    yield Setting("perturb", IMAGE, dtype="bfloat16", threads=2)


def contract_settings() -> Iterator[Setting]:
    for case in LARGE:
        for variant in ("", RADEMACHER):
            yield from over_threads(Setting("noise_contract", case.name, variant))
    yield from over_threads(
        Setting("noise_contract", "digits_28", TEN), Setting("noise_contract", IMAGE, TEN)
    )


def large(op: str, *variants: str) -> list[Setting]:
    return [Setting(op, MANY.name, variant, threads=2) for variant in variants]


def gaussian(setting: Setting) -> bool:
    return setting.variant in ("", TEN)


def rademacher(setting: Setting) -> bool:
    return setting.variant == RADEMACHER


def compiles(setting: Setting) -> bool:
    return gaussian(setting) and compiled_in(IMAGE, large=MANY.name)(setting)


def signs_compile(setting: Setting) -> bool:
    return rademacher(setting) and compiled_in(IMAGE, large=MANY.name)(setting)


OPS = [
    Op(
        "noise",
        "perturb",
        "Noisy copies of inputs, written into a reused buffer. Rivals draw with torch's generator. "
        "captum's NoiseTunnel repeats the inputs first.",
        data,
        perturb_of_ours,
        {
            "torch.add(x, torch.randn)": Rival(perturb_by_randn, when=gaussian, draws=True),
            "normal_, add_": Rival(perturb_by_normal_in_place, when=gaussian, draws=True),
            "normal_, torch.add(out=)": Rival(perturb_by_buffers, when=gaussian, draws=True),
            "torch.compile": Rival(perturb_compiled, "compile", compiles, draws=True),
            "bernoulli_, mul_, add_": Rival(perturb_by_bernoulli, when=rademacher, draws=True),
            "signs of random bytes": Rival(perturb_by_bytes, when=rademacher, draws=True),
            "torch.compile, rand < 0.5": Rival(
                perturb_signs_compiled, "compile", signs_compile, draws=True
            ),
            "captum's": Rival(
                perturb_by_noise_tunnel,
                "peer",
                lambda setting: gaussian(setting) and setting.dtype == "float32",
                draws=True,
            ),
        },
        list(perturb_settings()),
        moved=lambda d: nbytes(d.inputs, d.out),
        # Drawing normals takes a CPU longer than writing them.
        memory_bound=lambda setting: setting.on_cuda or rademacher(setting),
        draws=lambda d: d.drawn,
        large=large("perturb", "", RADEMACHER, ORTHOGONAL),
    ),
    Op(
        "noise",
        "noise_contract",
        "Weights of noisy copies contracted with their noise, which is drawn again. Rivals draw "
        "noise of their own, and multiply in float32; ours adds in float64. `perturb, then matmul` "
        "is what to do without this op: the same noise, written down.",
        data,
        contract_of_ours,
        {
            "normal_, matmul": Rival(contract_by_randn, when=gaussian, draws=True),
            "normal_, addcmul_ by sample": Rival(
                contract_by_sample,
                when=lambda setting: setting.variant == "",
                draws=True,
            ),
            "torch.compile": Rival(contract_compiled, "compile", compiles, draws=True),
            "bernoulli_, matmul": Rival(contract_by_bernoulli, when=rademacher, draws=True),
            "signs of random bytes, matmul": Rival(contract_by_bytes, when=rademacher, draws=True),
            "perturb, then matmul": Rival(contract_by_perturb, "own"),
            "perturb alone": Rival(perturb_of_ours, "own", checked=False),
        },
        list(contract_settings()),
        draws=lambda d: d.drawn,
        # Products are in float32.
        tolerance={"float32": 1e-4},
        large=large("noise_contract", "", RADEMACHER, TEN),
    ),
]
