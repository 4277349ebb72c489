"""The kernels for NumPy: without torch, and with the bits of torch's route."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from assertions import assert_same_bits
from hypothesis import given
from hypothesis import strategies as st
from path_cases import SMALL, PathCase
from torch import Tensor

from pyxai_fast import native, ops

if native.switched_off() or native.array_module() is None:
    pytest.skip("the NumPy module was not built, or is switched off", allow_module_level=True)

from pyxai_fast import arrays

TYPES = (np.float16, np.float32, np.float64)


def tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array)


def case_arrays(case: PathCase, dtype: type) -> dict[str, np.ndarray]:
    return {
        name: value.numpy().astype(dtype if name in ("inputs", "baselines", "grads") else "f8")
        for name, value in case.tensors(torch.float64).items()
    }


# --- without torch -------------------------------------------------------------------------------

PROBE = """
import json, sys
import numpy as np
from pyxai_fast import arrays
x, a = np.linspace(-1, 1, 60).reshape(2, 3, 10), np.linspace(0, 1, 4)
points = arrays.path_points(x, 0.25, a, n_threads=2)
maps = arrays.path_accumulate(np.sin(points), a, x, 0.25)
import pyxai_fast
known = "explain" in dir(pyxai_fast)
print(json.dumps({"torch": "torch" in sys.modules, "known": known, "isa": arrays.cpu_isa(),
                  "build": arrays.build_info(), "maps": maps.flatten().tolist()}))
