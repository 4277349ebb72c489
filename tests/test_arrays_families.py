"""Every function of pyxai_fast.arrays gives the bits of the tensors' op of its name."""

from __future__ import annotations

import inspect

import numpy as np
import numpy_route
import pytest
import torch
from torch import Tensor

from pyxai_fast import ops

pytestmark = pytest.mark.skipif(not numpy_route.BUILT, reason="the NumPy module was not built")
if numpy_route.BUILT:
    from pyxai_fast import arrays

NO_KERNEL = {"enkf_update", "guided_step"}  # more than one kernel: for tensors only
FOR_TENSORS = {"backend_of", "backends", "native_kernels", *NO_KERNEL}

GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(2, 3, 6, 5, generator=GENERATOR)
OTHER = torch.rand(2, 3, 6, 5, generator=GENERATOR)
SIGMAS = torch.tensor([0.1, 0.2])
SCALE, SHIFT = torch.linspace(0.5, 2, 3), torch.linspace(-1, 1, 3)
AFFINE = {"scale": SCALE, "shift": SHIFT}
KEY = ops.random_key(5, 2)
SEGMENTS = torch.randint(0, 40, (1, 1, 6, 5), generator=GENERATOR)
KEPT = torch.rand(4, 40, generator=GENERATOR) < 0.5
PARTICLES = torch.rand(2, 7, 3, 4, generator=GENERATOR)
PATH = {"concentration": 3.0, "n_steps": 6, "n_paths": 2}
CALLS = [
    ("path_points", (X, OTHER, torch.linspace(0, 1, 4)), AFFINE),
    ("path_accumulate", (torch.cat([X, OTHER]), torch.rand(2), X, OTHER), {"scale": SCALE}),
    ("perturb", (X, 5, 0.3, KEY), {"clip": (0.0, 1.0), "antithetic": True, **AFFINE}),
    (
        "perturb",
        (X, 5, torch.tensor([0.1, 0.2]), KEY),
        {"mask": OTHER, "distribution": "orthogonal"},
    ),
    ("perturb", (X, 3, 0.3, KEY), {"blocks": SEGMENTS.int(), "shared": True, "keep": 0.5}),
    ("noise_contract", (torch.rand(2, 5, 3), (6, 5), KEY), {"squared": True}),
    ("noise_contract", (torch.rand(2, 5), (7,), KEY), {"distribution": "rademacher"}),
    ("dirichlet_points", (X, 0.25, KEY), {**PATH, "per": "pixel", **AFFINE}),
    ("dirichlet_accumulate", (torch.rand(24, 3, 4), KEY), PATH),
    (
        "dirichlet_accumulate",
        (torch.rand(8, 3, 4), KEY),
        {**PATH, "count": 2, "first_step": 3, "inputs": X[..., 0, :4], "baselines": 0.5},
    ),
    ("mask_segments", (X, SEGMENTS, ops.pack_coalitions(KEPT), OTHER), AFFINE),
    ("mask_segments", (X, SEGMENTS, ops.pack_coalitions(KEPT), 0.5), {}),
    ("mask_blend", (X, OTHER[:, :1]), {}),
    ("pack_coalitions", (KEPT,), {}),
    ("unpack_coalitions", (ops.pack_coalitions(KEPT), 40), {}),
    ("ranks_of", (OTHER,), {}),
    ("ranks_of", ((OTHER * 3).round(),), {"descending": False}),
    ("ranks_of", ((OTHER * 3).round(),), {}),
    ("rank_mask", (X, 0.5, ops.ranks_of(OTHER[:, :1]), torch.tensor([0, 7, 30])), AFFINE),
    ("ensemble_contract", (PARTICLES, torch.rand(2, 7)), {}),
    ("ensemble_contract", (PARTICLES, torch.rand(2, 7, 3), 0.5), {}),
    ("ensemble_moments", (PARTICLES,), {}),
    ("ensemble_transform", (PARTICLES, torch.rand(2, 7, 7)), {"taper": PARTICLES[:, 0]}),
]


def as_array(value: object) -> object:
    return value.numpy() if isinstance(value, Tensor) else value


def same_bits(found: object, expected: object) -> None:
    if isinstance(expected, tuple):
        for one, other in zip(found, expected, strict=True):
            same_bits(one, other)
        return
    np.testing.assert_array_equal(found, expected.numpy(), strict=True)


