"""Integrated Gradients: captum's contract, the axioms, and what users of captum ask for."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from assertions import assert_same_bits
from nets import Linear, Polynomial, Viewing, conv_net, mlp
from torch import Tensor, nn

from pyxai_fast import Cost, IntegratedGradients, Preprocessing, explain
from pyxai_fast.paths import QUADRATURES
from pyxai_fast.runtime import chunks as chunking

CAPTUM_METHODS = (
    "gausslegendre",
    "riemann_left",
    "riemann_middle",
    "riemann_right",
    "riemann_trapezoid",
)


def captum_ig():
    captum_attr = pytest.importorskip("captum.attr", reason="captum is not installed")
    return captum_attr.IntegratedGradients


# --- captum's contract ---------------------------------------------------------------------------


def test_the_signature_is_captums_with_keyword_only_additions() -> None:
    theirs = captum_ig()
    for name in ("__init__", "attribute", "compute_convergence_delta"):
        expected = [
            (p.name, p.default)
            for p in inspect.signature(getattr(theirs, name)).parameters.values()
        ]
        ours = [
            (p.name, p.default)
            for p in inspect.signature(getattr(IntegratedGradients, name)).parameters.values()
            if p.kind is not inspect.Parameter.KEYWORD_ONLY
        ]
        assert ours == expected
    assert hasattr(IntegratedGradients.attribute, "__wrapped__")


@pytest.mark.parametrize("internal_batch_size", [None, 1, 2, 7, 1000])
@pytest.mark.parametrize("method", CAPTUM_METHODS)
def test_attributions_and_delta_equal_captums(method: str, internal_batch_size: int | None) -> None:
    model = conv_net()
    inputs = torch.randn(3, 3, 12, 12)
    baselines = torch.randn(3, 3, 12, 12)
    target = torch.tensor([0, 4, 2])
    theirs, their_delta = captum_ig()(model).attribute(
        inputs, baselines, target, n_steps=11, method=method, return_convergence_delta=True
    )
    ours, our_delta = IntegratedGradients(model).attribute(
        inputs,
        baselines,
        target,
        n_steps=11,
        method=method,
        internal_batch_size=internal_batch_size,
        return_convergence_delta=True,
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(our_delta, their_delta, rtol=1e-3, atol=1e-5)


class TwoInputs(nn.Module):
    def forward(self, a: Tensor, b: Tensor, weights: Tensor, power: int = 2) -> Tensor:
        mixed = (a.flatten(1).sum(1) * weights[:, 0]).tanh() + (b**power).flatten(1).sum(1)
        return torch.stack([mixed, 2 * mixed.sin(), -mixed], 1)


@pytest.mark.parametrize("internal_batch_size", [None, 1, 3, 8])
def test_tuples_of_inputs_and_additional_arguments_equal_captums(
    internal_batch_size: int | None,
) -> None:
    model = TwoInputs()
    inputs = (torch.randn(4, 2, 3), torch.randn(4, 5))
    arguments = {
        "baselines": (0.5, torch.randn(1, 5)),
        "target": [0, 2, 1, 1],
        "additional_forward_args": (torch.randn(4, 2), 3),
        "n_steps": 9,
    }
    theirs = captum_ig()(model).attribute(inputs, **arguments)
    ours = IntegratedGradients(model).attribute(
        inputs, **arguments, internal_batch_size=internal_batch_size
    )
    assert isinstance(ours, tuple)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("outputs", "target"),
    [
        ((), None),
        ((1,), None),
        ((4,), 2),
        ((4,), -1),
        ((4,), torch.tensor(1)),
        ((4,), torch.tensor([3])),
        ((4,), torch.tensor([3, 0, 1])),
        ((4,), [3, 0, 1]),
        ((4, 2), (3, 1)),
        ((4, 2), [(3, 1), (0, 0), (1, 1)]),
        ((4, 2), (1, slice(0, 1))),
    ],
    ids=str,
)
def test_every_form_of_target_equals_captums(outputs: tuple[int, ...], target) -> None:
    torch.manual_seed(0)
    weights = torch.randn(6, *outputs)

    def model(x: Tensor) -> Tensor:
        return torch.tensordot(x.tanh(), weights, dims=1)

    inputs = torch.randn(3, 6)
    ours = IntegratedGradients(model).attribute(inputs, target=target, internal_batch_size=2)
    theirs = captum_ig()(model).attribute(inputs, target=target)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_integers_and_numpy_counts_are_taken_as_captum_takes_them() -> None:
    inputs = torch.randint(0, 255, (3, 6), dtype=torch.uint8)
    arguments = {"target": 1, "n_steps": np.int64(5), "internal_batch_size": np.int64(6)}
    ours = IntegratedGradients(mlp()).attribute(inputs, **arguments)
    theirs = captum_ig()(mlp()).attribute(inputs, **arguments)
    assert ours.dtype == theirs.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_mean_colour_is_a_baseline() -> None:
    inputs, colour = torch.rand(2, 3, 8, 8), torch.rand(1, 3, 1, 1)
    ig = IntegratedGradients(conv_net())
    ours, delta = ig.attribute(inputs, colour, target=1, return_convergence_delta=True)
    theirs = captum_ig()(conv_net()).attribute(inputs, colour, target=1)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert delta.abs().max() < 1e-4


@pytest.mark.parametrize("baselines", [None, 0, 0.5, "scalar", "one", "batch"])
def test_every_form_of_baseline_equals_captums(baselines) -> None:
    model = mlp()
    inputs = torch.randn(3, 6)
    tensors = {"one": torch.randn(1, 6), "batch": torch.randn(3, 6)}
    if baselines == "scalar":
        baselines, reference = torch.tensor(0.5), 0.5
    else:
        baselines = reference = tensors.get(baselines, baselines)
    ours = IntegratedGradients(model).attribute(inputs, baselines, target=1)
    theirs = captum_ig()(model).attribute(inputs, reference, target=1)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_go_in_and_float32_comes_out(dtype: torch.dtype) -> None:
    model = mlp().to(dtype)
    inputs = torch.randn(3, 6, dtype=dtype)
    ours = IntegratedGradients(model).attribute(inputs, target=1)
    assert ours.dtype == torch.float32
    exact = IntegratedGradients(mlp().double()).attribute(inputs.double(), target=1)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(ours.double(), exact, rtol=0.1, atol=0.02)


def test_captums_noise_tunnel_wraps_it() -> None:
    captum_attr = pytest.importorskip("captum.attr", reason="captum is not installed")
    model, inputs = mlp(), torch.randn(2, 6)
    ours = IntegratedGradients(model)
    tunnel = captum_attr.NoiseTunnel(ours)
    smooth, delta = tunnel.attribute(
        inputs, nt_samples=3, stdevs=1e-6, target=1, return_convergence_delta=True
    )
    torch.testing.assert_close(smooth, ours.attribute(inputs, target=1), rtol=1e-3, atol=1e-4)
    assert delta.shape == (6,)


# --- axioms --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [m for m in QUADRATURES if m != "riemann_trapezoid"])
def test_a_linear_model_gets_weight_times_way_from_any_rule(method: str) -> None:
    model = Linear(8)
    inputs, baselines = torch.randn(3, 8), torch.randn(3, 8)
    for n_steps in (1, 2, 5):
        attributions = IntegratedGradients(model).attribute(
            inputs, baselines, target=1, n_steps=n_steps, method=method
        )
        torch.testing.assert_close(attributions, model.weight[1] * (inputs - baselines))


def test_a_cubic_is_integrated_exactly_by_two_gauss_nodes() -> None:
    model = Polynomial(10).double()
    inputs, baselines = torch.randn(4, 10).double(), torch.randn(4, 10).double()
    attributions, delta = IntegratedGradients(model).attribute(
        inputs, baselines, target=2, n_steps=2, return_convergence_delta=True
    )
    a, b = model.a[2].double(), model.b[2].double()
    exact = a * (inputs - baselines) + b * (inputs**3 - baselines**3)
    torch.testing.assert_close(attributions, exact, rtol=1e-12, atol=1e-12)
    assert delta.abs().max() < 1e-11


def test_completeness_tightens_with_the_steps() -> None:
    model, inputs = mlp().double(), torch.randn(5, 6).double()
    ig = IntegratedGradients(model)
    gaps = [
        ig.attribute(inputs, target=1, n_steps=n, return_convergence_delta=True)[1].abs().max()
        for n in (2, 5, 20)
    ]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-8


def test_without_multiply_by_inputs_the_mean_slope_is_returned() -> None:
    model, inputs = mlp(), torch.randn(2, 6)
    slope = IntegratedGradients(model, multiply_by_inputs=False).attribute(inputs, target=0)
    full = IntegratedGradients(model).attribute(inputs, target=0)
    torch.testing.assert_close(slope * inputs, full)


def test_a_feature_equal_to_its_baseline_gets_exactly_zero() -> None:
    inputs = torch.randn(2, 6)
    baselines = torch.randn(2, 6)
    baselines[:, 3] = inputs[:, 3]
    attributions = IntegratedGradients(mlp()).attribute(inputs, baselines, target=0)
    assert bool((attributions[:, 3] == 0).all())
    assert bool((attributions[:, 2] != 0).all())


# --- chunks and memory ---------------------------------------------------------------------------


def test_any_chunk_gives_the_same_bits_when_the_models_answers_do() -> None:
    model = Polynomial(30)
    inputs, baselines = torch.randn(5, 30), torch.randn(5, 30)
    ig = IntegratedGradients(model)
    whole = ig.attribute(inputs, baselines, target=[0, 1, 2, 0, 1], n_steps=13)
    for size in (1, 2, 3, 4, 5, 6, 12, 64, 65):
        chunked = ig.attribute(
            inputs,
            baselines,
            target=[0, 1, 2, 0, 1],
            n_steps=13,
            internal_batch_size=size,
        )
        assert_same_bits(chunked, whole)


def test_internal_batch_size_below_the_batch_is_kept() -> None:
    seen = []
    model = Polynomial(4)

    def forward(x: Tensor) -> Tensor:
        seen.append(x.shape[0])
        return model(x)

    IntegratedGradients(forward).attribute(
        torch.randn(6, 4), target=0, n_steps=5, internal_batch_size=4
    )
    assert max(seen) <= 4
    assert sum(seen) == 30


class Scarce(nn.Module):
    """Runs out of memory on more rows than it has room for."""

    def __init__(self, room: int, error: Exception) -> None:
        super().__init__()
        self.net, self.room, self.error, self.failures = Polynomial(8), room, error, 0

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > self.room:
            self.failures += 1
            raise self.error
        return self.net(x)


OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("room", [1, 3, 10])
@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["cuda", "cpu"])
def test_out_of_memory_halves_the_chunk_and_changes_no_bit(
    error: Exception, room: int, create_graph: bool
) -> None:
    inputs = torch.randn(5, 8)
    expected = IntegratedGradients(Polynomial(8)).attribute(inputs, target=1, n_steps=12)
    model, cost = Scarce(room, error), Cost()
    actual = IntegratedGradients(model).attribute(
        inputs, target=1, n_steps=12, create_graph=create_graph, cost=cost
    )
    if create_graph:
        torch.testing.assert_close(actual, expected)
    else:
        assert_same_bits(actual, expected)
    assert cost.out_of_memory == model.failures > 0
    assert cost.gradients == 60
    assert cost.rows_per_chunk <= room


@pytest.mark.parametrize("room", [1, 3])
def test_delta_and_explain_live_with_little_memory_too(room: int) -> None:
    inputs, baselines = torch.randn(5, 8), torch.randn(5, 8)
    arguments = {"n_steps": 4, "baselines": baselines, "target": 1}
    model = Scarce(room, OUT_OF_MEMORY[0])
    attributions, delta = IntegratedGradients(model).attribute(
        inputs, **arguments, return_convergence_delta=True
    )
    expected, gap = IntegratedGradients(Polynomial(8)).attribute(
        inputs, **arguments, return_convergence_delta=True
    )
    assert_same_bits(attributions, expected)
    assert_same_bits(delta, gap)
    explanation = explain(Scarce(room, OUT_OF_MEMORY[0]), inputs, **arguments)
    assert_same_bits(explanation.attributions, expected)
    assert_same_bits(explanation.delta, gap)


def test_out_of_memory_with_a_single_row_is_raised() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        IntegratedGradients(Scarce(0, OUT_OF_MEMORY[0])).attribute(torch.randn(2, 8), target=1)


def test_other_errors_of_the_model_are_not_swallowed() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        IntegratedGradients(Scarce(0, RuntimeError("a bug"))).attribute(torch.randn(2, 8), target=1)


def frozen_wide() -> nn.Module:
    """Keeps next to nothing for its backward pass, and makes large activations on the way."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (conv_net, (3, 32, 32)),
        (frozen_wide, (3, 32, 32)),
        (lambda: nn.Linear(16, 20_000), (16,)),  # a large output of a small input
    ],
    ids=["conv", "frozen_wide", "many_classes"],
)
def test_rows_per_chunk_do_not_grow_with_the_steps(
    model, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunking, "CPU_CHUNK_BYTES", 2_000_000)
    monkeypatch.setattr(chunking, "FIRST_CHUNK_ROWS", 2)
    net, seen = model(), []
    net.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[0]))
    ig = IntegratedGradients(net, memory_format="contiguous")
    largest = []
    for n_steps in (100, 400, 1000):
        seen.clear()
        ig.attribute(torch.randn(2, *shape), target=1, n_steps=n_steps)
        largest.append(max(seen[1:]))
    # The first call is measured on a smaller chunk, with more of it for each row.
    assert largest[0] <= 1.1 * largest[1]
    assert largest[1] == largest[2] < 100


