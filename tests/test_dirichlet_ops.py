"""dirichlet_points and dirichlet_accumulate: every backend against the reference, and the law."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from assertions import assert_as_accurate_as, assert_same_bits
from conftest import needs_native_cpu
from dirichlet_cases import SMALL, DirichletCase
from hypothesis import given
from hypothesis import strategies as st
from path_cases import FLOATS
from torch import Tensor

from pyxai_fast import ops, reference
from pyxai_fast.reference import random

FORMATS = (torch.contiguous_format, torch.channels_last)
PER = ("feature", "pixel")
KEY = torch.tensor([5, 1])


def ids(values: tuple) -> list[str]:
    return [getattr(v, "name", str(v).removeprefix("torch.")) for v in values]


def affine_of(inputs: Tensor) -> tuple[Tensor, Tensor]:
    channels = inputs.shape[1]
    return (
        torch.linspace(0.5, 3.0, channels, device=inputs.device),
        torch.linspace(-1.0, 1.0, channels, device=inputs.device),
    )


def progress(elements: int, n_steps: int, concentration: float, **more) -> Tensor:
    """F at the starts of the steps, [n_steps, elements], and of more paths beside each other."""
    return ops.dirichlet_points(
        torch.ones(1, elements),
        0.0,
        more.pop("key", KEY),
        concentration=concentration,
        n_steps=n_steps,
        position=0.0,
        **more,
    )


# --- the kernels give the bits of the reference --------------------------------------------------


# Without channels there are no pixels.
CHOICES = [(case, per) for case in SMALL for per in PER if case.features or per == "feature"]


@pytest.mark.parametrize("memory_format", FORMATS, ids=ids(FORMATS))
@pytest.mark.parametrize(("case", "per"), CHOICES, ids=[f"{c.name}-{per}" for c, per in CHOICES])
def test_points_and_sums_have_the_bits_of_the_reference(
    case: DirichletCase, per: str, memory_format: torch.memory_format, backend: torch.device
) -> None:
    if len(case.features) != 3:
        memory_format = torch.contiguous_format
    t = case.tensors(torch.float32, memory_format, backend)
    ends = (t["inputs"], t["baselines"])
    scale, shift = affine_of(t["inputs"]) if case.features else (None, None)
    choice = {**case.path, "examples": t["examples"], "per": per, "first_path": 9}
    path = (t["examples"], 3.0, case.n_steps, 0, case.n_steps, case.paths, 9)

    points = ops.dirichlet_points(
        *ends,
        t["key"],
        **choice,
        position=0.25,
        scale=scale,
        shift=shift,
        memory_format=memory_format,
    )
    assert points.is_contiguous(memory_format=memory_format)
    assert_same_bits(
        points,
        reference.dirichlet_points(*ends, t["key"], *path, 0.25, per == "pixel", scale, shift),
    )
    sums = (t["grads"], t["key"], *path, per == "pixel")
    assert_same_bits(
        ops.dirichlet_accumulate(t["grads"], t["key"], **choice),
        reference.dirichlet_accumulate(*sums),
    )
    assert_same_bits(
        ops.dirichlet_accumulate(
            t["grads"], t["key"], **choice, inputs=ends[0], baselines=ends[1], scale=scale
        ),
        reference.dirichlet_accumulate(*sums, *ends, scale),
    )


@pytest.mark.parametrize("other", FLOATS, ids=ids(FLOATS))
@pytest.mark.parametrize("dtype", FLOATS, ids=ids(FLOATS))
def test_types_have_the_bits_of_the_reference(
    dtype: torch.dtype, other: torch.dtype, backend: torch.device
) -> None:
    case = DirichletCase("types", 6, 2, 2, (3, 5, 4))
    t = case.tensors(dtype, device=backend)
    ends = (t["inputs"], t["baselines"])
    path = (None, 3.0, 6, 0, 6, 2, 0)
    assert_same_bits(
        ops.dirichlet_points(*ends, t["key"], **case.path, dtype=other),
        reference.dirichlet_points(*ends, t["key"], *path, 0.5, False, None, None, other),
    )
    grads = t["grads"].to(other)
    assert_same_bits(
        ops.dirichlet_accumulate(
            grads, t["key"], **case.path, inputs=t["inputs"], baselines=t["baselines"]
        ),
        reference.dirichlet_accumulate(grads, t["key"], *path, False, *ends),
    )


@pytest.mark.parametrize("concentration", [1e-300, 1e-3, 1.0, 1e6, 1e300])
def test_any_concentration_has_the_bits_of_the_reference(
    concentration: float, backend: torch.device
) -> None:
    key = KEY.to(backend)
    inputs = torch.ones(1, 70, device=backend)
    path = {"concentration": concentration, "n_steps": 2**16, "first_step": 2**15 - 5, "count": 11}
    points = ops.dirichlet_points(inputs, 0.0, key, **path)
    assert bool(((points >= 0) & (points <= 1)).all())
    zero = torch.zeros((), device=backend)
    expected = reference.dirichlet_points(
        inputs, zero, key, None, concentration, 2**16, 2**15 - 5, 11, 1, 0, 0.5, False
    )
    assert_same_bits(points, expected)


@pytest.mark.parametrize("per", PER)
def test_any_chunks_give_the_same_points_and_sums(per: str, backend: torch.device) -> None:
    case = DirichletCase("chunks", 11, 4, 2, (3, 6, 5))
    t = case.tensors(device=backend)
    path = {"concentration": 2.0, "n_steps": 11, "per": per}
    args = (t["inputs"], t["baselines"], t["key"])
    whole = ops.dirichlet_points(*args, **path, n_paths=4).unflatten(0, (11, 4, 2))
    total = torch.zeros(8, 3, 6, 5, dtype=torch.float64, device=backend)
    ops.dirichlet_accumulate(t["grads"], t["key"], **path, n_paths=4, total=total)
    grads = t["grads"].unflatten(0, (11, 4, 2))
    for steps, paths in ((1, 4), (3, 2), (11, 1), (7, 3)):
        sums = torch.zeros(4, 2, 3, 6, 5, dtype=torch.float64, device=backend)
        for step, first in itertools.product(range(0, 11, steps), range(0, 4, paths)):
            count, many = min(steps, 11 - step), min(paths, 4 - first)
            chunk = {"first_step": step, "count": count, "n_paths": many, "first_path": first}
            here = (slice(step, step + count), slice(first, first + many))
            points = ops.dirichlet_points(*args, **path, **chunk)
            assert_same_bits(points.unflatten(0, (count, many, 2)), whole[here])
            part = sums[here[1]].flatten(0, 1)  # a view of whole paths
            ops.dirichlet_accumulate(
                grads[here].flatten(0, 2), t["key"], **path, **chunk, total=part
            )
        assert_same_bits(sums.flatten(0, 1), total)


@needs_native_cpu
def test_threads_give_the_same_bits() -> None:
    case = DirichletCase("threads", 9, 2, 2, (3, 40, 41))
    t = case.tensors()
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(
                (
                    ops.dirichlet_points(t["inputs"], t["baselines"], t["key"], **case.path),
                    ops.dirichlet_accumulate(t["grads"], t["key"], **case.path),
                )
            )
    finally:
        torch.set_num_threads(threads)
    for points, sums in results[1:]:
        assert_same_bits(points, results[0][0])
        assert_same_bits(sums, results[0][1])


# --- what a path depends on, and what it does not ------------------------------------------------


@pytest.mark.parametrize("per", PER)
def test_paths_do_not_depend_on_the_memory_format(per: str, backend: torch.device) -> None:
    case = DirichletCase("formats", 5, 2, 2, (3, 6, 7))
    t = case.tensors(device=backend)
    args = (t["inputs"], t["baselines"], t["key"])
    last = ops.dirichlet_points(*args, **case.path, per=per, memory_format=torch.channels_last)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert_same_bits(last, ops.dirichlet_points(*args, **case.path, per=per))
    grads = t["grads"].contiguous(memory_format=torch.channels_last)
    sums = ops.dirichlet_accumulate(grads, t["key"], **case.path, per=per)
    assert sums.is_contiguous(memory_format=torch.channels_last)
    assert_same_bits(sums, ops.dirichlet_accumulate(t["grads"], t["key"], **case.path, per=per))


def test_pixels_share_a_path_and_features_do_not(backend: torch.device) -> None:
    ones = torch.ones(1, 5, 4, 3, device=backend)
    path = {"concentration": 2.0, "n_steps": 4}
    key = KEY.to(backend)
    shared = ops.dirichlet_points(ones, 0.0, key, **path, per="pixel")
    assert_same_bits(shared, shared[:, :1].expand_as(shared).contiguous())
    assert len(shared[0, 0].unique()) == 12
    own = ops.dirichlet_points(ones, 0.0, key, **path)
    assert len(own[0].unique()) == 60
    # A pixel is an element by its place in the image, as the first channel's features are.
    assert_same_bits(shared[:, 0], own[:, 0])


def test_a_path_is_chosen_by_key_example_and_number_alone(backend: torch.device) -> None:
    ones = torch.ones(3, 9, device=backend)
    key = KEY.to(backend)
    path = {"concentration": 2.0, "n_steps": 4, "n_paths": 3}
    paths = ops.dirichlet_points(ones, 0.0, key, **path).unflatten(0, (4, 3, 3))
    assert len(paths[1].unique()) == 81
    examples = torch.tensor([2, 0, 2], device=backend)
    chosen = ops.dirichlet_points(ones, 0.0, key, **path, examples=examples)
    assert_same_bits(chosen.unflatten(0, (4, 3, 3)), paths[:, :, examples])
    for other in ([6, 1], [5, 2], [5 + 2**32, 1]):
        others = ops.dirichlet_points(ones, 0.0, torch.tensor(other, device=backend), **path)
        assert bool((others.unflatten(0, (4, 3, 3))[1] != paths[1]).all())
    same = ops.dirichlet_points(ones, 0.0, torch.tensor([5, 1 + 2**16], device=backend), **path)
    assert_same_bits(same.unflatten(0, (4, 3, 3)), paths)


def test_more_steps_refine_the_same_path() -> None:
    coarse, fine = progress(500, 16, 2.0), progress(500, 32, 2.0)
    assert_same_bits(fine[::2], coarse)
    # Steps that are no power of two begin at the starts of cells: 50 of 64.
    starts = torch.arange(50) * 64 // 50
    assert_same_bits(progress(500, 50, 2.0), progress(500, 64, 2.0)[starts])


# --- the law -------------------------------------------------------------------------------------


def beta_cdf(x: Tensor, a: float, b: float) -> Tensor:
    """The incomplete beta function: its integral from the nearer end, so over one pole at most."""
    lower, upper = _lower_beta(x.clamp(max=0.5), a, b), _lower_beta(1 - x.clamp(min=0.5), b, a)
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    return torch.where(x <= 0.5, lower / math.exp(log_beta), 1 - upper / math.exp(log_beta))


def _lower_beta(x: Tensor, a: float, b: float) -> Tensor:
    grid = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    if a > 1:
        t = x[:, None] * grid
        return (t ** (a - 1) * (1 - t) ** (b - 1)).mean(1) * x
    t = x[:, None] * grid ** (1 / a)  # the pole at 0 is in this variable
    return ((1 - t) ** (b - 1)).mean(1) * x**a / a


def test_the_beta_cdf_of_these_tests_is_right() -> None:
    x = torch.tensor([0.1, 0.4, 0.8], dtype=torch.float64)
    torch.testing.assert_close(beta_cdf(x, 1.0, 1.0), x, rtol=1e-6, atol=0)
    torch.testing.assert_close(beta_cdf(x, 2.0, 3.0), x**2 * (6 - 8 * x + 3 * x**2))
    arcsine = 2 / torch.pi * x.sqrt().arcsin()
    torch.testing.assert_close(beta_cdf(x, 0.5, 0.5), arcsine, rtol=1e-4, atol=1e-4)


def assert_law(sample: Tensor, a: float, b: float) -> None:
    """Kolmogorov and Smirnov, at 40 of the points: significance 1e-4. F is exact to about 1e-6."""
    ordered = sample.double().sort().values
    at = ordered[:: len(ordered) // 40].clamp(1e-5, 1 - 1e-5)
    empirical = torch.searchsorted(ordered, at, right=True) / len(ordered)
    distance = (empirical - beta_cdf(at, a, b)).abs().max().item()
    assert distance < 2.23 / len(ordered) ** 0.5, (a, b, distance * len(ordered) ** 0.5)


@pytest.mark.parametrize("concentration", [0.01, 0.5, 1.0, 10.0, 300.0])
def test_progress_is_beta_distributed(concentration: float) -> None:
    elements = 20000
    path = progress(elements, 16, concentration)
    for step in (1, 4, 8, 11, 15):
        t = step / 16
        assert_law(path[step], concentration * t, concentration * (1 - t))
        variance = t * (1 - t) / (concentration + 1)
        assert abs(path[step].double().mean().item() - t) < 4 * (variance / elements) ** 0.5
        assert path[step].double().var().item() == pytest.approx(variance, rel=0.05)


def test_increments_have_the_covariances_of_a_dirichlet() -> None:
    elements, alpha = 40000, 4.0
    increments = progress(elements, 8, alpha).diff(dim=0, append=torch.ones(1, elements))
    covariance = torch.cov(increments.double())
    mean = 1 / 8
    expected = (torch.eye(8) * mean - mean**2) / (alpha + 1)
    torch.testing.assert_close(covariance, expected.double(), rtol=0, atol=6e-4)
    assert mean**2 / (alpha + 1) / 4 > 6e-4  # the tolerance can tell the off-diagonal from zero


def test_features_paths_and_examples_are_independent() -> None:
    ones = torch.ones(2, 20000)
    path = {"concentration": 2.0, "n_steps": 2, "n_paths": 2, "position": 0.0}
    middle = ops.dirichlet_points(ones, 0.0, KEY, **path).unflatten(0, (2, 2, 2))[1]
    rows = [middle[p, b] for p in (0, 1) for b in (0, 1)]
    rows += [rows[0].roll(1), rows[0].roll(16), rows[0].roll(512)]  # other features
    correlation = torch.corrcoef(torch.stack(rows).double())
    off_diagonal = correlation - torch.eye(len(rows))
    assert off_diagonal.abs().max().item() < 4.5 / 20000**0.5


def test_a_small_concentration_gives_one_jump_and_a_large_one_the_straight_path() -> None:
    jumps = progress(4000, 64, 1e-3).diff(dim=0, append=torch.ones(1, 4000))
    assert bool(jumps.isfinite().all())
    assert (jumps.amax(0) > 0.999).float().mean().item() > 0.95
    straight = progress(4000, 64, 1e6)
    torch.testing.assert_close(
        straight, (torch.arange(64) / 64)[:, None].expand_as(straight), rtol=0, atol=3e-3
    )


@pytest.mark.parametrize("concentration", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("n_steps", [1, 7, 64, 1000])
def test_progress_rises_from_0_to_1_and_increments_sum_to_exactly_1(
    n_steps: int, concentration: float
) -> None:
    path = progress(300, n_steps, concentration)
    assert bool((path[0] == 0).all())
    assert bool((path.diff(dim=0, append=torch.ones(1, 300)) >= 0).all())
    ones = torch.ones(n_steps, 300)
    sums = ops.dirichlet_accumulate(ones, KEY, concentration=concentration, n_steps=n_steps)
    assert_same_bits(sums, torch.ones(1, 300))
    end = progress(300, n_steps, concentration, first_step=n_steps - 1)
    assert bool((end <= 1).all())
    last = ops.dirichlet_points(
        torch.ones(1, 300),
        0.0,
        KEY,
        concentration=concentration,
        n_steps=n_steps,
        first_step=n_steps - 1,
        position=1.0,
    )
    assert bool((last == 1).all())


@pytest.mark.parametrize("concentration", [0.5, 10.0])
def test_midpoints_are_complete_for_a_quadratic_function(concentration: float) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(20, 20, generator=generator, dtype=torch.float64)
    matrix = matrix + matrix.T
    inputs, baselines = torch.randn(2, 3, 20, generator=generator, dtype=torch.float64)
    path = {"concentration": concentration, "n_steps": 10, "n_paths": 4}
    points = ops.dirichlet_points(inputs, baselines, KEY, **path)
    attributions = ops.dirichlet_accumulate(
        points @ matrix, KEY, **path, inputs=inputs, baselines=baselines
    )

    def energy(x: Tensor) -> Tensor:
        return ((x @ matrix) * x).sum(-1) / 2

    truth = energy(inputs) - energy(baselines)
    torch.testing.assert_close(
        attributions.sum(-1), truth.repeat(4), rtol=1e-12, atol=1e-12 * truth.abs().max().item()
    )
    at_starts = ops.dirichlet_points(inputs, baselines, KEY, **path, position=0.0)
    left = ops.dirichlet_accumulate(
        at_starts @ matrix, KEY, **path, inputs=inputs, baselines=baselines
    )
    assert bool(((left.sum(-1) - truth.repeat(4)).abs() > 1e-3).all())


def test_a_feature_at_its_baseline_gets_exactly_nothing() -> None:
    inputs = torch.tensor([[1.5, 0.25, 3.0]])
    path = {"concentration": 2.0, "n_steps": 5}
    points = ops.dirichlet_points(inputs, 0.25, KEY, **path)
    assert bool((points[:, 1] == 0.25).all())
    attributions = ops.dirichlet_accumulate(
        torch.randn(5, 3), KEY, **path, inputs=inputs, baselines=0.25
    )
    assert attributions[0, 1].item() == 0
    assert attributions[0, 0].item() != 0


# --- the formulas --------------------------------------------------------------------------------


def test_the_elementary_functions_are_as_accurate_as_they_say() -> None:
    x = torch.cat([torch.linspace(0, 64, 200001), torch.logspace(-30, 1, 200001)])
    truth = x.double().expm1()
    error = (random.exponential_minus_one(x).double() - truth) / truth.clamp(min=1e-300)
    assert error.abs().max().item() < 2e-7
    y = torch.cat([torch.arange(1, 2**24 + 1, 97), torch.tensor([1, 2, 2**24])]).float() * 2.0**-24
    truth = (torch.pi / 2 * y.double()).sin() ** 2
    error = (random.squared_sine_of_quarter(y).double() - truth) / truth
    assert error.abs().max().item() < 3e-7


@pytest.mark.parametrize("concentration", [1e-3, 1.0, 1e3])
def test_the_largest_word_splits_in_half_with_the_bits_of_the_reference(
    concentration: float, backend: torch.device
) -> None:
    # This example's first split has a word whose uniform number is 1, of which the logarithm is 0:
    # one in sixteen million.
    example = torch.tensor([26821936], device=backend)
    half = ops.dirichlet_points(
        torch.ones(1, 1, device=backend), 0.0, ops.random_key(5, device=backend),
        concentration=concentration, n_steps=2, first_step=1, position=0.0, examples=example,
    )  # fmt: skip
    assert half.item() == 0.5


@pytest.mark.parametrize("shape", [1e-8, 1e-3, 0.3, 1.0, 40.0, 1e3, 1e7])
def test_betas_never_leave_their_interval(shape: float) -> None:
    extreme = torch.tensor([0, 1, 2**8 - 1, 2**31, 2**32 - 1, 2**32 - 256, 12345678])
    grid = torch.cartesian_prod(extreme, extreme)
    words = torch.randint(2**32, (2, 100000), generator=torch.Generator().manual_seed(1))
    a, b = torch.cat([grid.T, words], dim=1)
    beta = reference.dirichlet.symmetric_beta(a, b, shape)
    assert bool(((beta >= 0) & (beta <= 1)).all())
    if 1e-2 < shape < 1e2:
        assert_law(beta[49:], shape, shape)
    # Swapping the sign's bit reflects the beta.
    mirrored = reference.dirichlet.symmetric_beta(a, b ^ 1, shape)
    torch.testing.assert_close(beta + mirrored, torch.ones_like(beta), rtol=0, atol=6e-8)


def test_sums_are_as_accurate_as_plain_pytorch(device: torch.device) -> None:
    case = DirichletCase("accuracy", 50, 1, 4, (500,))
    t = case.tensors(device=device)
    starts = [
        ops.dirichlet_points(
            torch.ones(4, 500, device=device), 0.0, t["key"], **case.path, position=float(end)
        ).unflatten(0, (50, 4))
        for end in (0, 1)
    ]
    increments = starts[1] - starts[0]
    grads, step = t["grads"].unflatten(0, (50, 4)), t["inputs"] - t["baselines"]
    assert_as_accurate_as(
        ops.dirichlet_accumulate(
            t["grads"], t["key"], **case.path, inputs=t["inputs"], baselines=t["baselines"]
        ),
        (grads * increments).sum(0) * step,
        (grads.double() * increments.double()).sum(0)
        * (t["inputs"].double() - t["baselines"].double()),
    )


def test_nan_and_infinity_pass_through(backend: torch.device) -> None:
    inputs = torch.tensor([[float("nan"), float("inf"), -float("inf"), 1.0]], device=backend)
    path = {"concentration": 5.0, "n_steps": 2}
    points = ops.dirichlet_points(inputs, 0.0, KEY.to(backend), **path)
    assert_same_bits(points[:, :3], inputs[:, :3].expand(2, 3).contiguous())
    sums = ops.dirichlet_accumulate(inputs.repeat(2, 1), KEY.to(backend), **path)
    assert_same_bits(sums[:, :3], inputs[:, :3])


# --- shapes --------------------------------------------------------------------------------------


@st.composite
def layouts(draw: st.DrawFn) -> dict:
    shape = draw(st.lists(st.integers(0, 5), min_size=1, max_size=5).map(tuple))
    dtype = draw(st.sampled_from(FLOATS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    n_steps, paths = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    first = draw(st.integers(0, n_steps - 1))
    count = draw(st.integers(1, n_steps - first))

    def values(size: tuple[int, ...]) -> Tensor:
        return torch.randn(size, generator=generator).to(dtype)

    def tensor(size: tuple[int, ...]) -> Tensor:
        kind = draw(st.sampled_from(["plain", "strided", "transposed", "expanded"]))
        if kind == "strided":
            return values((*size, 2))[..., 0]
        if kind == "transposed" and len(size) > 1:
            return values(size[::-1]).permute(*range(len(size) - 1, -1, -1))
        if kind == "expanded":
            return values((1,) * len(size)).expand(size)
        return values(size)

    baselines: Tensor | float = 0.25
    kind = draw(st.sampled_from(["number", "scalar", "one", "batch"]))
    if kind == "scalar":
        baselines = torch.tensor(0.5)
    elif kind == "one":
        baselines = tensor((1, *shape[1:]))
    elif kind == "batch":
        baselines = tensor(shape).to(draw(st.sampled_from(FLOATS)))
    return {
        "inputs": tensor(shape),
        "baselines": baselines,
        "grads": tensor((count * paths * shape[0], *shape[1:])),
        "path": {
            "concentration": draw(st.sampled_from([0.1, 3.0, 100.0])),
            "n_steps": n_steps,
            "first_step": first,
            "count": count,
            "n_paths": paths,
            "first_path": draw(st.integers(0, 5)),
            "per": draw(st.sampled_from(PER)) if len(shape) > 1 else "feature",
            "examples": draw(st.sampled_from([None, torch.arange(3, 3 + shape[0])])),
        },
    }


@needs_native_cpu
@given(layouts())
def test_native_and_reference_agree_on_any_layout(t: dict) -> None:
    def run() -> tuple[Tensor, Tensor]:
        ends = {"inputs": t["inputs"], "baselines": t["baselines"]}
        return (
            ops.dirichlet_points(**ends, key=KEY, **t["path"]),
            ops.dirichlet_accumulate(t["grads"], KEY, **ends, **t["path"]),
        )

    native = run()
    count, paths = t["path"]["count"], t["path"]["n_paths"]
    batch, *features = t["inputs"].shape
    assert native[0].shape == (count * paths * batch, *features)
    assert native[1].shape == (paths * batch, *features)
    with ops.native_kernels(False):
        plain = run()
    for a, b in zip(native, plain, strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("memory_format", FORMATS, ids=ids(FORMATS))
@pytest.mark.parametrize("dtype", FLOATS, ids=ids(FLOATS))
def test_out_may_be_the_front_of_a_larger_buffer(
    dtype: torch.dtype, memory_format: torch.memory_format, device: torch.device
) -> None:
    case = DirichletCase("out", 3, 1, 2, (3, 5, 6))
    t = case.tensors(device=device)
    buffer = torch.full((10, 3, 5, 6), 7.0, dtype=dtype, device=device)
    buffer = buffer.contiguous(memory_format=memory_format)
    args = (t["inputs"], t["baselines"], t["key"])
    out = buffer[:6]
    assert ops.dirichlet_points(*args, **case.path, out=out) is out
    assert_same_bits(out, ops.dirichlet_points(*args, **case.path, dtype=dtype))
    assert bool((buffer[6:] == 7).all())


@pytest.mark.parametrize("mapped", ["inputs", "baselines", "examples", "all"])
def test_vmap_of_points_equals_a_loop(mapped: str, device: torch.device) -> None:
    t = DirichletCase("vmap", 3, 2, 2, (2, 3)).tensors(device=device)
    names = ["inputs", "baselines", "examples"]
    args = [
        torch.stack([t[n], t[n] + 1, t[n] * 2]) if mapped in (n, "all") else t[n] for n in names
    ]
    in_dims = tuple(0 if mapped in (n, "all") else None for n in names)

    def points(x: Tensor, b: Tensor, examples: Tensor) -> Tensor:
        path = {"concentration": 2.0, "n_steps": 3, "n_paths": 2, "examples": examples}
        return ops.dirichlet_points(x, b, t["key"], **path)

    loop = [
        points(*[a[i] if d == 0 else a for a, d in zip(args, in_dims, strict=True)])
        for i in range(3)
    ]
    assert_same_bits(torch.vmap(points, in_dims=in_dims)(*args), torch.stack(loop))


@pytest.mark.parametrize("mapped", ["grads", "inputs", "baselines", "all"])
def test_vmap_of_accumulate_equals_a_loop(mapped: str, device: torch.device) -> None:
    t = DirichletCase("vmap", 3, 2, 2, (2, 3)).tensors(device=device)
    names = ["grads", "inputs", "baselines"]
    args = [
        torch.stack([t[n], t[n] + 1, t[n] * 2]) if mapped in (n, "all") else t[n] for n in names
    ]
    in_dims = tuple(0 if mapped in (n, "all") else None for n in names)

    def sums(g: Tensor, x: Tensor, b: Tensor) -> Tensor:
        path = {"concentration": 2.0, "n_steps": 3, "n_paths": 2}
        return ops.dirichlet_accumulate(g, t["key"], **path, inputs=x, baselines=b)

    loop = [
        sums(*[a[i] if d == 0 else a for a, d in zip(args, in_dims, strict=True)]) for i in range(3)
    ]
    assert_same_bits(torch.vmap(sums, in_dims=in_dims)(*args), torch.stack(loop))


# --- torch.library and torch.compile -------------------------------------------------------------


def op_calls(device: torch.device) -> list[tuple]:
    calls = []
    library = torch.ops.pyxai_fast
    for features, memory_format in (
        ((4,), torch.contiguous_format),
        ((3, 4, 5), torch.channels_last),
        ((0,), torch.contiguous_format),
    ):
        t = DirichletCase("opcheck", 3, 2, 2, features).tensors(
            torch.float32, memory_format, device
        )
        x, b, g, key = (t[k] for k in ("inputs", "baselines", "grads", "key"))
        path = (t["examples"], 2.0, 3, 0, 3, 2, 1)
        total = torch.zeros(4, *features, dtype=torch.float64, device=device)
        calls += [
            (library.dirichlet_points.default, (x, b, key, *path, 0.5, True), {}),
            (
                library.dirichlet_points.default,
                (x, b, key, *path, 0.5, False, None, None, torch.float16),
                {},
            ),
            (
                library.dirichlet_points.out,
                (x, b, key, *path, 0.5, False),
                {"out": torch.empty_like(g)},
            ),
            (library.dirichlet_accumulate.default, (g, key, *path, False), {}),
            (library.dirichlet_accumulate.default, (g, key, *path, True, x, b), {}),
            (library.dirichlet_accumulate.out, (g, key, *path, False), {"total": total}),
        ]
    return calls


@pytest.mark.parametrize("native", [True, False], ids=["native", "reference"])
def test_ops_pass_opcheck(native: bool, device: torch.device) -> None:
    with ops.native_kernels(native):
        for op, args, kwargs in op_calls(device):
            torch.library.opcheck(op, copy.deepcopy(args), copy.deepcopy(kwargs))


def test_ops_compile_into_one_graph(device: torch.device) -> None:
    case = DirichletCase("compile", 3, 2, 2, (3, 8, 8))
    t = case.tensors(device=device)

    def integral(x: Tensor, b: Tensor, key: Tensor) -> Tensor:
        points = ops.dirichlet_points(
            x, b, key, **case.path, per="pixel", memory_format=torch.channels_last
        )
        return ops.dirichlet_accumulate(
            points.square(), key, **case.path, per="pixel", inputs=x, baselines=b
        )

    args = (t["inputs"], t["baselines"], t["key"])
    compiled = torch.compile(integral, fullgraph=True, backend="aot_eager")
    assert_same_bits(compiled(*args), integral(*args))


# --- errors --------------------------------------------------------------------------------------

X = torch.zeros(2, 3, 4)
PATH = {"concentration": 1.0, "n_steps": 2}


def points(x=X, b=0.0, key=KEY, **more):
    return ops.dirichlet_points(x, b, key, **{**PATH, **more})


def sums(grads=X, key=KEY, **more):
    return ops.dirichlet_accumulate(grads, key, **{**PATH, **more})


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: points(X.long()), TypeError, "inputs must be float16"),
        (lambda: points(torch.tensor(1.0)), ValueError, "inputs must have shape"),
        (lambda: points(b="black"), TypeError, "baselines must be a number"),
        (lambda: points(b=X[:, :2]), ValueError, r"baselines must .*\[2, 2, 4\]"),
        (lambda: points(key=7), TypeError, "key must be a tensor, .*got int"),
        (
            lambda: points(key=torch.zeros(2)),
            ValueError,
            r"key must be int64 \[2\], .*got .*float32",
        ),
        (lambda: points(key=KEY[:1]), ValueError, r"key must be int64 \[2\]"),
        (lambda: points(key=KEY.to("meta")), ValueError, "key must be on cpu"),
        (lambda: points(examples=KEY.repeat(2)), ValueError, r"examples must have shape \[2\]"),
        (lambda: points(examples=[0, 1]), TypeError, "examples must be an int32 or int64 tensor"),
        (lambda: points(concentration="10"), TypeError, "concentration must be a number"),
        (lambda: points(concentration=0.0), ValueError, "concentration must be positive"),
        (lambda: points(concentration=float("inf")), ValueError, "concentration .* finite"),
        (lambda: points(n_steps=0), ValueError, r"n_steps must be in \[1, 65536\], got 0"),
        (lambda: points(n_steps=2.0), TypeError, "n_steps must be an int, got float"),
        (lambda: points(first_step=2), ValueError, r"first_step must be in \[0, 1\], got 2"),
        (lambda: points(first_step=1, count=2), ValueError, r"count must be in \[1, 1\], got 2"),
        (lambda: points(n_paths=0), ValueError, "n_paths must be in"),
        (lambda: points(first_path=-1), ValueError, "first_path must be in"),
        (lambda: points(position=1.5), ValueError, r"position must be a number in \[0, 1\]"),
        (lambda: points(per="channel"), ValueError, 'per must be "feature" or "pixel"'),
        (lambda: points(X[:, 0, 0], per="pixel"), ValueError, "must come with shape"),
        (lambda: points(scale=torch.ones(3)), ValueError, "given together"),
        (lambda: points(out=X), ValueError, r"out must have shape \[4, 3, 4\]"),
        (lambda: points(dtype=torch.int64), TypeError, "dtype .*int64"),
        (lambda: points(X.clone().requires_grad_()), ValueError, "inputs must not require grad"),
        (lambda: sums(X[:1]), ValueError, r"grads must have shape \[2 \* 1 \* B"),
        (lambda: sums(X, inputs=X[:1]), ValueError, "given together"),
        (lambda: sums(X, inputs=X, baselines=0.0), ValueError, r"inputs must have shape \[1, 3"),
        (lambda: sums(X, scale=torch.ones(3)), ValueError, "scale must come"),
        (lambda: sums(X, total=X[:1]), ValueError, "total must be float64"),
        (lambda: sums(X, total=X[:1].double(), inputs=X[:1]), ValueError, "total must come"),
        (lambda: sums(X.clone().requires_grad_()), ValueError, "grads must not require grad"),
    ],
)
def test_a_bad_argument_is_named_with_what_it_must_be(call, error, words: str) -> None:
    with pytest.raises(error, match=f"^dirichlet_(points|accumulate): .*{words}"):
        call()


def test_what_requires_grad_may_be_given_where_nothing_is_recorded() -> None:
    inputs = X.clone().requires_grad_()
    with torch.no_grad():
        assert_same_bits(points(inputs), points())


RAW = (None, 1.0, 2, 0, 2, 1, 0)


@needs_native_cpu
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda o: o.dirichlet_points(X, X[:, :2], KEY, *RAW, 0.5, False), "baselines must"),
        (lambda o: o.dirichlet_points(X, X, KEY[:1], *RAW, 0.5, False), "key must be int64"),
        (lambda o: o.dirichlet_points(X, X, X[0, 0, :2], *RAW, 0.5, False), "key must be int"),
        (
            lambda o: o.dirichlet_points(X, X, KEY, KEY[:1], *RAW[1:], 0.5, False),
            "examples must have shape",
        ),
        (
            lambda o: o.dirichlet_points(X, X, KEY, None, 1.0, 2**17, 0, 2, 1, 0, 0.5, False),
            "n_steps must be in",
        ),
        (
            lambda o: o.dirichlet_points(X, X, KEY, None, 1.0, 2, 1, 2, 1, 0, 0.5, False),
            "first_step and count",
        ),
        (
            lambda o: o.dirichlet_points(X, X, KEY, None, 1.0, 2, 0, 2, 0, 0, 0.5, False),
            "first_path and n_paths",
        ),
        (
            lambda o: o.dirichlet_points(X, X, KEY, None, 0.0, 2, 0, 2, 1, 0, 0.5, False),
            "concentration must be positive",
        ),
        (
            lambda o: o.dirichlet_points.out(X, X, KEY, *RAW, 0.5, False, out=X),
            "out must have shape",
        ),
        (
            lambda o: o.dirichlet_points.out(X[:1], X[:1], KEY, *RAW, 0.5, False, out=X),
            "out must not share memory",
        ),
        (lambda o: o.dirichlet_accumulate(X[:1], KEY, *RAW, False), "grads must have shape"),
        (lambda o: o.dirichlet_accumulate(X, KEY, *RAW, False, X, X), "inputs must have shape"),
        (
            lambda o: o.dirichlet_accumulate.out(X, KEY, *RAW, False, total=X.double()),
            "total must be float64",
        ),
        (
            lambda o: o.dirichlet_accumulate(X[:, 0, 0], KEY, *RAW, True),
            r"per pixel need shape \[B, C",
        ),
    ],
)
def test_a_raw_op_refuses_what_would_read_or_write_out_of_bounds(call, words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        call(torch.ops.pyxai_fast)
