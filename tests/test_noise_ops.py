"""perturb and noise_contract: every backend against the reference, the noise against its law."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from assertions import assert_same_bits
from conftest import needs_native_cpu
from hypothesis import given
from hypothesis import strategies as st
from noise_cases import DISTRIBUTIONS, SMALL, NoiseCase
from path_cases import FLOATS
from torch import Tensor

from pyxai_fast import ops, reference
from pyxai_fast.reference import random

KEY = ops.random_key(0x0123_4567_89AB_CDEF, 3)


def ids(values: tuple) -> list[str]:
    return [getattr(v, "name", str(v).removeprefix("torch.")) for v in values]


def formats_of(case: NoiseCase) -> list[torch.memory_format]:
    formats = [torch.contiguous_format]
    return [*formats, torch.channels_last] if len(case.features) == 3 else formats


# --- Philox --------------------------------------------------------------------------------------

# Random123's known answers for philox4x32-10: counter, key, words.
KNOWN = [
    ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def words_of(text: str) -> list[Tensor]:
    return [torch.tensor([int(word, 16)]) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN, ids=["zeros", "ones", "pi"])
def test_philox_gives_the_known_answers(counter: str, key: str, words: str) -> None:
    low, high = words_of(key)
    found = random.philox(tuple(words_of(counter)), low | high << 32)
    assert [int(word) for word in found] == [int(word) for word in words_of(words)]


def test_every_kernel_draws_philox_words(backend: torch.device) -> None:
    # Signs show single bits of the words: 2048 features show all of 16 blocks. The counters with
    # which the known answers can be asked of an op, word by word.
    sample, example = 0x13198A2E, 0x85A308D3
    key = ops.random_key(0x299F31D0_A4093822, 0x7344, device=backend)
    signs = ops.noise_contract(
        torch.ones(1, 1, device=backend),
        (2048,),
        key,
        distribution="rademacher",
        first_sample=sample,
        examples=torch.tensor([example], device=backend),
    )
    bits = (signs.cpu().reshape(4, 32, 16) < 0).long()
    words = (bits << torch.arange(32)[:, None]).sum(1)  # [word, block]
    counter = (torch.arange(16), torch.tensor(example), torch.tensor(sample), torch.tensor(0x7344))
    expected = torch.stack(random.philox(counter, key[0].cpu()))
    assert torch.equal(words, expected)


# --- the kernels give the bits of the reference --------------------------------------------------


def options_of(case: NoiseCase, device: torch.device) -> list[dict]:
    """What changes the drawing."""
    batch = case.batch
    options: list[dict] = [
        {},
        {"antithetic": True, "first_sample": 3},
        {"keep": 0.3, "examples": torch.arange(batch, device=device) * 7 + 1},
    ]
    if case.features:
        blocks = case.blocks(device)
        active = torch.arange(case.samples * batch, device=device).reshape(-1, batch) % 5
        options += [
            {"blocks": blocks, "shared": True},
            {"blocks": blocks, "n_blocks": 5, "keep": 0.5, "antithetic": True},
            {"blocks": blocks, "active": active[:, 0]},
            # Within some pairs the block changes, within others it does not.
            {"blocks": blocks, "active": active // 3, "antithetic": True},
            {"blocks": blocks.expand(batch, *blocks.shape[1:]), "active": active, "shared": True},
        ]
    return options


def for_reference(options: dict) -> dict:
    given = dict(options)
    if "blocks" in given:
        given.setdefault("n_blocks", int(given["blocks"].max()) + 1)
    return given


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("case", SMALL, ids=ids(SMALL))
def test_points_have_the_bits_of_the_reference(
    case: NoiseCase, distribution: str, backend: torch.device
) -> None:
    key = KEY.to(backend)
    for memory_format in formats_of(case):
        inputs = case.inputs(device=backend)
        for options in options_of(case, backend):
            args = (inputs, case.samples, torch.tensor(0.25, device=backend), key, distribution)
            points = ops.perturb(
                *args[:4], distribution=distribution, memory_format=memory_format, **options
            )
            expected = reference.perturb(
                *args, memory_format=memory_format, **for_reference(options)
            )
            assert points.is_contiguous(memory_format=memory_format)
            assert_same_bits(points, expected)


@pytest.mark.parametrize("point_dtype", FLOATS, ids=ids(FLOATS))
@pytest.mark.parametrize("dtype", FLOATS, ids=ids(FLOATS))
def test_masks_ranges_and_affine_maps_have_the_bits_of_the_reference(
    dtype: torch.dtype, point_dtype: torch.dtype, backend: torch.device
) -> None:
    case = NoiseCase("affine", 3, 2, (3, 17, 20))
    inputs = case.inputs(dtype, device=backend)
    scale, shift = torch.linspace(0.5, 3, 3).to(backend), torch.linspace(-1, 1, 3).to(backend)
    sigma = torch.tensor([0.5, 0.25], device=backend)
    for memory_format in formats_of(case):
        for mask in (None, inputs, inputs[:1], torch.tensor(2.0, dtype=dtype, device=backend)):
            for clip, reflect in ((None, False), ((0.0, 1.0), False), ((0.1, None), True)):
                given = {"mask": mask, "reflect": reflect, "scale": scale, "shift": shift}
                given |= {"dtype": point_dtype, "memory_format": memory_format}
                low, high = clip or (None, None)
                args = (inputs, case.samples, sigma, KEY.to(backend))
                assert_same_bits(
                    ops.perturb(*args, clip=clip, **given),
                    reference.perturb(*args, low=low, high=high, **given),
                )


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("case", SMALL, ids=ids(SMALL))
def test_contractions_have_the_bits_of_the_reference(
    case: NoiseCase, distribution: str, backend: torch.device
) -> None:
    weights, key = case.weights(device=backend), KEY.to(backend)
    for options in options_of(case, backend):
        options.pop("shared", None)
        for squared in (False, True):
            assert_same_bits(
                ops.noise_contract(
                    weights, case.features, key, distribution=distribution, squared=squared,
                    **options,
                ),
                reference.noise_contract(
                    weights, list(case.features), key, distribution, squared=squared,
                    **for_reference(options),
                ),
            )  # fmt: skip
    one = weights[:, :, 0]
    assert_same_bits(
        ops.noise_contract(one, case.features, key, distribution=distribution),
        reference.noise_contract(one, list(case.features), key, distribution),
    )


@pytest.mark.parametrize("dtype", FLOATS, ids=ids(FLOATS))
def test_weights_of_any_type_have_the_bits_of_the_reference(
    dtype: torch.dtype, backend: torch.device
) -> None:
    weights = NoiseCase("weights", 9, 2, (100,), targets=7).weights(dtype, backend)
    expected = reference.noise_contract(weights, [100], KEY.to(backend))
    assert expected.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_same_bits(ops.noise_contract(weights, (100,), KEY.to(backend)), expected)
    turned = weights.transpose(0, 1).contiguous().transpose(0, 1)
    assert_same_bits(ops.noise_contract(turned, (100,), KEY.to(backend)), expected)


# --- the two ops see the same noise --------------------------------------------------------------


@pytest.mark.parametrize("distribution", (*DISTRIBUTIONS, "ones"))
def test_the_noise_contracted_is_the_noise_added(distribution: str, backend: torch.device) -> None:
    case = NoiseCase("same", 6, 2, (3, 10, 11), targets=3)
    for options in options_of(case, backend):
        if options.pop("shared", False):
            continue
        noise = ops.perturb(
            torch.zeros(2, 3, 10, 11, device=backend), 6, 1.0, KEY.to(backend),
            distribution=distribution, **options,
        ).unflatten(0, (6, 2))  # fmt: skip
        weights = case.weights(torch.float64, backend)
        expected = torch.einsum("bkn,kb...->bn...", weights, noise.double())
        torch.testing.assert_close(
            ops.noise_contract(
                weights, (3, 10, 11), KEY.to(backend), distribution=distribution, **options
            ),
            expected,
        )


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_noise_shared_by_blocks_is_contracted_block_by_block(
    distribution: str, backend: torch.device
) -> None:
    # More samples than the Hadamard matrix of 5 blocks has rows.
    case = NoiseCase("shared", 20, 2, (3, 10, 11))
    blocks, weights = case.blocks(backend), case.weights(torch.float64, backend)
    noise = ops.perturb(
        torch.zeros(2, 3, 10, 11, device=backend), 20, 1.0, KEY.to(backend), blocks=blocks,
        shared=True, distribution=distribution,
    ).unflatten(0, (20, 2))  # fmt: skip
    by_block = ops.noise_contract(weights, (5,), KEY.to(backend), distribution=distribution)
    spread = by_block[:, :, blocks.long()[0]].expand(2, 2, 3, 10, 11)
    torch.testing.assert_close(spread, torch.einsum("bkn,kb...->bn...", weights, noise.double()))
    assert not torch.equal(noise[:8], noise[8:16])


def test_memory_format_changes_no_noise(backend: torch.device) -> None:
    for case in (SMALL[4], SMALL[5], SMALL[7]):
        args = (case.inputs(device=backend), case.samples, 0.5, KEY.to(backend))
        for distribution in DISTRIBUTIONS:
            assert_same_bits(
                ops.perturb(
                    *args, distribution=distribution, memory_format=torch.channels_last, keep=0.7
                ),
                ops.perturb(*args, distribution=distribution, keep=0.7),
            )


# --- what never changes the numbers --------------------------------------------------------------


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_chunks_of_samples_continue_each_other(distribution: str, backend: torch.device) -> None:
    case = NoiseCase("chunks", 11, 2, (3, 20, 21))
    inputs, weights, key = (
        case.inputs(device=backend),
        case.weights(device=backend),
        KEY.to(backend),
    )
    common = {"distribution": distribution, "antithetic": True}
    points = ops.perturb(inputs, 11, 0.5, key, **common)
    whole = torch.zeros(2, 2, 3, 20, 21, dtype=torch.float64, device=backend)
    ops.noise_contract(weights, None, key, total=whole, **common)
    for size in (1, 2, 3, 7):
        total = torch.zeros_like(whole)
        for begin in range(0, 11, size):
            count = min(size, 11 - begin)
            some = ops.perturb(inputs, count, 0.5, key, first_sample=begin, **common)
            assert_same_bits(some, points[2 * begin : 2 * (begin + count)])
            ops.noise_contract(
                weights[:, begin : begin + count], None, key, first_sample=begin, total=total,
                **common,
            )  # fmt: skip
        assert_same_bits(total, whole)


def test_a_subset_of_the_examples_keeps_its_noise(backend: torch.device) -> None:
    case = NoiseCase("subset", 4, 5, (3, 7, 9))
    inputs, weights, key = (
        case.inputs(device=backend),
        case.weights(device=backend),
        KEY.to(backend),
    )
    chosen = torch.tensor([4, 1], device=backend)
    points = ops.perturb(inputs, 4, 0.5, key).unflatten(0, (4, 5))
    some = ops.perturb(inputs[chosen], 4, 0.5, key, examples=chosen).unflatten(0, (4, 2))
    assert_same_bits(some, points[:, chosen])
    total = ops.noise_contract(weights, case.features, key)
    assert_same_bits(
        ops.noise_contract(weights[chosen], case.features, key, examples=chosen), total[chosen]
    )


@needs_native_cpu
def test_threads_and_instruction_sets_give_the_same_bits() -> None:
    case = NoiseCase("threads", 37, 3, (3, 64, 65))
    threads, isa = torch.get_num_threads(), ops.cpu_isa()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for name in ops.available_cpu_isas():
                ops.set_cpu_isa(name)
                points = ops.perturb(case.inputs(), 37, 0.5, KEY)
                results.append((points, ops.noise_contract(case.weights(), case.features, KEY)))
    finally:
        torch.set_num_threads(threads)
        ops.set_cpu_isa(isa)
    for points, total in results[1:]:
        assert_same_bits(points, results[0][0])
        assert_same_bits(total, results[0][1])


# --- the law of the noise ------------------------------------------------------------------------


def draws(distribution: str, samples: int, features: int, key: Tensor = KEY, **options) -> Tensor:
    """[K, B, D] of noise, float64."""
    batch = options.pop("batch", 1)
    zeros = torch.zeros(batch, features)
    return (
        ops.perturb(zeros, samples, 1.0, key, distribution=distribution, **options)
        .double()
        .unflatten(0, (samples, batch))
    )


def test_gaussian_noise_is_standard_normal() -> None:
    noise = draws("gaussian", 64, 20_000).flatten()
    count = noise.numel()
    moments = [noise.pow(power).mean().item() for power in (1, 2, 3, 4)]
    # Means of powers of a normal: 0, 1, 0, 3; their variances: 1, 2, 15, 96. Five deviations.
    for found, mean, variance in zip(moments, (0, 1, 0, 3), (1, 2, 15, 96), strict=True):
        assert abs(found - mean) < 5 * math.sqrt(variance / count)
    # Kolmogorov and Smirnov's distance to the normal law; 1.95 / sqrt(n) at a level of 0.1 %.
    ordered = noise.sort().values
    law = torch.special.ndtr(ordered)
    ranks = torch.arange(1, count + 1, dtype=torch.float64) / count
    distance = torch.maximum((ranks - law).abs(), (law - ranks + 1 / count).abs()).max()
    assert distance < 1.95 / math.sqrt(count)
    assert noise.abs().max() > 4.5
    assert noise.abs().max() < 5.78


@pytest.mark.parametrize("distribution", ["rademacher", "orthogonal"])
def test_signs_are_equally_likely(distribution: str) -> None:
    noise = draws(distribution, 64, 20_000)
    assert bool((noise.abs() == 1).all())
    assert abs(noise.mean()) < 5 / math.sqrt(noise.numel())


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
def test_noise_is_independent_across_what_the_counter_counts(distribution: str) -> None:
    features = 50_000
    limit = 5 / math.sqrt(features)
    noise = draws(distribution, 6, features, batch=3).flatten(0, 1)  # samples and examples
    streams = [
        draws(distribution, 1, features, key=key)[0]
        for key in (ops.random_key(7, 0), ops.random_key(7, 1), ops.random_key(8, 0))
    ]
    rows = torch.cat([noise, *streams])
    correlations = rows @ rows.T / features - torch.eye(len(rows), dtype=torch.float64)
    assert correlations.abs().max() < limit + 0.03 * torch.eye(len(rows)).max()
    off = correlations[~torch.eye(len(rows), dtype=torch.bool)]
    assert off.abs().max() < limit
    # Squares too: Gaussian pairs come from one radius and one angle.
    if distribution == "gaussian":
        squares = rows.square() - 1
        off = (squares @ squares.T / features)[~torch.eye(len(rows), dtype=torch.bool)]
        assert off.abs().max() < 2 * limit
    # And neighbours in one sample, at every distance that the layout knows.
    flat = noise[0]
    for distance in (1, 4, 15, 16, 17, 32, 64, 512, 2048):
        assert abs((flat[distance:] * flat[:-distance]).mean()) < limit


def test_orthogonal_rows_are_orthogonal_and_signs_are_drawn_anew() -> None:
    noise = draws("orthogonal", 96, 32)[:, 0]
    for begin in (0, 32, 64):
        rows = noise[begin : begin + 32]
        assert torch.equal(rows @ rows.T, 32 * torch.eye(32, dtype=torch.float64))
    assert not torch.equal(noise[:32], noise[32:64])
    # Features short of a power of two: the columns still are orthogonal.
    columns = draws("orthogonal", 32, 20)[:, 0]
    assert torch.equal(columns.T @ columns, 32 * torch.eye(20, dtype=torch.float64))


def test_orthogonal_noise_finds_a_linear_gradient_exactly() -> None:
    gradient = torch.randn(20, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x = torch.randn(2, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    points = ops.perturb(x, 32, 0.1, KEY, distribution="orthogonal")
    # The answer at x is taken off: the first column of a Hadamard matrix does not cancel it.
    answers = (points @ gradient).unflatten(0, (32, 2)).T - (x @ gradient)[:, None]
    found = ops.noise_contract(answers, (20,), KEY, distribution="orthogonal") / (32 * 0.1)
    torch.testing.assert_close(found, gradient.expand(2, 20), rtol=1e-12, atol=1e-12)


def test_antithetic_samples_have_opposite_noise() -> None:
    noise = draws("gaussian", 7, 100, antithetic=True, first_sample=2)
    assert_same_bits(noise[0:6:2], -noise[1:6:2])
    assert not torch.equal(noise[0], noise[2])
    plain = draws("gaussian", 4, 100, first_sample=1)
    assert_same_bits(noise[0:7:2], plain)


def test_a_share_of_the_features_is_kept() -> None:
    kept = draws("ones", 40, 5000, keep=0.3)
    assert abs(kept.mean() - 0.3) < 5 * math.sqrt(0.21 / kept.numel())
    # Drawn anew for each sample, whatever the rows of a Hadamard matrix share.
    rows = draws("orthogonal", 4, 5000, keep=0.3)
    assert not torch.equal(rows[0] != 0, rows[1] != 0)
    # The noise that is kept is the noise that would have been there.
    noise, dropped = draws("gaussian", 4, 5000), draws("gaussian", 4, 5000, keep=0.3)
    assert bool(((dropped == noise) | (dropped == 0)).all())
    assert_same_bits(dropped != 0, draws("ones", 4, 5000, keep=0.3) != 0)


def test_blocks_are_perturbed_alone_together_or_by_chance() -> None:
    blocks = torch.tensor([[0, 0, 1, 1, 1, 2]])
    alone = draws("gaussian", 3, 6, blocks=blocks, active=torch.tensor([0, 1, 2]))[:, 0]
    assert_same_bits(alone != 0, blocks == torch.arange(3)[:, None])
    together = draws("gaussian", 3, 6, blocks=blocks, shared=True)[:, 0]
    assert bool((together[:, [0, 2, 3]] == together[:, [1, 3, 4]]).all())
    assert together[:, [0, 2, 5]].unique().numel() == 9
    chance = draws("ones", 200, 6, blocks=blocks, keep=0.5)[:, 0]
    assert bool((chance[:, [0, 2, 3]] == chance[:, [1, 3, 4]]).all())
    assert 60 < int(chance[:, 0].sum()) < 140
    # Outside of all blocks, nothing is shared or kept; a block of its own number may be active.
    outside = torch.tensor([[0, -1, 7]])
    assert draws("ones", 1, 3, blocks=outside, n_blocks=2, shared=True)[0, 0].tolist() == [1, 0, 0]


def test_smoothing_theory_holds() -> None:
    # A quadratic s(x) = b.x + x.A x / 2 has E[s(x + sigma z) z] / sigma = A x + b, and antithetic
    # pairs give it without the noise of the constant and of the curvature.
    generator = torch.Generator().manual_seed(5)
    features, samples, sigma = 6, 20_000, 0.3
    half = torch.randn(features, features, dtype=torch.float64, generator=generator)
    curvature, b = half + half.T, torch.randn(features, dtype=torch.float64, generator=generator)
    x = torch.randn(1, features, dtype=torch.float64, generator=generator)
    points = ops.perturb(x, samples, sigma, KEY, antithetic=True)
    answers = points @ b + (points @ curvature * points).sum(1) / 2
    found = ops.noise_contract(answers[None], (features,), KEY, antithetic=True)
    found = found / (samples * sigma)
    gradient = x @ curvature + b
    # The variance of one antithetic pair is |g|^2 + g_i^2; there are half as many pairs.
    deviation = ((gradient.square().sum() + gradient.square()) / (samples / 2)).sqrt()
    assert bool(((found - gradient).abs() < 5 * deviation).all())
    assert bool(((found - gradient).abs() > 1e-6).any())


# --- ranges --------------------------------------------------------------------------------------


def test_points_stay_in_the_range() -> None:
    x = torch.rand(2, 500)
    free = ops.perturb(x, 8, 0.4, KEY)
    clipped = ops.perturb(x, 8, 0.4, KEY, clip=(0.0, 1.0))
    assert_same_bits(clipped, free.clamp(0, 1))
    mirrored = ops.perturb(x, 8, 0.4, KEY, clip=(0.0, 1.0), reflect=True)
    expected = torch.where(free < 0, -free, free)
    expected = torch.where(expected > 1, 2 - expected, expected).clamp(0, 1)
    assert_same_bits(mirrored, expected)
    assert bool((free < 0).any() and (free > 1).any())


def test_nan_and_infinity_pass_through(backend: torch.device) -> None:
    inputs = torch.tensor([[float("nan"), float("inf"), -float("inf"), 1.0]], device=backend)
    points = ops.perturb(inputs, 2, 0.5, KEY.to(backend))
    assert_same_bits(points[:, :3], inputs[:, :3].expand(2, 3))
    clipped = ops.perturb(inputs, 2, 0.5, KEY.to(backend), clip=(-2.0, 2.0))
    expected = torch.tensor([float("nan"), 2.0, -2.0], device=backend)
    assert_same_bits(clipped[:, :3], expected.expand(2, 3))
    weights = torch.tensor([[float("nan")], [float("inf")]], device=backend)
    total = ops.noise_contract(weights, (3,), KEY.to(backend))
    assert bool(total[0].isnan().all() and total[1].isinf().all())


# --- shapes --------------------------------------------------------------------------------------


@given(
    shape=st.lists(st.integers(0, 9), min_size=1, max_size=5).map(tuple),
    samples=st.integers(0, 4),
    dtype=st.sampled_from(FLOATS),
    kind=st.sampled_from(["plain", "strided", "transposed", "expanded"]),
    distribution=st.sampled_from(DISTRIBUTIONS),
)
def test_any_shape_and_stride_gives_the_bits_of_the_reference(
    shape: tuple[int, ...], samples: int, dtype: torch.dtype, kind: str, distribution: str
) -> None:
    if kind == "strided":
        inputs = torch.rand(*shape, 2)[..., 0]
    elif kind == "transposed":
        inputs = torch.rand(shape[::-1]).permute(*range(len(shape) - 1, -1, -1))
    elif kind == "expanded":
        inputs = torch.rand((1,) * len(shape)).expand(shape)
    else:
        inputs = torch.rand(shape)
    inputs = inputs.to(dtype)
    points = ops.perturb(inputs, samples, 0.5, KEY, distribution=distribution)
    assert points.shape == (samples * shape[0], *shape[1:])
    expected = reference.perturb(inputs, samples, torch.tensor(0.5), KEY, distribution)
    assert_same_bits(points, expected)
    weights = torch.rand(shape[0], samples)
    total = ops.noise_contract(weights, shape[1:], KEY, distribution=distribution)
    assert total.shape == shape
    assert_same_bits(total, reference.noise_contract(weights, list(shape[1:]), KEY, distribution))


@needs_native_cpu
def test_features_beyond_31_bits_have_noise_of_their_own() -> None:
    # Numbers of features are only ever seen through the counter: ask for values far out.
    batch = torch.zeros(1, 1, 1, 1)
    blocks = torch.tensor([[0]], dtype=torch.int32)
    assert ops.perturb(batch[:, 0, 0], 1, 1.0, KEY, blocks=blocks, n_blocks=2**31 - 1).numel() == 1
    far = torch.tensor([[2**31 - 2, 2**31 - 3]], dtype=torch.int32)
    found = ops.perturb(torch.zeros(1, 2), 1, 1.0, KEY, blocks=far, n_blocks=2**31 - 1, shared=True)
    for index, value in zip(far[0].tolist(), found[0], strict=True):
        block = index // 64 * 16 + index % 16
        counter = random.counter(torch.tensor([block]), torch.tensor(0), 0, KEY)
        words = random.philox(counter, KEY[0])
        normals = [*random.box_muller(*words[:2]), *random.box_muller(*words[2:])]
        assert_same_bits(value[None], normals[index // 16 % 4])


# --- out=, derivatives, torch.library ------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS, ids=ids(FLOATS))
def test_out_is_written_in_its_own_dtype_and_format(
    dtype: torch.dtype, backend: torch.device
) -> None:
    inputs = NoiseCase("out", 3, 2, (3, 5, 6)).inputs(device=backend)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        buffer = torch.full((9, 3, 5, 6), 7.0, dtype=dtype, device=backend)
        buffer = buffer.contiguous(memory_format=memory_format)
        out = buffer[:6]
        assert ops.perturb(inputs, 3, 0.5, KEY.to(backend), out=out) is out
        assert_same_bits(out, ops.perturb(inputs, 3, 0.5, KEY.to(backend), dtype=dtype))
        assert bool((buffer[6:] == 7.0).all())


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_points_are_differentiable_twice(check) -> None:
    inputs = torch.rand(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    scale, shift = torch.linspace(1, 2, 3), torch.linspace(-1, 1, 3)
    assert check(lambda x: ops.perturb(x, 4, 0.5, KEY, scale=scale, shift=shift).sin(), (inputs,))
    assert check(lambda x: ops.perturb(x, 0, 0.5, KEY), (inputs,))


def test_gradients_go_through_vmap() -> None:
    many = torch.rand(3, 2, 5, dtype=torch.float64)

    def energy(x: Tensor) -> Tensor:
        return ops.perturb(x, 4, 0.5, KEY).sin().sum()

    found = torch.func.vmap(torch.func.grad(energy))(many)
    expected = torch.stack([torch.func.grad(energy)(one) for one in many])
    assert_same_bits(found, expected)


@pytest.mark.parametrize("mapped", ["inputs", "sigma", "mask", "all"])
def test_vmap_of_perturb_equals_a_loop(mapped: str, backend: torch.device) -> None:
    inputs = torch.rand(2, 3, 4, device=backend)
    args = {
        "inputs": inputs,
        "sigma": torch.tensor([0.5, 0.25], device=backend),
        "mask": torch.rand(1, 3, 4, device=backend),
    }

    def one(x: Tensor, s: Tensor, m: Tensor) -> Tensor:
        return ops.perturb(x, 3, s, KEY.to(backend), mask=m)

    values = [
        torch.stack([v, 2 * v, v / 2], dim=1) if mapped in (n, "all") else v
        for n, v in args.items()
    ]
    dims = tuple(1 if mapped in (n, "all") else None for n in args)
    loop = [
        one(*[v.select(1, i) if d == 1 else v for v, d in zip(values, dims, strict=True)])
        for i in range(3)
    ]
    assert_same_bits(torch.vmap(one, in_dims=dims)(*values), torch.stack(loop))


@pytest.mark.parametrize("targets", [(), (2,)], ids=["one", "several"])
def test_vmap_of_contract_equals_a_loop(targets: tuple[int, ...], backend: torch.device) -> None:
    weights = torch.randn(2, 4, 3, *targets, device=backend)  # the third is mapped

    def one(w: Tensor) -> Tensor:
        return ops.noise_contract(w, (5, 6), KEY.to(backend))

    loop = torch.stack([one(weights[:, :, i]) for i in range(3)])
    assert_same_bits(torch.vmap(one, in_dims=2)(weights), loop)


@pytest.mark.parametrize("native", [True, False], ids=["native", "reference"])
def test_ops_pass_opcheck(native: bool, device: torch.device) -> None:
    library, key = torch.ops.pyxai_fast, KEY.to(device)
    half = torch.tensor(0.5, device=device)
    with ops.native_kernels(native):
        for shape in ((2, 4), (2, 3, 4, 5), (0, 3), (2, 0)):
            x = torch.rand(shape, device=device)
            weights = torch.rand(shape[0], 3, device=device)
            total = torch.zeros(shape, dtype=torch.float64, device=device)
            out = torch.empty((3 * shape[0], *shape[1:]), device=device)
            calls = [
                (library.perturb.default, (x, 3, half, key), {}),
                (library.perturb.out, (x, 3, half, key, "orthogonal", True), {"out": out}),
                (library.noise_contract.default, (weights, list(shape[1:]), key), {}),
                (library.noise_contract.out, (weights, key, "rademacher"), {"total": total}),
            ]
            if len(shape) == 4:
                last = {"dtype": torch.float16, "memory_format": torch.channels_last}
                calls.append((library.perturb.default, (x, 3, half, key), last))
            for op, args, kwargs in calls:
                torch.library.opcheck(op, copy.deepcopy(args), copy.deepcopy(kwargs))


def test_ops_compile_into_one_graph(device: torch.device) -> None:
    key = KEY.to(device)

    def gradient(x: Tensor, w: Tensor, n_samples: int) -> Tensor:
        points = ops.perturb(x, n_samples, 0.1, key, memory_format=torch.channels_last)
        answers = (points.square() * w).sum((1, 2, 3)).unflatten(0, (n_samples, -1)).T
        return ops.noise_contract(answers, x.shape[1:], key)

    x, w = torch.rand(2, 3, 8, 8, device=device), torch.rand(3, 8, 8, device=device)
    compiled = torch.compile(gradient, fullgraph=True, backend="aot_eager")
    for n_samples in (4, 6):
        assert_same_bits(compiled(x, w, n_samples), gradient(x, w, n_samples))


# --- errors --------------------------------------------------------------------------------------

X = torch.zeros(2, 3, 4)
W = torch.zeros(2, 5)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ops.perturb(X.long(), 4, 0.1, KEY), TypeError, "inputs must be float16"),
        (lambda: ops.perturb(X[0, 0, 0], 4, 0.1, KEY), ValueError, "inputs must have shape"),
        (lambda: ops.perturb(X, -1, 0.1, KEY), ValueError, "n_samples must not be negative"),
        (lambda: ops.perturb(X, 4, "big", KEY), TypeError, "sigma must be a number"),
        (lambda: ops.perturb(X, 4, W[0], KEY), ValueError, r"sigma must .* \[2\], got \[5\]"),
        (lambda: ops.perturb(X, 4, 0.1, 7), TypeError, "key must be a tensor, as random_key"),
        (lambda: ops.perturb(X, 4, 0.1, W), ValueError, r"key must be int64 \[2\]"),
        (lambda: ops.perturb(X, 4, 0.1, KEY.to("meta")), ValueError, "key must be on cpu"),
        (
            lambda: ops.perturb(X, 4, 0.1, KEY, distribution="uniform"),
            ValueError,
            "distribution must be one of gaussian, .*'uniform'",
        ),
        (lambda: ops.perturb(X, 4, 0.1, KEY, keep=0.0), ValueError, r"keep must be in \(0, 1\]"),
        (lambda: ops.perturb(X, 4, 0.1, KEY, reflect=True), ValueError, "reflect must come with"),
        (lambda: ops.perturb(X, 4, 0.1, KEY, clip=(1.0, 0.0)), ValueError, "clip must be a range"),
        (lambda: ops.perturb(X, 4, 0.1, KEY, shared=True), ValueError, "must come with blocks"),
        (
            lambda: ops.perturb(X, 4, 0.1, KEY, blocks=torch.zeros(2, 2, 4).int()),
            ValueError,
            r"blocks must have shape .*\[2, 2, 4\]",
        ),
        (
            lambda: ops.perturb(X, 4, 0.1, KEY, blocks=X),
            TypeError,
            "blocks must be an int32 or int64 tensor, got torch.float32",
        ),
        (
            lambda: ops.perturb(X, 4, 0.1, KEY, examples=torch.arange(3)),
            ValueError,
            r"examples must have shape \[2\]",
        ),
        (lambda: ops.perturb(X, 4, 0.1, KEY, first_sample=-1), ValueError, "first_sample must not"),
        (
            lambda: ops.perturb(X, 4, 0.1, KEY, mask=torch.zeros(2, 3)),
            ValueError,
            "mask must be a scalar or have shape",
        ),
        (
            lambda: ops.perturb(X, 4, 0.1, KEY, out=X),
            ValueError,
            r"out must have shape \[8, 3, 4\]",
        ),
        (
            lambda: ops.perturb(X.clone().requires_grad_(), 4, 0.1, KEY, clip=(0.0, 1.0)),
            ValueError,
            "clip must be None where inputs require grad",
        ),
        (lambda: ops.noise_contract(W.long(), (3,), KEY), TypeError, "weights must be float16"),
        (lambda: ops.noise_contract(W[0], (3,), KEY), ValueError, r"weights must have shape \[B"),
        (lambda: ops.noise_contract(W, None, KEY), ValueError, "shape must be given without total"),
        (
            lambda: ops.noise_contract(W, (3,), KEY, total=torch.zeros(2, 3)),
            ValueError,
            "total must be float64",
        ),
        (
            lambda: ops.noise_contract(W.clone().requires_grad_(), (3,), KEY),
            ValueError,
            "weights must not require grad",
        ),
        (
            lambda: ops.noise_contract(W, (3,), KEY, total=torch.zeros(3, 2).double().T),
            ValueError,
            "total must be contiguous",
        ),
    ],
)
def test_a_bad_argument_is_named_with_what_it_must_be(call, error, words: str) -> None:
    with pytest.raises(error, match=f"^(perturb|noise_contract): .*{words}"):
        call()


def test_keys_are_made_of_seeds_and_generators() -> None:
    assert ops.random_key(5, 2).tolist() == [5, 2]
    assert ops.random_key(2**64 - 1).tolist() == [-1, 0]
    generator = torch.Generator().manual_seed(1)
    first, second = ops.random_key(generator), ops.random_key(generator)
    assert first[0] != second[0]
    assert torch.equal(first, ops.random_key(torch.Generator().manual_seed(1)))
    torch.manual_seed(3)
    drawn = ops.random_key()
    torch.manual_seed(3)
    assert torch.equal(drawn, ops.random_key())
    for bad, error in ((2**64, ValueError), ("seed", TypeError), (True, TypeError)):
        with pytest.raises(error, match=r"^random_key: seed must"):
            ops.random_key(bad)
    with pytest.raises(ValueError, match=r"^random_key: stream must be .* got 65536"):
        ops.random_key(0, 65536)


@needs_native_cpu
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda o, s: o.perturb(X, 4, s, KEY[:1]), "key must be int64"),
        (lambda o, s: o.perturb(X, 4, W[0], KEY), "sigma must be a number"),
        (lambda o, s: o.perturb(X, -1, s, KEY), "n_samples must not be negative"),
        (lambda o, s: o.perturb.out(X, 4, s, KEY, out=X), "out must have shape"),
        (lambda o, s: o.perturb.out(X, 1, s, KEY, out=X), "out must not share memory"),
        (lambda o, s: o.perturb(X, 4, s, KEY, "uniform"), "distribution must be"),
        (lambda o, s: o.perturb(X, 4, s, KEY, active=torch.zeros(4).int()), "must come with"),
        (
            lambda o, s: o.perturb(X, 4, s, KEY, blocks=X.int(), n_blocks=1, active=KEY),
            "active must have shape",
        ),
        (lambda o, s: o.perturb(X, 4, s, KEY, blocks=X[:, :2].int()), "blocks must have shape"),
        (lambda o, s: o.noise_contract(W[0], [3], KEY), "weights must have shape"),
        (
            lambda o, s: o.noise_contract.out(W, KEY, total=torch.zeros(1, 3).double()),
            "total must be float64",
        ),
        (
            lambda o, s: o.noise_contract(W, [3], KEY, examples=torch.arange(1)),
            "examples must have shape",
        ),
    ],
)
def test_a_raw_op_refuses_what_would_read_or_write_out_of_bounds(call, words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        call(torch.ops.pyxai_fast, torch.tensor(0.1))