def test_models_that_flatten_by_view_are_explained() -> None:
    inputs = torch.randn(2, 3, 80, 80)
    result = IntegratedGradients(Viewing(80)).attribute(inputs, target=1, n_steps=20)
    theirs = captum_ig()(Viewing(80)).attribute(inputs, target=1, n_steps=20)
    torch.testing.assert_close(result, theirs, rtol=1e-3, atol=1e-6)


def test_attributions_come_in_the_layout_of_the_inputs() -> None:
    inputs = torch.randn(2, 3, 8, 8)
    last = inputs.contiguous(memory_format=torch.channels_last)
    for memory_format in ("contiguous", "channels_last"):
        ig = IntegratedGradients(conv_net(), memory_format=memory_format)
        assert ig.attribute(inputs, target=1).is_contiguous()
        made = ig.attribute(last, target=1)
        assert made.is_contiguous(memory_format=torch.channels_last)


def test_additional_tensors_that_are_not_a_batch_are_passed_as_they_are() -> None:
    table = torch.randn(7, 8)
    inputs = torch.randn(4, 8)
    expected = inputs * table.sum(0)
    for size in (None, 8, 4, 1):
        result = IntegratedGradients(lambda x, t: (x @ t.T).sum(1)).attribute(
            inputs, additional_forward_args=table, n_steps=6, internal_batch_size=size
        )
        torch.testing.assert_close(result, expected)


