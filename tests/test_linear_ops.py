"""linear_step: every backend against the reference, torch's own optimiser and arithmetic."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from assertions import assert_as_accurate_as, assert_same_bits
from conftest import needs_native_cpu
from hypothesis import given
from hypothesis import strategies as st
from linear_cases import SMALL, LinearCase
from torch import Tensor

from pyxai_fast import ops, reference

FLOATS = (torch.float32, torch.float64)
RATES = {"lr": 0.1, "momentum": 0.9}


def ids(values: tuple) -> list[str]:
    return [getattr(v, "name", str(v).removeprefix("torch.")) for v in values]


def stepped(t: dict[str, Tensor], step: Any = ops.linear_step, **options: Any) -> list[Tensor]:
    """grad_inputs, weight and velocity after a step; `t` stays as it is."""
    weight, velocity = t["weight"].clone(), t["velocity"].clone()
    grad_inputs = step(t["inputs"], t["grads"], weight, velocity, **{**RATES, **options})
    return [grad_inputs, weight, velocity]


def assert_all_same_bits(actual: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert_same_bits(one, other)


@pytest.mark.parametrize("dtype", FLOATS, ids=ids(FLOATS))
@pytest.mark.parametrize("case", SMALL, ids=ids(SMALL))
def test_steps_have_the_bits_of_the_reference(
    case: LinearCase, dtype: torch.dtype, backend: torch.device
) -> None:
    t = case.tensors(dtype, backend)
    expected = stepped(t, reference.linear_step)
    assert_all_same_bits(stepped(t), expected)
    out = torch.full_like(t["inputs"], torch.nan)
    found = stepped(t, out=out)
    assert found[0] is out
    assert_all_same_bits(found, expected)
    grad_inputs, *found = stepped(t, need_grad_inputs=False)
    assert grad_inputs.shape == t["inputs"][..., :0, :].shape
    assert_all_same_bits(found, expected[1:])


def test_a_step_of_one_weight_is_arithmetic(backend: torch.device) -> None:
    def number(value: float) -> Tensor:
        return torch.full((1, 1), value, dtype=torch.float64, device=backend)

    weight, velocity = number(1.0), number(0.5)
    grad_inputs = ops.linear_step(
        number(2.0), number(3.0), weight, velocity, lr=0.125, momentum=0.5
    )
    assert grad_inputs.item() == 3.0  # times the weight as it was
    assert velocity.item() == 6.25  # 0.5 * 0.5 + 2 * 3
    assert weight.item() == 1.0 - 0.125 * (6.0 + 0.5 * 6.25)


def test_without_momentum_it_is_gradient_descent(backend: torch.device) -> None:
    t = LinearCase("plain", 2, 6, 40, 5).tensors(torch.float64, backend)
    gradient = t["grads"].mT @ t["inputs"]
    grad_inputs, weight, velocity = stepped(t, lr=0.3, momentum=0.0)
    torch.testing.assert_close(grad_inputs, t["grads"] @ t["weight"])
    torch.testing.assert_close(velocity, gradient)
    torch.testing.assert_close(weight, t["weight"] - 0.3 * gradient)


@pytest.mark.parametrize("dtype", FLOATS, ids=ids(FLOATS))
@pytest.mark.parametrize("rows", [32, 40])
def test_training_is_that_of_torch_sgd(
    rows: int, dtype: torch.dtype, backend: torch.device
) -> None:
    # A net of one hidden layer, by autograd and torch's optimiser, and by the op.
    generator = torch.Generator().manual_seed(1)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(backend, dtype)

    shapes = {"hidden": (12, 70), "last": (1, 12)}
    ours = {name: draw(*shape) / shape[1] ** 0.5 for name, shape in shapes.items()}
    theirs = {name: torch.nn.Parameter(weight.clone()) for name, weight in ours.items()}
    velocity = {name: torch.zeros_like(weight) for name, weight in ours.items()}
    optimizer = torch.optim.SGD(theirs.values(), lr=0.05, momentum=0.9, nesterov=True)
    for _ in range(8):
        inputs, wanted = draw(rows, 70), draw(rows, 1)
        loss = ((inputs @ theirs["hidden"].T).tanh() @ theirs["last"].T - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        hidden = (inputs @ ours["hidden"].T).tanh()
        by_outputs = 2 * (hidden @ ours["last"].T - wanted) / rows
        rates = {"lr": 0.05, "momentum": 0.9}
        by_hidden = ops.linear_step(hidden, by_outputs, ours["last"], velocity["last"], **rates)
        ops.linear_step(
            inputs, by_hidden * (1 - hidden.square()), ours["hidden"], velocity["hidden"],
            need_grad_inputs=False, **rates,
        )  # fmt: skip
    allowed = 1e-6 if dtype == torch.float32 else 1e-14
    for name, parameter in theirs.items():
        buffer = optimizer.state[parameter]["momentum_buffer"]
        for found, truth in ((ours[name], parameter.detach()), (velocity[name], buffer)):
            assert (found - truth).abs().max() <= allowed * truth.abs().max()


def test_grad_inputs_are_those_of_autograd(backend: torch.device) -> None:
    t = LinearCase("autograd", 3, 4, 50, 9).tensors(torch.float64, backend)
    inputs = t["inputs"].clone().requires_grad_()
    (truth,) = torch.autograd.grad(inputs @ t["weight"].mT, inputs, t["grads"])
    torch.testing.assert_close(stepped(t)[0], truth)


def test_floats_are_as_accurate_as_plain_pytorch(device: torch.device) -> None:
    t = LinearCase("accuracy", None, 32, 300, 512).tensors(device=device)
    grad_inputs, weight, velocity = stepped(t)

    def plain(t: dict[str, Tensor]) -> list[Tensor]:
        gradient = t["grads"].T @ t["inputs"]
        velocity = 0.9 * t["velocity"] + gradient
        return [
            t["grads"] @ t["weight"], t["weight"] - 0.1 * (gradient + 0.9 * velocity), velocity
        ]  # fmt: skip

    truth = plain({name: tensor.double() for name, tensor in t.items()})
    for found, other, true in zip((grad_inputs, weight, velocity), plain(t), truth, strict=True):
        assert_as_accurate_as(found, other, true)


def test_a_layer_does_not_depend_on_the_layers_beside_it(backend: torch.device) -> None:
    t = LinearCase("beside", 3, 7, 90, 11).tensors(device=backend)
    together = stepped(t)
    for n in range(3):
        alone = stepped({name: tensor[n] for name, tensor in t.items()})
        assert_all_same_bits([part[n] for part in together], alone)


@needs_native_cpu
@pytest.mark.parametrize("rows", [32, 300])
def test_threads_give_the_same_bits(rows: int) -> None:
    t = LinearCase("threads", 2, rows, 700, 40).tensors()
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(stepped(t))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert_all_same_bits(result, results[0])


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Any]:
    layers = draw(st.sampled_from([[], [1], [3]]))
    rows, features, outputs = draw(st.tuples(*[st.integers(0, 20)] * 3))
    dtype = draw(st.sampled_from(FLOATS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e-40, 1e20, -0.0])

    def values(*size: int) -> Tensor:
        drawn = torch.randn(*size, generator=generator)
        chosen = odd[torch.randint(len(odd), size, generator=generator)]
        return torch.where(torch.rand(size, generator=generator) < 0.02, chosen, drawn).to(dtype)

    def read(rows: int, columns: int) -> Tensor:
        kind = draw(st.sampled_from(["plain", "strided", "transposed", "expanded"]))
        if kind == "strided":
            return values(*layers, rows, columns, 2)[..., 0]
        if kind == "transposed":
            return values(*layers, columns, rows).mT
        if kind == "expanded":
            return values(*layers, 1, columns).expand(*layers, rows, columns)
        return values(*layers, rows, columns)

    return {
        "inputs": read(rows, features),
        "grads": read(rows, outputs),
        "weight": values(*layers, outputs, features),
        "velocity": values(*layers, outputs, features),
    }


@needs_native_cpu
@given(layouts())
def test_native_and_reference_agree_on_any_layout_and_value(t: dict[str, Tensor]) -> None:
    native = stepped(t)
    with ops.native_kernels(False):
        assert_all_same_bits(native, stepped(t))


# --- torch.library, torch.func and torch.compile -------------------------------------------------


@pytest.mark.parametrize("native", [True, False], ids=["native", "reference"])
def test_ops_pass_opcheck(native: bool, device: torch.device) -> None:
    packet = torch.ops.pyxai_fast.linear_step
    with ops.native_kernels(native):
        for case in (SMALL[1], SMALL[2], SMALL[7]):
            args = (*case.tensors(device=device).values(), 0.1, 0.9)
            for need_grad_inputs in (True, False):
                torch.library.opcheck(packet.default, (*copy.deepcopy(args), need_grad_inputs))
            out = {"out": torch.empty_like(args[0])}
            torch.library.opcheck(packet.out, copy.deepcopy(args), out)


def test_op_compiles_into_one_graph(device: torch.device) -> None:
    t = LinearCase("compile", 2, 5, 40, 6).tensors(device=device)

    def train(weight: Tensor, velocity: Tensor) -> tuple[Tensor, ...]:
        for _ in range(2):
            found = ops.linear_step(t["inputs"].sin(), t["grads"], weight, velocity, **RATES)
        return found, weight, velocity

    compiled = torch.compile(train, fullgraph=True, backend="aot_eager")
    actual = compiled(t["weight"].clone(), t["velocity"].clone())
    expected = train(t["weight"].clone(), t["velocity"].clone())
    assert_all_same_bits(list(actual), list(expected))


@pytest.mark.parametrize("layers", [None, 2])
def test_examples_of_vmap_are_layers(layers: int | None, device: torch.device) -> None:
    case = LinearCase("vmap", layers, 5, 40, 6)
    t = {name: torch.stack([x, 2 * x, x + 1]) for name, x in case.tensors(device=device).items()}

    def step(inputs: Tensor, grads: Tensor, weight: Tensor, velocity: Tensor) -> Tensor:
        return ops.linear_step(inputs, grads, weight, velocity, **RATES)

    expected = [stepped({name: x[n] for name, x in t.items()}) for n in range(3)]
    weight, velocity = t["weight"].clone(), t["velocity"].clone()
    mapped = torch.func.vmap(step)(t["inputs"], t["grads"], weight, velocity)
    for n, one in enumerate(expected):
        assert_all_same_bits([mapped[n], weight[n], velocity[n]], one)
    # Inputs for all, and a mapped dimension that is not the first.
    weight, velocity = t["weight"].clone(), t["velocity"].clone()
    own = [stepped({**{k: x[n] for k, x in t.items()}, "inputs": t["inputs"][0]}) for n in range(3)]
    mapped = torch.func.vmap(step, (None, 1, 0, 0))(
        t["inputs"][0], t["grads"].movedim(0, 1), weight, velocity
    )
    for n, one in enumerate(own):
        assert_all_same_bits([mapped[n], weight[n], velocity[n]], one)


# --- errors --------------------------------------------------------------------------------------

GOOD = LinearCase("errors", None, 3, 6, 2).tensors()
X, G, W, V = GOOD.values()


def call(**changed: Any) -> Any:
    args = {**GOOD, "weight": W.clone(), "velocity": V.clone(), **RATES, **changed}
    return ops.linear_step(**args)


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"inputs": X.numpy()}, TypeError, "inputs must be a tensor, got ndarray"),
        ({"weight": W.half()}, TypeError, "weight must be float32 or float64, got torch.float16"),
        ({"weight": W.bfloat16()}, TypeError, "weight must be float32 or float64"),
        ({"weight": W.long()}, TypeError, "weight must be float"),
        ({"weight": W[0]}, ValueError, r"weight must have shape \[O, D\] or \[N, O, D\], got \[6"),
        ({"inputs": X[None]}, ValueError, r"inputs must have 2 dimensions .*got \[1, 3, 6\]"),
        ({"inputs": X[:, :5]}, ValueError, r"inputs must be .*\[3, 6\] .*got .*\[3, 5\]"),
        ({"inputs": X.double()}, ValueError, "inputs must be torch.float32 .*got torch.float64"),
        ({"grads": G[:2]}, ValueError, r"grads must be .*\[3, 2\] .*got .*\[2, 2\]"),
        ({"grads": G.half()}, ValueError, "grads must be torch.float32"),
        ({"velocity": V[:1]}, ValueError, r"velocity must be .*\[2, 6\] .*got .*\[1, 6\]"),
        ({"velocity": V.to("meta")}, ValueError, "velocity must be on cpu, got meta"),
        (
            {"velocity": V.T.contiguous().T},
            ValueError,
            r"velocity must be contiguous, got strides \(1",
        ),
        ({"weight": W[:, ::2]}, ValueError, "inputs must be"),
        ({"weight": W.T.contiguous().T}, ValueError, "weight must be contiguous"),
        ({"weight": W[:1].expand(2, 6)}, ValueError, "weight must be contiguous"),
        ({"out": X[:2].clone()}, ValueError, r"out must be .*\[3, 6\]"),
        ({"out": X.T.contiguous().T}, ValueError, "out must be contiguous"),
        ({"out": X.clone(), "need_grad_inputs": False}, ValueError, "out must be None"),
        ({"lr": "1"}, TypeError, "lr must be a number, got str"),
        ({"lr": True}, TypeError, "lr must be a number, got bool"),
        ({"lr": -1.0}, ValueError, "lr must be at least 0, got -1"),
        ({"momentum": float("nan")}, ValueError, "momentum must be at least 0, got nan"),
        *(
            ({name: GOOD[name].clone().requires_grad_()}, ValueError, f"{name} must not require")
            for name in GOOD
        ),
    ],
)
def test_a_bad_argument_is_named_with_what_it_must_be(
    changed: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=f"^linear_step: {words}"):
        call(**changed)


def test_parameters_are_stepped_where_no_gradient_is_recorded() -> None:
    weight = torch.nn.Parameter(W.clone())
    with torch.no_grad():
        grad_inputs = call(weight=weight)
    assert not grad_inputs.requires_grad
    assert_same_bits(weight.detach(), stepped(GOOD)[1])


SHARED = torch.zeros(64)
FIRST, SECOND = SHARED[:12].view(2, 6), SHARED[6:18].view(2, 6)


@needs_native_cpu
@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((X, G, W[0], V), "weight must have shape"),
        ((X, G, W.half(), V.half()), "weight must be float32 or float64"),
        ((X[0], G, W, V), "inputs must have as many dimensions"),
        ((X[:, :5], G, W, V), r"inputs must have .* \[3, 6\]"),
        ((X, G[:2], W, V), r"grads must have .*\[3, 2\]"),
        ((X, G.double(), W, V), "grads must have the type"),
        ((X, G, W, V[:1]), "velocity must have"),
        ((X[None], G[None], W[None], V), "velocity must have the type and layers"),
        ((X, G, W, V.T.contiguous().T), "velocity must be contiguous"),
        ((X, G, W.T.contiguous().T, V), "weight must be contiguous"),
        ((X, G, FIRST, SECOND), "weight must not share memory"),
        ((SHARED[11:29].view(3, 6), G, FIRST, V), "weight must not share memory"),
        ((SHARED[11:29].view(3, 6), G, W, SECOND), "velocity must not share memory"),
    ],
)
def test_a_raw_op_refuses_what_would_read_or_write_out_of_bounds(args: tuple, words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        torch.ops.pyxai_fast.linear_step(*args, 0.1, 0.9)


@needs_native_cpu
@pytest.mark.parametrize(
    ("out", "words"),
    [
        (X[:2].clone(), r"out must have .*\[3, 6\]"),
        (X.T.contiguous().T, "out must be contiguous"),
        (SHARED[:18].view(3, 6), "out must not share memory"),
    ],
)
def test_a_raw_op_refuses_where_it_cannot_write(out: Tensor, words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        torch.ops.pyxai_fast.linear_step.out(X, G, FIRST, V.clone(), 0.1, 0.9, out=out)