def test_every_kernel_is_there_with_the_arguments_of_the_op() -> None:
    assert set(ops.__all__) - FOR_TENSORS == set(arrays.__all__)
    called = {name for name, _, _ in CALLS} | {"ascend_max", "linear_step", "random_key"}
    isa = {"available_cpu_isas", "build_info", "cpu_isa", "set_cpu_isa"}
    assert called == set(arrays.__all__) - isa
    for name in called - {"random_key", "ascend_max"}:
        tensors = list(inspect.signature(getattr(ops, name)).parameters)
        given = list(inspect.signature(getattr(arrays, name)).parameters)
        assert [p for p in given if p != "n_threads"] == [
            p for p in tensors if p != "memory_format"
        ], name


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("name", "args", "options"), CALLS, ids=[call[0] for call in CALLS])
def test_arrays_have_the_bits_of_tensors(
    name: str, args: tuple, options: dict, threads: int
) -> None:
    expected = getattr(ops, name)(*args, **options)
    function = getattr(arrays, name)
    if "n_threads" in inspect.signature(function).parameters:
        options = {**options, "n_threads": threads}
    found = function(*map(as_array, args), **{k: as_array(v) for k, v in options.items()})
    same_bits(found, expected)
    for written in ("out", "total"):
        if written not in inspect.signature(function).parameters or "inputs" in options:
            continue
        if name == "path_accumulate":
            continue
        target = np.zeros(expected.shape, np.float64 if written == "total" else np.float32)
        shape = [None] if name == "noise_contract" else []
        given = [as_array(a) for a in args]
        if shape:
            given[1] = None
        returned = function(
            *given, **{k: as_array(v) for k, v in options.items()}, **{written: target}
        )
        assert returned is target
        np.testing.assert_array_equal(target.astype(np.float32), expected.numpy())


def test_ascents_have_the_bits_of_tensors() -> None:
    points, best = X.clone(), torch.full((1, 3, 6, 5), -torch.inf)
    found, kept = points.numpy().copy(), best.numpy().copy()
    ops.ascend_max(points, OTHER, 0.1, best, scale=SCALE)
    arrays.ascend_max(found, OTHER.numpy(), 0.1, kept, scale=SCALE.numpy(), n_threads=2)
    same_bits(found, points)
    same_bits(kept, best)
    assert not np.array_equal(found, X.numpy())


@pytest.mark.parametrize("into", [False, True], ids=["new", "out"])
def test_steps_of_training_have_the_bits_of_tensors(into: bool) -> None:
    inputs, grads, weight, velocity = (
        torch.rand(2, *size, generator=GENERATOR) for size in ((5, 70), (5, 4), (4, 70), (4, 70))
    )
    arrays_of = [tensor.numpy().copy() for tensor in (inputs, grads, weight, velocity)]
    rates = {"lr": 0.1, "momentum": 0.9}
    out = np.zeros((2, 5, 70), np.float32) if into else None
    found = arrays.linear_step(*arrays_of, **rates, out=out, n_threads=2)
    same_bits(found, ops.linear_step(inputs, grads, weight, velocity, **rates))
    assert out is None or found is out
    same_bits(arrays_of[2], weight)
    same_bits(arrays_of[3], velocity)
    assert arrays.linear_step(*arrays_of, **rates, need_grad_inputs=False).shape == (2, 0, 70)


def test_keys_are_those_of_tensors() -> None:
    for seed in (0, 5, 2**64 - 1, -1):
        same_bits(arrays.random_key(seed, 7), ops.random_key(seed, 7))
    assert not np.array_equal(arrays.random_key(), arrays.random_key())
    with pytest.raises(ValueError, match="seed must have at most 64 bits"):
        arrays.random_key(2**64)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda a: a.perturb(X.numpy(), 2, 0.1, np.zeros(2)), TypeError, "key must be int32 or"),
        (lambda a: a.perturb(X.numpy(), 2, 0.1, KEY.numpy()[:1]), ValueError, "key must be int64"),
        (
            lambda a: a.perturb(X.numpy(), 2, 0.1, KEY.numpy(), distribution="uniform"),
            ValueError,
            "distribution must be",
        ),
        (lambda a: a.noise_contract(X.numpy()[0, 0], None, KEY.numpy()), ValueError, "shape must"),
        (lambda a: a.pack_coalitions(X.numpy()), TypeError, "kept must be a bool array"),
        (
            lambda a: a.mask_segments(X.numpy(), X.numpy(), KEY.numpy(), 0.0),
            TypeError,
            "segments must be int32 or int64",
        ),
        (
            lambda a: a.dirichlet_points(X.numpy(), 0.0, KEY.numpy(), **PATH, per="row"),
            ValueError,
            "per must be 'feature' or 'pixel'",
        ),
        (
            lambda a: a.ensemble_contract(PARTICLES.numpy(), X.numpy()[0, 0]),
            ValueError,
            "weights must have shape",
        ),
        (
            lambda a: a.linear_step(*[np.ones((2, 2), np.float16)] * 4, lr=0.1, momentum=0.9),
            ValueError,
            "weight must be float32 or float64",
        ),
        (
            lambda a: a.linear_step(*[np.ones((2, 2))] * 4, lr=0.1, momentum=0.9),
            ValueError,
            "weight must not share memory",
        ),
        (
            lambda a: a.linear_step(*[np.ones((2, 2))] * 4, lr=-0.1, momentum=0.9),
            ValueError,
            "lr must be at least 0",
        ),
    ],
)
def test_a_bad_argument_is_named_with_what_it_must_be(call, error, words: str) -> None:
    with pytest.raises(error, match=words):
        call(arrays)