def test_models_that_differentiate_inside_are_explained() -> None:
    def model(x: Tensor) -> Tensor:
        return torch.func.vmap(torch.func.grad(lambda y: (y**3).sum()))(x).sum(1)

    inputs = torch.randn(3, 4)
    result = IntegratedGradients(model).attribute(inputs)
    torch.testing.assert_close(result, 3 * inputs**2)


def test_buffers_do_not_outlive_the_call() -> None:
    import gc
    import weakref

    model, inputs = conv_net(), torch.randn(2, 3, 32, 32)
    points: list[weakref.ref] = []
    model.register_forward_pre_hook(lambda _, args: points.append(weakref.ref(args[0])))
    IntegratedGradients(model).attribute(inputs, target=1)
    gc.collect()
    assert points
    assert all(ref() is None for ref in points)


# --- what users of captum ask for ----------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: SimpleNamespace(logits=logits, hidden_states=None),
        lambda logits: {"logits": logits, "loss": None},
        lambda logits: {"out": logits, "aux": logits * 0},
        lambda logits: (logits, "hidden"),
        lambda logits: [logits],
    ],
    ids=["logits", "dict", "segmentation", "tuple", "list"],
)
def test_models_that_return_more_than_a_tensor_are_understood(wrap) -> None:
    model, inputs = mlp(), torch.randn(2, 6)
    wrapped = IntegratedGradients(lambda x: wrap(model(x))).attribute(inputs, target=1)
    assert_same_bits(wrapped, IntegratedGradients(model).attribute(inputs, target=1))