"""


def probe(code: str = PROBE, fails: bool = False, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True,
        text=True,
    )  # fmt: skip
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr if fails else done.stdout


def test_torch_is_not_imported() -> None:
    said = json.loads(probe())
    assert said["torch"] is False
    assert said["known"]
    assert said["isa"] in arrays.available_cpu_isas()
    assert said["build"]["version"] == ops.build_info()["version"]
    x, a = np.linspace(-1, 1, 60).reshape(2, 3, 10), np.linspace(0, 1, 4)
    points = ops.path_points(tensor(x), 0.25, tensor(a)).numpy()
    maps = ops.path_accumulate(tensor(np.sin(points)), tensor(a), tensor(x), 0.25)
    assert said["maps"] == maps.flatten().tolist()


@pytest.mark.parametrize("isa", arrays.available_cpu_isas())
def test_the_environment_chooses_the_instruction_set(isa: str) -> None:
    assert json.loads(probe(PYXAI_FAST_CPU_ISA=isa))["isa"] == isa


def test_switched_off_is_an_error_that_says_so() -> None:
    said = probe("import pyxai_fast.arrays", fails=True, PYXAI_FAST_NATIVE="off")
    assert "ImportError: pyxai_fast.arrays: switched off by PYXAI_FAST_NATIVE=off" in said


def test_not_built_is_an_error_that_says_so(tmp_path: os.PathLike) -> None:
    said = probe("import pyxai_fast.arrays", fails=True, PYXAI_FAST_NATIVE_DIRECTORY=str(tmp_path))
    assert "Install pybind11, then: pip install" in said


# --- the bits of torch's route -------------------------------------------------------------------


@pytest.fixture(params=arrays.available_cpu_isas())
def isa(request: pytest.FixtureRequest):
    before = arrays.cpu_isa()
    arrays.set_cpu_isa(request.param)
    assert arrays.cpu_isa() == request.param
    yield request.param
    arrays.set_cpu_isa(before)


@pytest.mark.parametrize("n_threads", (1, 3))
@pytest.mark.parametrize("point_dtype", TYPES)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_points_have_the_bits_of_torch(
    case: PathCase, dtype: type, point_dtype: type, n_threads: int, isa: str
) -> None:
    a = case_arrays(case, dtype)
    args = (a["inputs"], a["baselines"], a["alphas"])
    affines = [{}]
    if a["inputs"].ndim > 1:
        scale = np.linspace(0.5, 3, a["inputs"].shape[1], dtype="f4")
        affines.append({"scale": scale, "shift": -scale})
    for affine in affines:
        points = arrays.path_points(*args, **affine, dtype=point_dtype, n_threads=n_threads)
        expected = ops.path_points(
            *map(tensor, args),
            **{name: tensor(value) for name, value in affine.items()},
            dtype=tensor(points).dtype,
        )
        assert points.dtype == point_dtype
        assert points.flags.c_contiguous
        assert_same_bits(tensor(points), expected)
        out = np.full_like(points, np.nan)
        assert arrays.path_points(*args, **affine, out=out, n_threads=n_threads) is out
        assert_same_bits(tensor(out), expected)


@pytest.mark.parametrize("n_threads", (1, 3))
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_attributions_have_the_bits_of_torch(
    case: PathCase, dtype: type, n_threads: int, isa: str
) -> None:
    a = case_arrays(case, dtype)
    sums = (a["grads"], a["weights"])
    ends = (*sums, a["inputs"], a["baselines"])
    for args in (sums, ends):
        found = arrays.path_accumulate(*args, n_threads=n_threads)
        with torch.no_grad():
            assert_same_bits(tensor(found), ops.path_accumulate(*map(tensor, args)))
    if a["inputs"].ndim > 1:
        scale = np.linspace(0.5, 3, a["inputs"].shape[1])
        found = arrays.path_accumulate(*ends, scale=scale, n_threads=n_threads)
        with torch.no_grad():
            expected = ops.path_accumulate(*map(tensor, ends), scale=tensor(scale))
        assert_same_bits(tensor(found), expected)
    total = np.ones(a["inputs"].shape)
    assert arrays.path_accumulate(*sums, total=total, n_threads=n_threads) is total
    expected = torch.ones(total.shape, dtype=torch.float64)
    assert_same_bits(tensor(total), ops.path_accumulate(*map(tensor, sums), total=expected))


@pytest.mark.parametrize("n_threads", (2, 5, 64, 100_000))
def test_threads_change_no_bit_and_leave_no_unit_out(n_threads: int) -> None:
    # Enough work for many threads: 2 * 38 tiles of 50 steps.
    inputs, alphas = np.random.default_rng(0).normal(size=(2, 38_500)), np.linspace(0, 1, 50)
    alone = arrays.path_points(inputs, 0.0, alphas)
    out = np.full_like(alone, np.nan)
    arrays.path_points(inputs, 0.0, alphas, out=out, n_threads=n_threads)
    assert np.array_equal(alone, out)


def test_python_threads_run_side_by_side() -> None:
    inputs, alphas = np.random.default_rng(0).normal(size=(4, 999)), np.linspace(0, 1, 9)
    expected = arrays.path_points(inputs, 0.5, alphas)
    found: list[np.ndarray] = []

    def work() -> None:
        found.extend(arrays.path_points(inputs, 0.5, alphas, n_threads=2) for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 200
    assert all(np.array_equal(expected, points) for points in found)


def test_the_two_routes_have_an_instruction_set_each(isa: str) -> None:
    before = ops.cpu_isa()
    arrays.set_cpu_isa(isa)
    assert ops.cpu_isa() == before


def test_every_op_of_torch_is_there() -> None:
    from pyxai_fast.arrays.native_module import native as module
    from pyxai_fast.ops.registry import schemas

    there = {name for name in dir(module.ops) if not name.startswith("_")}
    assert there == {name.replace(".", "_") for name in schemas()}


# --- layouts -------------------------------------------------------------------------------------


@st.composite
def strided(draw: st.DrawFn) -> dict[str, np.ndarray]:
    """Arrays of any small shape, stride, byte order and alignment."""
    shape = tuple(draw(st.lists(st.integers(0, 5), min_size=1, max_size=5)))
    dtype = np.dtype(draw(st.sampled_from(TYPES)))
    steps = draw(st.integers(1, 4))
    random = np.random.default_rng(draw(st.integers(0, 2**16)))

    def values(size: tuple[int, ...]) -> np.ndarray:
        array = random.normal(size=size).astype(dtype)
        kind = draw(st.sampled_from(["C", "F", "gaps", "reversed", "swapped", "unaligned", "read"]))
        if kind == "F":
            array = np.asfortranarray(array)
        elif kind == "gaps":
            array = np.repeat(array, 2, axis=-1)[..., ::2]
        elif kind == "reversed":
            array = array[::-1]
        elif kind == "swapped":
            array = array.astype(dtype.newbyteorder())
        elif kind == "unaligned":
            raw = np.zeros(array.nbytes + 1, np.uint8)
            other = raw[1:].view(dtype).reshape(size)
            other[...] = array
            array = other
        elif kind == "read":
            array.flags.writeable = False
        return array

    rows = draw(st.sampled_from(["scalar", "one", "all"]))
    baselines = {"scalar": (), "one": (1, *shape[1:]), "all": shape}[rows]
    coefficients = draw(st.sampled_from([(steps,), (steps, shape[0])]))
    return {
        "inputs": values(shape),
        "baselines": values(baselines) if baselines else np.asarray(0.25, dtype),
        "alphas": values(coefficients),
        "grads": values((steps * shape[0], *shape[1:])),
    }


@given(given_arrays=strided())
def test_any_layout_gives_the_numbers_of_its_copy(given_arrays: dict[str, np.ndarray]) -> None:
    plain = {
        name: np.array(value, value.dtype.newbyteorder("="), order="C")
        for name, value in given_arrays.items()
    }

    def both(a: dict[str, np.ndarray]) -> list[np.ndarray]:
        ends = (a["inputs"], a["baselines"])
        return [
            arrays.path_points(*ends, a["alphas"]),
            arrays.path_accumulate(a["grads"], a["alphas"], *ends),
        ]

    points, maps = both(given_arrays)
    expected = ops.path_points(*(tensor(plain[k]) for k in ("inputs", "baselines", "alphas")))
    assert_same_bits(tensor(points), expected)
    for found, same in zip((points, maps), both(plain), strict=True):
        assert found.dtype == same.dtype
        assert np.array_equal(found, same)


@pytest.mark.parametrize("features", [(3, 4, 5), (3, 2, 4, 5)], ids=["2d", "3d"])
def test_channels_last_is_written_and_read_as_it_lies(features: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    inputs = random.normal(size=(2, *features)).astype("f4")
    alphas, scale = np.linspace(0, 1, 3), np.array([1.0, 2.0, 3.0])
    expected = arrays.path_points(inputs, 0.5, alphas, scale=scale, shift=scale)

    def last(shape: tuple[int, ...], dtype: str = "f4") -> np.ndarray:
        return np.moveaxis(np.zeros((shape[0], *shape[2:], shape[1]), dtype), -1, 1)

    out = last(expected.shape)
    arrays.path_points(inputs, 0.5, alphas, scale=scale, shift=scale, out=out)
    assert np.array_equal(out, expected)
    maps = arrays.path_accumulate(out, alphas, inputs, 0.5, scale=scale)
    assert maps.strides == last(inputs.shape).strides
    assert np.array_equal(maps, arrays.path_accumulate(expected, alphas, inputs, 0.5, scale=scale))
    total = last(inputs.shape, "f8")
    arrays.path_accumulate(out, alphas, total=total)
    assert np.array_equal(total.astype("f4"), arrays.path_accumulate(expected, alphas))


def test_what_lies_well_is_not_copied() -> None:
    inputs = np.ones((4, 1000), "f4")
    inputs.flags.writeable = False
    big = np.zeros((16, 1000), "f4")
    front = big[:8]
    assert arrays.path_points(inputs, 0.0, np.array([0.5, 1.0]), out=front) is front
    assert (big[:4] == 0.5).all()
    assert (big[4:8] == 1).all()
    assert (big[8:] == 0).all()
    # Read in place: the kernel refuses to write over it.
    with pytest.raises(ValueError, match="out must not share memory with what is read"):
        arrays.path_points(big[:4], 0.0, np.array([1.0]), out=big[2:6])


def test_bfloat16_is_that_of_ml_dtypes() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed").bfloat16
    inputs = np.random.default_rng(0).normal(size=(3, 7)).astype(bfloat16)
    alphas = np.linspace(0, 1, 4)
    twin = torch.from_numpy(inputs.view("i2")).view(torch.bfloat16)
    for baselines in (0.3, np.full((1, 7), 0.3, "f2")):
        points = arrays.path_points(inputs, baselines, alphas)
        assert points.dtype == bfloat16
        rows = baselines if isinstance(baselines, float) else tensor(baselines)
        expected = ops.path_points(twin, rows, tensor(alphas))
        assert np.array_equal(points.view("i2"), expected.view(torch.int16).numpy())


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("value", [0, 0.1, 1 / 3, 1e-7, 65519.99999999999])
def test_a_number_is_rounded_as_torch_rounds_it(dtype: type, value: float) -> None:
    inputs, alphas = np.full((2, 3), 0.7, dtype), np.zeros(1)
    with np.errstate(over="ignore"):
        found = arrays.path_points(inputs, value, alphas)
    assert_same_bits(tensor(found), ops.path_points(tensor(inputs), value, tensor(alphas)))


# --- wrong arguments -----------------------------------------------------------------------------

X = np.ones((2, 3, 4), "f4")
A = np.linspace(0, 1, 5)
G = np.ones((10, 3, 4), "f4")
READ_ONLY = np.ones((10, 3, 4), "f4")
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        ((X.tolist(), 0.0, A), {}, TypeError, "inputs must be a NumPy array, got list"),
        ((X.astype(int), 0.0, A), {}, TypeError, "inputs must be float16, .* got int64"),
        ((X.astype(complex), 0.0, A), {}, TypeError, "inputs must be float16, .* got complex128"),
        ((X, "0", A), {}, TypeError, "baselines must be a number or an array, got str"),
        ((X, None, A), {}, TypeError, "baselines must be a number or an array, got NoneType"),
        ((X, X[:, :2], A), {}, ValueError, "baselines must be a scalar, one example or a batch"),
        ((X, 0.0, A.reshape(1, 5)), {}, ValueError, r"alphas must have shape \[S\] or \[S, B\]"),
        ((X[0, 0, 0], 0.0, A), {}, TypeError, "inputs must be a NumPy array, got float32"),
        ((np.ones(()), 0.0, A), {}, ValueError, r"inputs must have shape \[B, ...\]"),
        ((X, 0.0, A), {"scale": A[:3]}, ValueError, "scale and shift must be given together"),
        ((X, 0.0, A), {"scale": A, "shift": A}, ValueError, r"scale must have shape \[C\]"),
        ((X, 0.0, A), {"dtype": "i4"}, TypeError, "dtype must be float16, .* got int32"),
        ((X, 0.0, A), {"dtype": "f2" if sys.byteorder == "big" else ">f2"}, TypeError, "dtype"),
        ((X, 0.0, A), {"out": G[:9]}, ValueError, r"out must have shape \[S \* B, ...\]"),
        ((X, 0.0, A), {"out": G[::-1]}, ValueError, "out must be contiguous or channels_last"),
        ((X, 0.0, A), {"out": READ_ONLY}, ValueError, "out must be writeable"),
        ((X, 0.0, A), {"out": G.astype(">f4")}, ValueError, "out must be .*native byte order"),
        ((X, 0.0, A), {"n_threads": 0}, ValueError, "n_threads must be at least 1, got 0"),
        ((X, 0.0, A), {"n_threads": 1.5}, TypeError, "n_threads must be an integer, got float"),
    ],
)
def test_points_name_a_wrong_argument(
    args: tuple, options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^path_points: {message}"):
        arrays.path_points(*args, **options)


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        ((G, A[:3]), {}, ValueError, r"grads must have shape \[S \* B, ...\]"),
        ((G, A[:0]), {}, ValueError, r"grads must have shape \[S \* B, ...\]"),
        ((G, A, X), {}, ValueError, "inputs and baselines must be given together"),
        ((G, A), {"scale": A[:3]}, ValueError, "scale must come with inputs and baselines"),
        ((G, A, X[:1], 0.0), {}, ValueError, r"inputs must have shape \[B, ...\]"),
        ((G, A), {"total": X}, ValueError, r"total must be float64 \[B, ...\]"),
        ((G, A), {"total": np.ones((3, 3, 4))}, ValueError, r"total must be float64 \[B, ...\]"),
        ((G, A, X, 0.0), {"total": np.ones(X.shape)}, ValueError, "total must come without"),
    ],
)
def test_sums_name_a_wrong_argument(
    args: tuple, options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^path_accumulate: {message}"):
        arrays.path_accumulate(*args, **options)


def test_an_unknown_instruction_set_is_named() -> None:
    with pytest.raises(ValueError, match=r"name must be one of .* got 'sse9'"):
        arrays.set_cpu_isa("sse9")


def test_the_functions_are_named_and_called_as_those_of_torch() -> None:
    import inspect

    for name in ("path_points", "path_accumulate"):
        ours = inspect.signature(getattr(arrays, name)).parameters
        theirs = inspect.signature(getattr(ops, name)).parameters
        shared = [key for key in theirs if key != "memory_format"]
        assert [*ours] == [*shared, "n_threads"]
        for key in shared:
            assert ours[key].kind == theirs[key].kind
            assert ours[key].default == theirs[key].default
