"""The ensemble ops: every backend against the reference, float64 and what theory says."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from assertions import assert_as_accurate_as, assert_same_bits
from conftest import needs_native_cpu
from ensemble_cases import SMALL, EnsembleCase
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyxai_fast import ops
from pyxai_fast.ops import ensemble as module

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FORMATS = (torch.contiguous_format, torch.channels_last)
STEP = dict(alpha_bar=0.4, alpha_bar_next=0.5, step_size=0.2, step_proximity=0.02)


def ids(values: tuple) -> list[str]:
    return [getattr(v, "name", str(v).removeprefix("torch.")) for v in values]


def key_on(device: torch.device | str) -> Tensor:
    return ops.random_key(2**40 + 7, 3, device=device)


def twin(call) -> list[Tensor]:
    """What the reference gives."""
    with ops.native_kernels(False):
        return flat(call())


def flat(result: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def calls(t: dict[str, Tensor]) -> dict:
    """Every op, in the ways it can be called."""
    x, w, rows = t["particles"], t["weights"], t["rows"]
    others = {"noise_pred": t["noise_pred"], "guide": t["guide"]}
    key = key_on(x.device)
    return {
        "contract": lambda: ops.ensemble_contract(x, w),
        "contract_one": lambda: ops.ensemble_contract(x, w[:, :, 0], rows),
        "contract_two": lambda: ops.ensemble_contract(x, w[:, :, :1].repeat(1, 1, 2), 0.75),
        "moments": lambda: ops.ensemble_moments(x),
        "moments_center": lambda: ops.ensemble_moments(x, rows[:1]),
        "transform": lambda: ops.ensemble_transform(x, t["matrix"]),
        "transform_taper": lambda: ops.ensemble_transform(x, t["matrix"], rows, t["taper"]),
        "raw_transform": lambda: torch.ops.pyxai_fast.ensemble_transform(
            x.flatten(0, 1), t["matrix"]
        ),
        "couple": lambda: ops.ensemble_transform(x, t["matrix"], 0.5, add_particles=False),
        "enkf": lambda: ops.enkf_update(
            x, t["outputs"], t["observations"], 0.3, key=key, localisation=t["taper"]
        ),
        "guided": lambda: ops.guided_step(
            x, **others, **STEP, eta=1.0, origin=rows, center=rows[:1], weights=w[:, :, 0], key=key
        ),
        "guided_ddim": lambda: ops.guided_step(x, **others, **STEP, eta=0.0, origin=0.8),
        "noised": lambda: ops.guided_step(
            x, **others, **{**STEP, "step_size": 0, "step_proximity": 0}, eta=0.5, origin=0.0,
            key=key,
        ),
    }  # fmt: skip


LAYOUTS = [
    pytest.param(case, memory_format, id="-".join(ids((case, memory_format))))
    for case in SMALL
    for memory_format in (FORMATS if len(case.features) == 3 else FORMATS[:1])
]


# --- the kernels give the bits of the reference --------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS, ids=ids(FLOATS))
@pytest.mark.parametrize(("case", "memory_format"), LAYOUTS)
def test_every_op_has_the_bits_of_the_reference(
    case: EnsembleCase,
    memory_format: torch.memory_format,
    dtype: torch.dtype,
    backend: torch.device,
) -> None:
    t = case.tensors(dtype, memory_format, backend)
    for name, call in calls(t).items():
        for actual, expected in zip(flat(call()), twin(call), strict=True):
            assert_same_bits(actual, expected)
            merged = actual.flatten(0, 1) if actual.dim() == t["particles"].dim() else actual
            if merged.dim() == 4:
                assert merged.is_contiguous(memory_format=memory_format), name


def test_nan_and_infinity_have_the_bits_of_the_reference(backend: torch.device) -> None:
    case = EnsembleCase("odd", 2, 5, (70,), columns=2)
    t = case.tensors(device=backend)
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e-40, -0.0], device=backend)
    t["particles"][0, 2, :5] = odd
    t["noise_pred"][0, 1, 3] = float("nan")
    t["weights"][1, 0] = float("nan")
    t["guide"][1, 3, 8] = float("inf")
    for name, call in calls(t).items():
        if name == "enkf":
            continue
        for actual, expected in zip(flat(call()), twin(call), strict=True):
            assert_same_bits(actual, expected)
    contraction, variance = ops.ensemble_contract(t["particles"], t["outputs"])
    assert bool(contraction[0, :, 0].isnan().all()) and bool(variance[0, 0].isnan())
    assert bool(contraction[0, :, 6:].isfinite().all())


# --- contractions --------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [1e-1, 1e-2, 1e-3])
@pytest.mark.parametrize("dtype", FLOATS, ids=ids(FLOATS))
def test_a_small_spread_about_a_large_mean_costs_no_accuracy(
    dtype: torch.dtype, spread: float, backend: torch.device
) -> None:
    generator = torch.Generator().manual_seed(1)
    x = (0.8 + spread * torch.randn(2, 100, 50, generator=generator)).to(backend, dtype)
    w = torch.randn(2, 100, generator=generator, dtype=torch.float64).to(backend)
    w -= w.mean(1, keepdim=True)
    contraction, variance = ops.ensemble_contract(x, w)
    truth = torch.einsum("bk,bkf->bf", w, x.double() - x.double().mean(1, keepdim=True))
    assert (contraction - truth).abs().max() <= 2e-3 * truth.abs().max()
    torch.testing.assert_close(
        variance.double(), x.double().var(1, correction=0), rtol=1e-5, atol=1e-12
    )
    mean, again = ops.ensemble_moments(x)
    assert_same_bits(again, variance)
    torch.testing.assert_close(mean.double(), x.double().mean(1), rtol=2e-7, atol=0)


def test_float32_is_more_accurate_than_plain_pytorch() -> None:
    t = EnsembleCase("accuracy", 2, 300, (500,), columns=3).tensors()
    x, w = t["particles"], t["weights"]
    truth = torch.einsum("bkn,bkf->bnf", w.double(), x.double() - x[:, :1].double())
    plain = torch.bmm(w.mT, x - x.mean(1, keepdim=True))
    assert_as_accurate_as(ops.ensemble_contract(x, w)[0], plain, truth, factor=1.0)


def test_a_constant_ensemble_has_no_variance_and_no_covariance(backend: torch.device) -> None:
    x = torch.full((2, 7, 33), 0.3, dtype=torch.bfloat16, device=backend)
    contraction, variance = ops.ensemble_contract(x, torch.randn(2, 7, device=backend))
    assert not bool(contraction.any()) and not bool(variance.any())


def test_the_contraction_of_an_affine_model_is_its_gradient_times_the_covariance() -> None:
    x = torch.randn(1, 40, 25, dtype=torch.float64)
    slope = torch.randn(7, 25, dtype=torch.float64)
    outputs = x @ slope.T + 3.0
    direction = torch.randn(7, dtype=torch.float64)
    weights = (outputs - outputs.mean(1, keepdim=True)) @ direction / 40
    contraction, variance = ops.ensemble_contract(x, weights)
    covariance = torch.cov(x[0].T, correction=0)
    torch.testing.assert_close(contraction[0], covariance @ slope.T @ direction)
    torch.testing.assert_close(variance.sum(), covariance.trace())


# --- transforms ----------------------------------------------------------------------------------


def test_a_transform_is_the_matrix_product(backend: torch.device) -> None:
    t = EnsembleCase("product", 2, 9, (3, 5, 7)).tensors(torch.float64, device=backend)
    x, m, c = t["particles"], t["matrix"].double(), t["rows"]
    increment = torch.einsum("bij,bjchw->bichw", m, x - c[:, None])
    torch.testing.assert_close(ops.ensemble_transform(x, m, c), x + increment)
    torch.testing.assert_close(ops.ensemble_transform(x, m, c, add_particles=False), increment)
    torch.testing.assert_close(
        ops.ensemble_transform(x, m, c, t["taper"]), x + t["taper"].double()[:, None] * increment
    )


@pytest.mark.parametrize("memory_format", FORMATS, ids=ids(FORMATS))
@pytest.mark.parametrize("dtype", FLOATS, ids=ids(FLOATS))
def test_large_ensembles_give_the_same_by_matrix_product(
    dtype: torch.dtype, memory_format: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    t = EnsembleCase("matmul", 2, 11, (3, 5, 7)).tensors(dtype, memory_format)
    x, m = t["particles"], t["matrix"]
    ways = [
        dict(),
        dict(center=t["rows"], taper=t["taper"]),
        dict(center=0.8, taper=t["taper"][:1], add_particles=False),
        dict(center=t["rows"][:1], taper=0.5, add_particles=False, out=torch.empty_like(x)),
        dict(add_particles=False),
    ]
    small = [ops.ensemble_transform(x, m, **{**way, "out": None}) for way in ways]
    monkeypatch.setattr(module, "MATMUL_FROM", 1)
    for way, expected in zip(ways, small, strict=True):
        large = ops.ensemble_transform(x, m, **way)
        assert large.dtype == dtype and large.shape == x.shape
        assert large.flatten(0, 1).is_contiguous(memory_format=memory_format)
        torch.testing.assert_close(large, expected)


@needs_native_cpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_more_particles_than_are_centred_at_once_are_summed_in_order(dtype: torch.dtype) -> None:
    x = torch.randn(259, 70, dtype=dtype)
    matrix = torch.randn(1, 259, 259, dtype=dtype)
    op = torch.ops.pyxai_fast.ensemble_transform
    actual = op(x, matrix)
    with ops.native_kernels(False):
        assert_same_bits(actual, op(x, matrix))


# --- the Kalman update ---------------------------------------------------------------------------


def linear_gaussian(n: int, count: int, features: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(n)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    x, model = 2.0 + draw(2, count, features), draw(n, features)
    root = draw(n, n)
    return {
        "particles": x,
        "outputs": x @ model.T + 0.5,
        "observations": draw(2, n),
        "noise_covariance": root @ root.T + torch.eye(n, dtype=torch.float64),
        "model": model,
    }


@pytest.mark.parametrize(("n", "count"), [(1, 9), (3, 9), (9, 9), (20, 9)])
def test_the_transform_gives_the_exact_posterior(n: int, count: int, backend: torch.device) -> None:
    t = {name: value.to(backend) for name, value in linear_gaussian(n, count).items()}
    model = t.pop("model")
    moved = ops.enkf_update(**t, method="transform")
    for b in range(2):
        x, prior = t["particles"][b], torch.cov(t["particles"][b].T, correction=0)
        gain = prior @ model.T @ torch.linalg.inv(model @ prior @ model.T + t["noise_covariance"])
        innovation = t["observations"][b] - (x.mean(0) @ model.T + 0.5)
        torch.testing.assert_close(moved[b].mean(0), x.mean(0) + gain @ innovation)
        posterior = prior - gain @ model @ prior
        torch.testing.assert_close(torch.cov(moved[b].T, correction=0), posterior)


@pytest.mark.parametrize(("n", "count"), [(1, 9), (3, 9), (9, 9), (20, 9)])
def test_the_stochastic_update_is_the_kalman_gain_of_each_particle(n: int, count: int) -> None:
    t = linear_gaussian(n, count)
    t.pop("model")
    moved = ops.enkf_update(**t)
    noisy = ops.enkf_update(**t, key=key_on("cpu"))
    for b in range(2):
        x, g = t["particles"][b], t["outputs"][b]
        dx, dg = x - x.mean(0), g - g.mean(0)
        gain = dx.T @ dg / count @ torch.linalg.inv(dg.T @ dg / count + t["noise_covariance"])
        torch.testing.assert_close(moved[b], x + (t["observations"][b] - g) @ gain.T)
        assert (noisy[b] - moved[b]).abs().max() > 1e-3
        torch.testing.assert_close(noisy[b].mean(0), moved[b].mean(0))


def test_perturbed_observations_have_the_covariance_of_the_noise() -> None:
    count = 4000
    t = linear_gaussian(2, count, features=2)
    model = t.pop("model")
    first = {name: value[:1] for name, value in t.items() if name != "noise_covariance"}
    moved = ops.enkf_update(**first, noise_covariance=t["noise_covariance"], key=key_on("cpu"))
    prior = torch.cov(first["particles"][0].T, correction=0)
    gain = prior @ model.T @ torch.linalg.inv(model @ prior @ model.T + t["noise_covariance"])
    posterior = prior - gain @ model @ prior
    error = torch.cov(moved[0].T, correction=0) - posterior
    assert error.norm() < 0.1 * posterior.norm()


@pytest.mark.parametrize("method", ["stochastic", "transform"])
def test_every_form_of_the_noise_covariance_means_the_same(method: str) -> None:
    t = linear_gaussian(3, 8)
    t.pop("model")
    t["noise_covariance"] = 0.7
    expected = ops.enkf_update(**t, method=method)
    for form in (torch.tensor(0.7), torch.full((3,), 0.7), 0.7 * torch.eye(3)):
        t["noise_covariance"] = form.double()
        actual = ops.enkf_update(**t, method=method)
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["stochastic", "transform"])
@pytest.mark.parametrize("n", [3, 20])
def test_the_update_is_equivariant(n: int, method: str) -> None:
    t = linear_gaussian(n, 9)
    t.pop("model")
    moved = ops.enkf_update(**t, method=method)
    order = torch.randperm(9)
    shuffled = {**t, "particles": t["particles"][:, order], "outputs": t["outputs"][:, order]}
    torch.testing.assert_close(ops.enkf_update(**shuffled, method=method), moved[:, order])
    linear = torch.randn(6, 6, dtype=torch.float64)
    mapped = {**t, "particles": t["particles"] @ linear + 5.0}
    torch.testing.assert_close(ops.enkf_update(**mapped, method=method), moved @ linear + 5.0)
    higher = {**t, "outputs": t["outputs"] + 2.0, "observations": t["observations"] + 2.0}
    torch.testing.assert_close(ops.enkf_update(**higher, method=method), moved)
    torch.testing.assert_close(ops.enkf_update(**t, method=method, center=1.5), moved)


@pytest.mark.parametrize("method", ["stochastic", "transform"])
def test_inflation_spreads_the_ensemble_before_the_update(method: str) -> None:
    t = linear_gaussian(3, 9)
    t.pop("model")
    r = 1.3

    def spread(values: Tensor) -> Tensor:
        mean = values.mean(1, keepdim=True)
        return mean + r * (values - mean)

    by_hand = {**t, "particles": spread(t["particles"]), "outputs": spread(t["outputs"])}
    torch.testing.assert_close(
        ops.enkf_update(**t, method=method, inflation=r), ops.enkf_update(**by_hand, method=method)
    )
    # Nothing is learned from outputs that are all the same: only the inflation is left.
    t["outputs"] = t["outputs"][:, :1].expand(-1, 9, -1)
    moved = ops.enkf_update(**t, method=method, inflation=r)
    torch.testing.assert_close(moved, spread(t["particles"]))


@pytest.mark.parametrize("method", ["stochastic", "transform"])
@pytest.mark.parametrize("n", [2, 30])
def test_an_ensemble_without_variance_stays(method: str, n: int, backend: torch.device) -> None:
    x = torch.full((2, 5, 11), 0.8, device=backend)
    y, g = torch.randn(2, n, device=backend), torch.ones(2, 5, n, device=backend)
    assert_same_bits(ops.enkf_update(x, g, y, 0.1, method=method), x)
    one = torch.randn(2, 1, 11, device=backend)
    moved = ops.enkf_update(one, g[:, :1], y, 0.1, method=method, inflation=1.5)
    assert_same_bits(moved, one)


def test_localisation_tapers_the_increment() -> None:
    t = linear_gaussian(3, 9)
    t.pop("model")
    moved = ops.enkf_update(**t)
    assert_same_bits(ops.enkf_update(**t, localisation=0.0), t["particles"])
    taper = torch.tensor([0.0, 1.0, 0.5, 0.0, 1.0, 0.25], dtype=torch.float64)
    expected = t["particles"] + taper * (moved - t["particles"])
    torch.testing.assert_close(ops.enkf_update(**t, localisation=taper), expected)
    torch.testing.assert_close(ops.enkf_update(**t, localisation=taper.expand(2, 6)), expected)


# --- the guided step -----------------------------------------------------------------------------


def test_without_guidance_the_step_is_ddim(backend: torch.device) -> None:
    t = EnsembleCase("ddim", 2, 3, (3, 5, 7)).tensors(torch.float64, device=backend)
    x, e = t["particles"], t["noise_pred"]
    plain = {**STEP, "step_size": 0.0, "step_proximity": 0.0}
    moved = ops.guided_step(x, e, t["guide"] * float("nan"), **plain, eta=0.0, origin=t["rows"])
    torch.testing.assert_close(moved, math.sqrt(0.5) * x + math.sqrt(0.5) * e)


@pytest.mark.parametrize("memory_format", FORMATS, ids=ids(FORMATS))
def test_the_step_is_its_formula(memory_format: torch.memory_format, backend: torch.device) -> None:
    t = EnsembleCase("formula", 2, 5, (3, 19, 23)).tensors(torch.float64, memory_format, backend)
    x, e, g, origin, w = (t[k] for k in ("particles", "noise_pred", "guide", "rows", "weights"))
    w, center = w[:, :, 0].double(), 0.5 * origin
    args = dict(origin=origin, center=center, weights=w, key=key_on(backend))
    actual = ops.guided_step(x, e, g, **STEP, eta=1.0, **args)

    def norm(values: Tensor) -> Tensor:
        return torch.linalg.vector_norm(values, dim=(2, 3, 4), keepdim=True)

    a, b = 0.4, 0.5
    toward = w[:, :, None, None, None] * (g - center[:, None])
    away = (x - origin[:, None]).sign()
    push = 0.2 * norm(e) * toward / norm(toward) - 0.02 * norm(e) * away / norm(away)
    c1 = math.sqrt((1 - a / b) * (1 - b) / (1 - a))
    rest = math.sqrt(b) * x + math.sqrt(1 - b - c1**2) * e + math.sqrt(a * b) * push
    noise = (actual - rest) / c1
    quiet = ops.guided_step(x, e, g, **STEP, eta=0.0, **args)
    torch.testing.assert_close(
        quiet, math.sqrt(b) * x + math.sqrt(1 - b) * e + math.sqrt(a * b) * push
    )
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.03
    # The same noise in every memory format.
    contiguous = [v.contiguous() for v in (x, e, g)]
    torch.testing.assert_close(ops.guided_step(*contiguous, **STEP, eta=1.0, **args), actual)


def test_directions_without_length_contribute_nothing(backend: torch.device) -> None:
    t = EnsembleCase("still", 2, 3, (40,)).tensors(device=backend)
    x, e = t["particles"][:, :1].expand(-1, 3, -1), t["noise_pred"]
    moved = ops.guided_step(x, e, x, **STEP, eta=0.0, origin=x[:, 0], center=x[:, 0])
    plain = {**STEP, "step_size": 0.0, "step_proximity": 0.0}
    assert_same_bits(moved, ops.guided_step(x, e, x, **plain, eta=0.0, origin=0.0))


def test_permuted_particles_are_guided_alike(backend: torch.device) -> None:
    t = EnsembleCase("permuted", 2, 6, (30,)).tensors(device=backend)
    order = torch.tensor([3, 0, 5, 1, 4, 2], device=backend)
    three = [t[k] for k in ("particles", "noise_pred", "guide")]
    args = dict(**STEP, eta=0.0, origin=t["rows"])
    w = t["weights"][:, :, 0]
    moved = ops.guided_step(*three, **args, weights=w)
    shuffled = ops.guided_step(*[v[:, order] for v in three], **args, weights=w[:, order])
    assert_same_bits(shuffled, moved[:, order])


def test_keys_choose_the_noise(backend: torch.device) -> None:
    t = EnsembleCase("keys", 2, 3, (3, 8, 9)).tensors(device=backend)
    three = [t[k] for k in ("particles", "noise_pred", "guide")]

    def step(seed: int, stream: int, many: list[Tensor] = three) -> Tensor:
        key = ops.random_key(seed, stream, device=backend)
        return ops.guided_step(*many, **STEP, eta=1.0, origin=0.5, key=key)

    assert_same_bits(step(1, 2), step(1, 2))
    for other in (step(2, 2), step(1, 3)):
        assert float((other == step(1, 2)).float().mean()) < 0.01
    # A smaller batch, and fewer particles: the noise of those that stay does not change.
    assert_same_bits(step(1, 2, [v[:1, :2] for v in three]), step(1, 2)[:1, :2])


# --- shapes, threads, instruction sets -----------------------------------------------------------


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Tensor]:
    shape = draw(st.lists(st.integers(0, 5), min_size=0, max_size=4).map(tuple))
    batch, count = draw(st.integers(0, 3)), draw(st.integers(1, 6))
    case = EnsembleCase("any", batch, count, shape, columns=draw(st.integers(1, 4)))
    t = case.tensors(draw(st.sampled_from(FLOATS)))
    for name in ("particles", "noise_pred", "guide", "rows"):
        kind = draw(st.sampled_from(["plain", "strided", "transposed", "expanded", "last"]))
        value = t[name]
        if kind == "strided":
            t[name] = torch.stack([value, value], dim=-1)[..., 0]
        elif kind == "transposed":
            reverse = tuple(range(value.dim() - 1, -1, -1))
            t[name] = value.permute(reverse).contiguous().permute(reverse)
        elif kind == "expanded" and value.numel() > 0:
            t[name] = value[:, :1].expand(value.shape) if value.dim() > 1 else value
        elif kind == "last" and value.dim() == 5 and name != "rows":
            merged = value.flatten(0, 1).contiguous(memory_format=torch.channels_last)
            t[name] = merged.unflatten(0, (batch, count))
    return t


@needs_native_cpu
@settings(max_examples=30)
@given(layouts())
def test_native_and_reference_agree_on_any_layout(t: dict[str, Tensor]) -> None:
    for name, call in calls(t).items():
        actual = flat(call())
        for a, b in zip(actual, twin(call), strict=True):
            assert_same_bits(a, b)
        if not name.startswith(("contract", "moments", "raw")):
            assert actual[0].shape == t["particles"].shape
            assert actual[0].dtype == t["particles"].dtype


@needs_native_cpu
def test_threads_instruction_sets_and_chunks_give_the_same_bits() -> None:
    t = EnsembleCase("threads", 3, 10, (3, 64, 41), columns=10).tensors()
    threads, isa = torch.get_num_threads(), ops.cpu_isa()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for name in ops.available_cpu_isas():
                ops.set_cpu_isa(name)
                results.append([r for call in calls(t).values() for r in flat(call())])
    finally:
        torch.set_num_threads(threads)
        ops.set_cpu_isa(isa)
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            assert_same_bits(a, b)
    # Examples do not mix: one of them alone, and one column alone, are the same.
    x, w = t["particles"], t["weights"]
    contraction, variance = ops.ensemble_contract(x, w)
    alone, its_variance = ops.ensemble_contract(x[1:2], w[1:2, :, 7])
    assert_same_bits(alone, contraction[1:2, 7])
    assert_same_bits(its_variance, variance[1:2])
    moved = ops.ensemble_transform(x, t["matrix"])
    assert_same_bits(ops.ensemble_transform(x[2:], t["matrix"][2:]), moved[2:])


@pytest.mark.parametrize("memory_format", FORMATS, ids=ids(FORMATS))
def test_channels_last_particles_are_read_where_they_lie(memory_format) -> None:
    merged = torch.randn(12, 3, 8, 8).contiguous(memory_format=memory_format)
    particles = merged.unflatten(0, (3, 4))
    assert particles.flatten(0, 1).data_ptr() == merged.data_ptr()
    assert particles.flatten(0, 1).stride() == merged.stride()


@needs_native_cpu
def test_more_than_two_to_the_31_elements_can_be_addressed() -> None:
    # Stride zero over rows of a small storage would be copied; over K it is read as a row.
    x = torch.arange(6.0).reshape(1, 6, 1).expand(1, 6, 3)
    mean, variance = ops.ensemble_moments(x)
    torch.testing.assert_close(mean, torch.full((1, 3), 2.5))
    torch.testing.assert_close(variance, torch.full((1, 3), 35 / 12))


# --- out= ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_format", FORMATS, ids=ids(FORMATS))
@pytest.mark.parametrize("dtype", FLOATS, ids=ids(FLOATS))
def test_out_is_written_in_its_own_format(
    dtype: torch.dtype, memory_format: torch.memory_format, backend: torch.device
) -> None:
    case = EnsembleCase("out", 2, 3, (3, 5, 6), columns=2)
    t = case.tensors(dtype, device=backend)
    x = t["particles"]
    buffer = torch.full((4 * 3, 3, 5, 6), 7.0, dtype=dtype, device=backend)
    buffer = buffer.contiguous(memory_format=memory_format)
    out = buffer[:6].unflatten(0, (2, 3))
    for call in (
        lambda **to: ops.ensemble_transform(x, t["matrix"], t["rows"], t["taper"], **to),
        lambda **to: ops.enkf_update(x, t["outputs"], t["observations"], 0.3, **to),
        lambda **to: ops.guided_step(
            x, t["noise_pred"], t["guide"], **STEP, eta=1.0, origin=t["rows"],
            key=key_on(backend), **to,
        ),
    ):  # fmt: skip
        assert call(out=out) is out
        torch.testing.assert_close(out, call())
    assert bool((buffer[6:] == 7.0).all())


# --- torch.library, vmap and torch.compile -------------------------------------------------------


def op_calls(device: torch.device) -> list[tuple]:
    library, found = torch.ops.pyxai_fast, []
    for features, memory_format in (
        ((4,), torch.contiguous_format),
        ((3, 4, 5), torch.contiguous_format),
        ((3, 4, 5), torch.channels_last),
        ((0,), torch.contiguous_format),
    ):
        case = EnsembleCase("opcheck", 2, 3, features, columns=2)
        t = case.tensors(torch.float32, memory_format, device)
        x, e, g = (t[k].flatten(0, 1) for k in ("particles", "noise_pred", "guide"))
        rows, w, m = t["rows"], t["weights"], t["matrix"]
        out = torch.empty_like(x)
        numbers = (3, 0.7, 0.5, 0.5, 0.2, 0.1)
        step = (x, e, g, rows, rows[:1], w[:, :, 0], key_on(device), *numbers)
        found += [
            (library.ensemble_contract.default, (x, w), {}),
            (library.ensemble_contract.default, (x, w, rows), {}),
            (library.ensemble_moments.default, (x, 3), {}),
            (library.ensemble_moments.default, (x, 3, rows[:1]), {}),
            (library.ensemble_transform.default, (x, m), {}),
            (library.ensemble_transform.default, (x, m, rows, t["taper"], False), {}),
            (library.ensemble_transform.out, (x, m), {"out": out}),
            (library.guided_step.default, step, {}),
            (library.guided_step.out, step, {"out": out}),
        ]
    return found


@pytest.mark.parametrize("native", [True, False], ids=["native", "reference"])
def test_ops_pass_opcheck(native: bool, device: torch.device) -> None:
    with ops.native_kernels(native):
        for op, args, kwargs in op_calls(device):
            torch.library.opcheck(op, copy.deepcopy(args), copy.deepcopy(kwargs))


@pytest.mark.parametrize("mapped", ["all", "particles", "weights", "rows", "matrix"])
def test_vmap_equals_a_loop(mapped: str, device: torch.device) -> None:
    many = [EnsembleCase("vmap", 2, 3, (2, 5)).tensors(device=device) for _ in range(3)]
    for index, t in enumerate(many):
        if index > 0:
            for name in t:
                if mapped in (name, "all"):
                    t[name] *= -0.5 * index
    names = ("particles", "weights", "rows", "matrix", "noise_pred", "guide", "taper")
    in_dims = tuple(1 if mapped in (name, "all") else None for name in names)

    def every(*values: Tensor) -> list[Tensor]:
        t = dict(zip(names, values, strict=True))
        x, w, rows = t["particles"], t["weights"], t["rows"]
        key = key_on(device)
        return [
            *ops.ensemble_contract(x, w, rows),
            *ops.ensemble_moments(x),
            *ops.ensemble_moments(x, rows),
            ops.ensemble_transform(x, t["matrix"], rows, t["taper"]),
            ops.guided_step(
                x, t["noise_pred"], t["guide"], **STEP, eta=1.0, origin=rows, center=0.5,
                weights=w[:, :, 0], key=key,
            ),
        ]  # fmt: skip

    stacked = [
        torch.stack([t[name] for t in many], 1) if dim == 1 else many[0][name]
        for name, dim in zip(names, in_dims, strict=True)
    ]
    actual = torch.vmap(every, in_dims=in_dims)(*stacked)
    for index in range(3):
        own = [v.select(1, index) if d == 1 else v for v, d in zip(stacked, in_dims, strict=True)]
        for a, b in zip(actual, every(*own), strict=True):
            assert_same_bits(a[index], b)


def test_ops_compile_into_one_graph(device: torch.device) -> None:
    t = EnsembleCase("compile", 2, 4, (3, 8, 8), columns=3).tensors(device=device)

    def several(x: Tensor, e: Tensor, w: Tensor, g: Tensor, y: Tensor, key: Tensor) -> Tensor:
        contraction, variance = ops.ensemble_contract(x, w[:, :, 0])
        moved = ops.enkf_update(x, g, y, 0.5, key=key)
        guide = ops.ensemble_transform(moved, w @ g.mT, add_particles=False)
        return (
            contraction
            + variance
            + ops.guided_step(moved, e, guide, **STEP, eta=1.0, origin=0.5, key=key).sum(1)
        )

    names = ("particles", "noise_pred", "weights", "outputs", "observations")
    args = (*(t[k] for k in names), key_on(device))
    compiled = torch.compile(several, fullgraph=True, backend="aot_eager")
    assert_same_bits(compiled(*args), several(*args))


# --- errors --------------------------------------------------------------------------------------

X = torch.zeros(2, 3, 4)
W = torch.zeros(2, 3)
M = torch.zeros(2, 3, 3)
G = torch.zeros(2, 3, 5)
Y = torch.zeros(2, 5)


def step(*three: Tensor, **changed: object) -> Tensor:
    args = {**STEP, "eta": 0.0, "origin": 0.0, **changed}
    return ops.guided_step(*(three or (X, X, X)), **args)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ops.ensemble_contract(X.long(), W), TypeError, "particles must be float16"),
        (lambda: ops.ensemble_contract(X[0, 0], W), ValueError, r"particles .*\[B, K, \.\.\.\]"),
        (lambda: ops.ensemble_contract(X[:, :0], W), ValueError, r"K >= 1, got \[2, 0, 4\]"),
        (lambda: ops.ensemble_contract(X, W[:1]), ValueError, r"weights .*got \[1, 3\]"),
        (lambda: ops.ensemble_contract(X, W.to("meta")), ValueError, "weights must be on cpu"),
        (lambda: ops.ensemble_contract(X, W, "mean"), TypeError, "center must be a number"),
        (lambda: ops.ensemble_contract(X, W, X), ValueError, r"center .*got \[2, 3, 4\]"),
        (
            lambda: ops.ensemble_contract(X.clone().requires_grad_(), W),
            ValueError,
            "particles must not require grad",
        ),
        (lambda: ops.ensemble_moments(X, X[:, 0, :2]), ValueError, r"center .*got \[2, 2\]"),
        (lambda: ops.ensemble_transform(X, W), ValueError, r"matrix .*\[2, 3, 3\], got \[2, 3\]"),
        (lambda: ops.ensemble_transform(X, M, taper=X), ValueError, r"taper .*got \[2, 3, 4\]"),
        (lambda: ops.ensemble_transform(X, M, out=X[:1]), ValueError, "out must be torch.float32"),
        (lambda: ops.ensemble_transform(X, M, out=X.double()), ValueError, "got torch.float64"),
        (
            lambda: ops.ensemble_transform(X, M, out=torch.zeros(3, 2, 4).transpose(0, 1)),
            ValueError,
            "out must be contiguous or channels_last",
        ),
        (lambda: ops.enkf_update(X, G[:1], Y, 1.0), ValueError, r"outputs .*got \[1, 3, 5\]"),
        (lambda: ops.enkf_update(X, G, Y[:1], 1.0), ValueError, r"observations .*got \[1, 5\]"),
        (lambda: ops.enkf_update(X, G, Y, 0.0), ValueError, "noise_covariance must be greater"),
        (lambda: ops.enkf_update(X, G, Y, Y), ValueError, r"noise_covariance .*got \[2, 5\]"),
        (lambda: ops.enkf_update(X, G, Y, Y[0]), ValueError, "noise_covariance must be greater"),
        (lambda: ops.enkf_update(X, G, Y, "R"), TypeError, "noise_covariance must be a number"),
        (lambda: ops.enkf_update(X, G, Y, 1.0, method="x"), ValueError, "method must be"),
        (lambda: ops.enkf_update(X, G, Y, 1.0, inflation=0), ValueError, "inflation must be"),
        (lambda: ops.enkf_update(X, G, Y, 1.0, key=W), ValueError, "key must be int64"),
        (
            lambda: ops.enkf_update(X, G, Y, 1.0, key=key_on("cpu"), method="transform"),
            ValueError,
            "key must be None",
        ),
        (lambda: step(X, X[:1], X), ValueError, r"noise_pred .*got \[1, 3, 4\]"),
        (lambda: step(X, X, X.long()), TypeError, "guide must be float16"),
        (lambda: step(weights=W[:1]), ValueError, r"weights .*got \[1, 3\]"),
        (lambda: step(origin=X), ValueError, "origin must"),
        (lambda: step(eta=1.0), ValueError, "key must be given"),
        (lambda: step(eta=1.0, key=7), TypeError, "key must be a tensor"),
        (lambda: step(eta=-1.0), ValueError, "eta must be at least 0"),
        (lambda: step(alpha_bar=0.6), ValueError, r"alpha_bar must be in \(0, 1\)"),
        (lambda: step(alpha_bar=1.0, alpha_bar_next=1.0), ValueError, "alpha_bar must be in"),
    ],
)
def test_a_bad_argument_is_named_with_what_it_must_be(call, error, words: str) -> None:
    with pytest.raises(error, match=f"^(ensemble|enkf|guided)_[a-z]+: .*{words}"):
        call()


def raw_step(o, x: Tensor, **changed: object) -> Tensor:
    args = dict(
        denoised=x, noise_pred=x, guide=x, origin=x[:2], center=x[:1], weights=None, key=None,
        count=3, signal=1.0, noise=0.0, direction=0.0, guidance=1.0, proximity=1.0,
    )  # fmt: skip
    return o.guided_step(**{**args, **changed})


F = torch.zeros(6, 4)  # two examples of three particles


@needs_native_cpu
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda o: o.ensemble_contract(F, W), "weights must have shape"),
        (lambda o: o.ensemble_contract(F[:5], M), "particles must have shape"),
        (lambda o: o.ensemble_contract(F, M[:1]), "weights must have shape"),
        (lambda o: o.ensemble_contract(F, M, F), "center must be"),
        (lambda o: o.ensemble_moments(F, 4), "particles must have shape"),
        (lambda o: o.ensemble_moments(F, 0), "particles must have shape"),
        (lambda o: o.ensemble_transform(F, M[:, :2]), "matrix must have shape"),
        (lambda o: o.ensemble_transform(F, M[:1]), "matrix must have shape"),
        (lambda o: o.ensemble_transform(F, M, None, F[:3]), "taper must be"),
        (lambda o: o.ensemble_transform.out(F, M, out=F), "out must not share memory"),
        (lambda o: o.ensemble_transform.out(F, M, out=F[:3]), "out must be like"),
        (lambda o: o.ensemble_transform.out(F, M, out=F.double()), "out must be like"),
        (lambda o: raw_step(o, F, guide=F[:3]), "guide must have the shape"),
        (lambda o: raw_step(o, F, origin=F[:3]), "origin must be"),
        (lambda o: raw_step(o, F, weights=W[:1]), "weights must have shape"),
        (lambda o: raw_step(o, F, noise=1.0), "key must be given"),
        (lambda o: raw_step(o, F, noise=1.0, key=torch.ones(3).long()), r"key must be int64"),
        (lambda o: raw_step(o, F, count=4), "must have shape"),
    ],
)
def test_a_raw_op_refuses_what_would_read_or_write_out_of_bounds(call, words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        call(torch.ops.pyxai_fast)