def test_select_output_picks_what_is_explained() -> None:
    model, inputs = mlp(), torch.randn(2, 6)
    picked = IntegratedGradients(
        lambda x: {"score": model(x)}, select_output=lambda answer: answer["score"]
    ).attribute(inputs, target=1)
    assert_same_bits(picked, IntegratedGradients(model).attribute(inputs, target=1))
    with pytest.raises(TypeError, match="select_output="):
        IntegratedGradients(lambda x: {"score": model(x)}).attribute(inputs, target=1)


def test_it_works_inside_inference_mode_and_under_no_grad() -> None:
    model, inputs = mlp(), torch.randn(2, 6)
    expected = IntegratedGradients(model).attribute(inputs, target=1)
    with torch.inference_mode():
        inside = IntegratedGradients(model).attribute(inputs.clone(), target=1)
    with torch.no_grad():
        without = IntegratedGradients(model).attribute(inputs, target=1)
    assert_same_bits(inside, expected)
    assert_same_bits(without, expected)


def test_weights_made_in_inference_mode_are_refused_with_a_reason() -> None:
    with torch.inference_mode():
        model = mlp()
        with pytest.raises(RuntimeError, match=r"made inside torch\.inference_mode"):
            IntegratedGradients(model).attribute(torch.randn(2, 6), target=1)
    with pytest.raises(RuntimeError, match=r"made inside torch\.inference_mode"):
        IntegratedGradients(model).attribute(torch.randn(2, 6), target=1)


def test_the_callers_tensors_and_the_models_gradients_are_left_alone() -> None:
    model = mlp()
    inputs = torch.randn(2, 6)
    kept = inputs.clone()
    IntegratedGradients(model).attribute(inputs, target=1)
    assert_same_bits(inputs, kept)
    assert not inputs.requires_grad
    assert inputs.grad is None
    assert all(p.grad is None for p in model.parameters())
    result = IntegratedGradients(model).attribute(inputs.requires_grad_(), target=1)
    assert not result.requires_grad


def test_create_graph_trains_on_attributions() -> None:
    model = mlp().double()
    inputs = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    ig = IntegratedGradients(model)

    def penalty(x: Tensor) -> Tensor:
        return ig.attribute(x, target=1, n_steps=5, create_graph=True).square().sum()

    assert torch.autograd.gradcheck(penalty, inputs, atol=1e-6)
    penalty(inputs).backward()
    first = model[0].weight.grad
    assert first is not None
    # The derivative with respect to one weight, by differences.
    with torch.no_grad():
        step = 1e-5
        model[0].weight[0, 0] += step
        above = penalty(inputs)
        model[0].weight[0, 0] -= 2 * step
        below = penalty(inputs)
        model[0].weight[0, 0] += step
    torch.testing.assert_close(first[0, 0], (above - below) / (2 * step), rtol=1e-5, atol=1e-8)


def test_create_graph_gives_the_values_of_the_plain_call() -> None:
    model, inputs = mlp(), torch.randn(3, 6)
    for size in (None, 1, 4):
        arguments = {"target": [0, 1, 2], "n_steps": 7, "internal_batch_size": size}
        graph = IntegratedGradients(model).attribute(inputs, **arguments, create_graph=True)
        plain = IntegratedGradients(model).attribute(inputs, **arguments)
        torch.testing.assert_close(graph.detach(), plain)


def test_pixels_with_preprocessing_equal_normalised_inputs() -> None:
    model = conv_net()
    preprocessing = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    pixels = torch.rand(2, 3, 12, 12)
    ours, delta = IntegratedGradients(model, preprocessing=preprocessing).attribute(
        pixels, 0.0, target=1, return_convergence_delta=True
    )
    black = preprocessing.normalise(torch.zeros(1, 3, 12, 12))
    plain, plain_delta = IntegratedGradients(model).attribute(
        preprocessing.normalise(pixels), black, target=1, return_convergence_delta=True
    )
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(delta, plain_delta, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("output", ["prob", "logprob", "margin"])
def test_other_outputs_are_explained_completely(output: str) -> None:
    model, inputs = mlp().double(), torch.randn(3, 6).double()
    ig = IntegratedGradients(model, output=output)
    attributions, delta = ig.attribute(
        inputs, target=2, n_steps=300, return_convergence_delta=True, method="riemann_middle"
    )
    logits = model(inputs), model(torch.zeros_like(inputs))

    def value(x: Tensor) -> Tensor:
        others = torch.cat([x[:, :2], x[:, 3:]], 1)
        return {
            "prob": x.softmax(1)[:, 2],
            "logprob": x.log_softmax(1)[:, 2],
            "margin": x[:, 2] - others.max(1).values,
        }[output]

    torch.testing.assert_close(
        attributions.sum(1), value(logits[0]) - value(logits[1]), rtol=0.02, atol=2e-3
    )
    assert delta.abs().max() < 5e-3


def test_unused_inputs_get_zeros() -> None:
    used, unused = torch.randn(2, 3), torch.randn(2, 4)
    result = IntegratedGradients(lambda a, b: a.sum(1) + 0 * b.detach().sum(1)).attribute(
        (used, unused)
    )
    torch.testing.assert_close(result[0], used)
    assert bool((result[1] == 0).all())


@pytest.mark.parametrize(("batch", "features"), [(0, 4), (3, 0), (1, 1)])
def test_empty_and_single_sizes_work(batch: int, features: int) -> None:
    inputs = torch.randn(batch, features)
    result, delta = IntegratedGradients(lambda x: x.square().sum(1)).attribute(
        inputs, return_convergence_delta=True, n_steps=3
    )
    torch.testing.assert_close(result, inputs.square())
    assert delta.shape == (batch,)


@pytest.mark.parametrize("layout", ["strided", "expanded", "channels_last"])
def test_inputs_of_any_layout_are_explained_alike(layout: str) -> None:
    model = conv_net()
    inputs = torch.randn(2, 3, 8, 8)
    if layout == "strided":
        odd = torch.stack([inputs, inputs], dim=-1)[..., 0]
    elif layout == "channels_last":
        odd = inputs.contiguous(memory_format=torch.channels_last)
    else:
        inputs = inputs[:1].expand(2, 3, 8, 8)
        odd, inputs = inputs, inputs.contiguous()
    ig = IntegratedGradients(model, memory_format="contiguous")
    assert_same_bits(ig.attribute(odd, target=1), ig.attribute(inputs, target=1))


# --- errors --------------------------------------------------------------------------------------

ROW = torch.zeros(2, 6)


def never(*_args: object) -> Tensor:
    raise AssertionError("the model was asked before the arguments were checked")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"inputs": ROW.cfloat()}, TypeError, "inputs must be real, got torch.complex64"),
        ({"inputs": ROW.numpy()}, TypeError, "inputs must be a torch.Tensor, got ndarray"),
        ({"inputs": [ROW]}, TypeError, "a tuple, not a list"),
        ({"inputs": ()}, ValueError, "at least one tensor"),
        ({"inputs": torch.tensor(1.0)}, ValueError, "got a scalar"),
        ({"inputs": (ROW, ROW[:1])}, ValueError, "batch size of the first, 2, got 1"),
        ({"inputs": ROW, "baselines": ROW[:, :5]}, ValueError, r"like its input .*got \[2, 5\]"),
        ({"inputs": ROW, "baselines": torch.zeros(3, 6)}, ValueError, r"got \[3, 6\]"),
        ({"inputs": ROW, "baselines": (0, 0)}, ValueError, "each of the 1 inputs, got 2"),
        ({"inputs": ROW, "baselines": "black"}, TypeError, "a number or a torch.Tensor, got str"),
        ({"inputs": ROW, "target": [1]}, ValueError, "each of the 2 examples, got 1"),
        ({"inputs": ROW, "target": 1.5}, TypeError, "got float"),
        ({"inputs": ROW, "target": torch.tensor([0.5, 1.0])}, TypeError, "integers, got"),
        ({"inputs": ROW, "n_steps": 0}, ValueError, "n_steps must be an integer >= 1, got 0"),
        ({"inputs": ROW, "n_steps": 2.5}, ValueError, "n_steps must be an integer >= 1, got 2.5"),
        ({"inputs": ROW, "method": "simpson"}, ValueError, "one of gausslegendre, .*'simpson'"),
        ({"inputs": ROW, "internal_batch_size": 0}, ValueError, "internal_batch_size .* got 0"),
    ],
)
def test_a_bad_argument_is_refused_before_the_model_is_asked(arguments, error, words: str) -> None:
    with pytest.raises(error, match=words):
        IntegratedGradients(never).attribute(**arguments)


@pytest.mark.parametrize(
    ("model", "target", "error", "words"),
    [
        (lambda x: x, 6, ValueError, r"in \[0, 6\) .* got 6"),
        (lambda x: x, torch.tensor([0, 9]), ValueError, r"in \[0, 6\) .* got 9"),
        (lambda x: x, -7, ValueError, "got -7"),
        (lambda x: x, (1, 2), ValueError, "at most 1 indices .* got 2"),
        (lambda x: x, None, ValueError, r"a target must be given for .*\[4, 6\]"),
        (lambda x: x[None], 0, ValueError, r"batch 4 as in the inputs, got \[1, 4, 6\]"),
        (lambda x: x.sum(), None, ValueError, r"\[batch, \.\.\.\] with batch 4"),
        (lambda x: "text", 0, TypeError, "got str"),
        (lambda x: x.detach(), 0, ValueError, "must depend on its inputs"),
    ],
)
def test_a_models_answer_that_does_not_fit_is_explained(model, target, error, words) -> None:
    with pytest.raises(error, match=words):
        IntegratedGradients(model).attribute(ROW, target=target, n_steps=2)


def test_a_bad_target_is_also_an_assertion_error_for_code_written_for_captum() -> None:
    with pytest.raises(AssertionError):
        IntegratedGradients(lambda x: x).attribute(ROW)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"output": "softmax"}, "output must be one of logit, prob, logprob, margin"),
        ({"memory_format": "nchw"}, "memory_format must be auto, contiguous or channels_last"),
    ],
)
def test_a_bad_option_is_refused_at_construction(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        IntegratedGradients(never, **options)


def test_a_wrong_dtype_says_what_the_model_has() -> None:
    with pytest.raises(TypeError, match=r"model's weights, torch.float32, got torch.float64"):
        IntegratedGradients(mlp()).attribute(ROW.double(), target=0)


def test_inputs_are_brought_to_the_models_device_and_back(device: torch.device) -> None:
    model = mlp().to(device)
    result = IntegratedGradients(model).attribute(
        ROW + 1, torch.zeros(2, 6, device=device), target=torch.tensor([0, 1])
    )
    assert result.device.type == "cpu"
    torch.testing.assert_close(result, IntegratedGradients(mlp()).attribute(ROW + 1, target=[0, 1]))
