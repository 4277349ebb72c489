"""Models in low precision and compiled: what changes, and what does not."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyxai_fast
from pyxai_fast import BlackBox, Cost, IntegratedGradients, Targets, explain, prepare
from pyxai_fast.runtime.chunks import ChunkPlanner
from pyxai_fast.runtime.prepared import Prepared, static_rows

# Unit roundoffs: bfloat16 has 8 binary digits, float16 has 11.
ROUNDOFF = {"bf16": 2.0**-8, "fp16": 2.0**-11}
NARROW = {"bf16": torch.bfloat16, "fp16": torch.float16}


def conv_net() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 5),
    )  # fmt: skip
    norm = net[1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.running_mean.copy_(torch.randn(8))  # type: ignore[union-attr]
    norm.running_var.copy_(torch.rand(8) + 0.5)  # type: ignore[union-attr]
    return net.eval()


def attention_net() -> nn.Module:
    torch.manual_seed(1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 32, 8, 8)
            layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(32, 5)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.patches(x).flatten(2).transpose(1, 2)
            return self.head(self.encoder(tokens).mean(1))

    return Net().eval()


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).double().norm() / b.double().norm())


# ---------------------------------------------------------------- precision


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_each_attribution_of_a_linear_model_is_off_by_a_rounding_of_its_weight(
    precision: str,
) -> None:
    torch.manual_seed(0)
    model = nn.Linear(50, 1, bias=False)
    x = torch.randn(6, 50)
    exact = explain(model, x).attributions
    found = explain(model, x, precision=precision).attributions
    assert isinstance(exact, Tensor) and isinstance(found, Tensor)
    # Of the sums nothing but the last digit of float32 is lost.
    bound = ROUNDOFF[precision] * exact.abs() + 2.0**-22 * exact.abs()
    assert ((found - exact).abs() <= bound).all()
    assert relative(found, exact) > ROUNDOFF[precision] / 100  # it did run in low precision


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize(("make", "layers"), [(conv_net, 4), (attention_net, 14)])
def test_attributions_are_off_by_about_a_rounding_for_each_layer(
    make: Any, layers: int, precision: str
) -> None:
    """Forward and backward passes both round: twice the layers' roundings bound the distance."""
    model, x = make(), torch.rand(3, 3, 32, 32)
    exact = explain(model, x, target=1).attributions
    found = explain(model, x, target=1, precision=precision).attributions
    assert isinstance(exact, Tensor) and isinstance(found, Tensor)
    assert 0 < relative(found, exact) <= 2 * layers * ROUNDOFF[precision]


def test_what_is_reported_is_the_original_s() -> None:
    model, x = conv_net(), torch.rand(2, 3, 32, 32)
    plain = explain(model, x)
    low = explain(model, x, precision="bf16")
    assert torch.equal(low.outputs, plain.outputs) and torch.equal(low.target, plain.target)
    # The gap is against the original's scores, and so shows what precision has cost.
    assert plain.delta is not None and low.delta is not None
    way = plain.attributions.flatten(1).sum(1) - plain.delta  # type: ignore[union-attr]
    gap = low.attributions.flatten(1).sum(1) - way  # type: ignore[union-attr]
    assert torch.allclose(low.delta, gap, atol=1e-6)
    assert low.settings["precision"] == "bf16" and "precision" not in plain.settings


def test_attributions_are_as_wide_as_the_inputs() -> None:
    low = explain(conv_net(), torch.rand(2, 3, 32, 32), precision="bf16", method="saliency")
    assert isinstance(low.attributions, Tensor) and low.attributions.dtype == torch.float32


def test_only_weights_of_layers_are_stored_again() -> None:
    model = conv_net()
    narrow = prepare(model, precision="bf16").module
    assert narrow is not None
    for name, tensor in narrow.state_dict().items():
        original = model.state_dict()[name]
        if name in ("0.weight", "3.weight", "7.weight"):
            assert tensor.dtype == torch.bfloat16
            assert torch.equal(tensor, original.bfloat16())
        else:
            assert tensor.data_ptr() == original.data_ptr()  # shared, batch statistics too


def test_small_slopes_survive_float16() -> None:
    """Slopes of 1e-7 are below float16's smallest number on their way back, unless scaled."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(1e-4 * torch.eye(4))
        model[1].weight.fill_(2e-4)
    x = torch.ones(1, 4)
    exact = explain(model, x, method="saliency").attributions
    found = explain(model, x, method="saliency", precision="fp16").attributions
    assert isinstance(exact, Tensor) and isinstance(found, Tensor)
    assert exact.max() < 2.0**-25  # rounds to zero in float16
    assert relative(found, exact) < 4 * ROUNDOFF["fp16"]


def test_the_model_itself_is_untouched() -> None:
    model = conv_net()
    before = copy.deepcopy(model.state_dict())
    explain(model, torch.rand(2, 3, 32, 32), precision="bf16")
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(p.grad is None for p in model.parameters())


def test_changed_weights_are_seen() -> None:
    model, x = nn.Linear(4, 1, bias=False), torch.ones(1, 4)
    first = explain(model, x, precision="bf16").attributions
    with torch.no_grad():
        model.weight.mul_(2)
    second = explain(model, x, precision="bf16").attributions
    assert torch.equal(second, 2 * first)  # type: ignore[operator]


def test_the_copy_is_made_once_and_goes_with_the_model() -> None:
    model = conv_net()
    narrow = prepare(model, precision="bf16").module
    assert narrow is not None and prepare(model, precision="bf16").module is narrow
    gone = weakref.ref(narrow)
    del model, narrow
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("method", ["lime", "rise", "kernel_shap", "guided_ig", "smooth_grad"])
def test_other_methods_take_it_too(method: str) -> None:
    model, x = conv_net(), torch.rand(2, 3, 32, 32)
    asked = (
        {"n_queries": 60, "segments": "tiles:4"}
        if method in ("lime", "rise", "kernel_shap")
        else {}
    )
    exact = explain(model, x, method=method, target=1, **asked).attributions
    found = explain(model, x, method=method, target=1, precision="bf16", **asked).attributions
    assert isinstance(exact, Tensor) and isinstance(found, Tensor)
    similar = torch.cosine_similarity(exact.flatten(), found.flatten(), dim=0)
    assert similar > 0.95 and not torch.equal(exact, found)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("integrated_gradients", {"n_steps": 9}),
        ("integrated_gradients", {"n_steps": 33, "tolerance": 1e-3}),
        ("integrated_gradients", {"n_steps": 9, "target": Targets(0, 3)}),
        ("saliency", {}),
        ("smooth_grad", {"n_samples": 5}),
        ("expected_gradients", {"n_samples": 5, "baselines": torch.rand(4, 3, 32, 32)}),
        ("stick_breaking_ig", {"n_paths": 2, "n_steps": 4}),
        ("blur_ig", {"n_steps": 5, "max_sigma": 4}),
        ("guided_ig", {"n_steps": 5}),
        ("geometrically_guided_ig", {"n_steps": 3, "n_ascent": 3}),
    ],
)
def test_points_that_are_written_as_the_network_takes_them_are_the_same(
    method: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are rounded once either way, in the kernel or on their way into the network."""
    model, x = conv_net(), torch.rand(2, 3, 32, 32)
    asked = {"target": 1, "memory_format": "contiguous", "precision": "bf16", **options}
    found = explain(model, x, method=method, **asked).attributions
    monkeypatch.setattr(Prepared, "takes", lambda self, inputs: inputs.dtype)
    wide = explain(model, x, method=method, **asked).attributions
    assert isinstance(found, Tensor) and isinstance(wide, Tensor)
    assert torch.equal(found, wide)


def test_several_targets_and_tuples_of_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(4, 3), nn.Linear(5, 3)

        def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
            return {"logits": self.left(a).tanh() + self.right(b).tanh()}

    torch.manual_seed(0)
    model, inputs = Two().eval(), (torch.randn(3, 4), torch.randn(3, 5))
    exact = explain(model, inputs, target=Targets(0, 2)).attributions
    found = explain(model, inputs, target=Targets(0, 2), precision="bf16").attributions
    for a, b in zip(exact, found, strict=True):
        assert a.shape == b.shape and relative(b, a) < 8 * ROUNDOFF["bf16"]


def test_what_cannot_be_prepared_is_refused() -> None:
    model = conv_net()
    with pytest.raises(ValueError, match=r"precision must be one of fp32, bf16, fp16, got 'fp8'"):
        prepare(model, precision="fp8")
    with pytest.raises(ValueError, match=r"model must be a torch module .* got function"):
        prepare(lambda x: x.sum(1), precision="bf16")
    with pytest.raises(ValueError, match="must not be prepared already"):
        prepare(prepare(model, precision="bf16"), compile=True)
    with pytest.raises(ValueError, match=r"must have float32 weights .* got torch.float64"):
        prepare(conv_net().double(), precision="bf16")
    with pytest.raises(ValueError, match="must be a torch module or a function to be compiled"):
        prepare(BlackBox(model), compile=True)
    with pytest.raises(ValueError, match=r"must be one that copy\.deepcopy can copy"):
        prepare(Uncopyable(), precision="bf16")
    with pytest.raises(ValueError, match="create_graph must be False with a model in low"):
        IntegratedGradients(prepare(model, precision="bf16")).attribute(
            torch.rand(1, 3, 32, 32), target=0, create_graph=True
        )
    assert prepare(model) is model


class Uncopyable(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2)
        self.kept = torch.ones(1, requires_grad=True) * 2  # no leaf: torch copies only leaves


# ---------------------------------------------------------------- models of all kinds


class Plainest(nn.Module):
    """conv -> view -> linear, as in every tutorial."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 4, 5), nn.Linear(4 * 28 * 28, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().view(x.shape[0], -1))


class Volume(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv3d(1, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x.unflatten(1, (1, 3))).relu().mean((2, 3, 4)))


class Rotary(nn.Module):
    """Turns features by a complex buffer, and has positions that bfloat16 cannot tell apart."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("turns", torch.polar(torch.ones(4), torch.rand(4) * 6))
        self.register_buffer("positions", torch.arange(1000.0, 1008.0))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean((1, 2))[:, :8]
        turned = torch.view_as_real(torch.view_as_complex(x.unflatten(1, (4, 2))) * self.turns)
        return self.head(turned.flatten(1) * self.positions.cos())


class Weird:
    """What torch cannot look into."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class Upcast(nn.Module):
    def __init__(self, wrap: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.wrap = nn.Linear(32, 5), wrap

    def forward(self, x: Tensor) -> Any:
        logits = self.body(x.mean((1, 2))).float()
        return Weird(logits) if self.wrap else logits


KINDS = {
    "plainest": Plainest,
    "volume": Volume,
    "rotary": Rotary,
    "float answers": lambda: Upcast(False),
    "odd answers": lambda: Upcast(True),
}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("kind", KINDS)
def test_models_of_all_kinds_keep_their_maps(kind: str, precision: str) -> None:
    model, x = KINDS[kind]().eval(), torch.rand(2, 3, 32, 32)
    exact = explain(model, x, target=1).attributions
    found = explain(model, x, target=1, precision=precision).attributions
    assert isinstance(exact, Tensor) and isinstance(found, Tensor)
    assert 0 < relative(found, exact) <= 10 * ROUNDOFF[precision]


def test_what_goes_along_is_not_rounded() -> None:
    class Timed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            return self.head(x * (time[:, None] * torch.arange(1, 9)).cos())

    model, x, time = Timed().eval(), torch.randn(3, 8), torch.tensor([999.0, 501.0, 777.0])
    exact = explain(model, x, target=1, additional_forward_args=time).attributions
    low = explain(model, x, target=1, additional_forward_args=time, precision="bf16").attributions
    assert relative(low, exact) <= 4 * ROUNDOFF["bf16"]  # type: ignore[arg-type]


def test_features_that_are_no_pictures_are_left_to_the_network() -> None:
    """Ids up to 3,000 are no numbers of bfloat16."""
    torch.manual_seed(0)
    table = nn.Embedding(3001, 8)

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = table, nn.Linear(8, 3)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.table(ids.long()).mean(1))

    model, ids = Words().eval(), torch.tensor([[3000.0, 1999.0, 2501.0, 7.0]])
    asked: dict[str, Any] = {"method": "kernel_shap", "target": 1, "n_queries": 16}
    exact = explain(model, ids, **asked).attributions
    found = explain(model, ids, precision="bf16", **asked).attributions
    assert relative(found, exact) < 0.05  # type: ignore[arg-type]


def test_a_bound_method_is_prepared_too() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.head = nn.Linear(8, 3)

        def scores(self, x: Tensor) -> Tensor:
            return self.head(x).tanh()

    model, x = Two().eval(), torch.randn(2, 8)
    exact = IntegratedGradients(model.scores).attribute(x, target=1)
    found = IntegratedGradients(prepare(model.scores, precision="bf16")).attribute(x, target=1)
    assert 0 < relative(found, exact) < 4 * ROUNDOFF["bf16"]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("method", ["integrated_gradients", "smooth_grad", "rise"])
def test_memory_that_runs_out_halves_chunks_in_every_precision(precision: str, method: str) -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return self.head(x).tanh()

    found = explain(Small().eval(), torch.randn(2, 8), target=1, method=method, precision=precision)
    assert found.cost.out_of_memory > 0 and found.cost.rows_per_chunk <= 4


def test_inference_mode_does_not_matter() -> None:
    model, x = conv_net(), torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        inside = explain(model, x, target=1, precision="bf16").attributions
    outside = explain(model, x, target=1, precision="bf16").attributions
    assert torch.equal(inside, outside)  # type: ignore[arg-type]


def test_float16_that_overflows_is_told() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        model[0].weight.fill_(1e5)
    with pytest.warns(UserWarning, match="infinite in float16"):
        explain(model, torch.ones(1, 4), target=1, precision="fp16")


def test_a_prepared_model_says_its_precision_in_the_settings() -> None:
    model = conv_net()
    low = explain(prepare(model, precision="bf16"), torch.rand(1, 3, 32, 32), target=1, n_steps=2)
    assert low.settings["precision"] == "bf16"


# ---------------------------------------------------------------- changes of the original


def _by_data(model: nn.Sequential) -> None:
    model[0].weight.data.mul_(3)


def _in_place(model: nn.Sequential) -> None:
    with torch.no_grad():
        model[0].weight.mul_(3)


def _another_part(model: nn.Sequential) -> None:
    model[1] = nn.Sigmoid().eval()


def _a_hook(model: nn.Sequential) -> None:
    model[0].register_forward_hook(lambda part, args, output: output * 2)


@pytest.mark.parametrize("change", [_by_data, _in_place, _another_part, _a_hook])
@pytest.mark.parametrize("held", [False, True])
def test_changes_of_the_model_are_followed(change: Any, held: bool) -> None:
    def made() -> nn.Sequential:
        torch.manual_seed(0)
        layers = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2), nn.Dropout(0.0)
        return nn.Sequential(*layers).eval()

    model, x = made(), torch.randn(2, 6)
    fast = prepare(model, precision="bf16") if held else model
    asked: dict[str, Any] = {"target": 1, "precision": "fp32" if held else "bf16"}
    before = explain(fast, x, **asked).attributions
    change(model)
    after = explain(fast, x, **asked).attributions
    changed = made()
    change(changed)
    expected = explain(changed, x, target=1, precision="bf16").attributions
    assert torch.equal(after, expected)  # type: ignore[arg-type]
    assert not torch.equal(after, before)  # type: ignore[arg-type]


# ---------------------------------------------------------------- compiled, in static shapes


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """torch.compile with a backend that runs the graph as it is; the shapes it was given."""
    shapes: list[tuple[int, ...]] = []
    real = torch.compile

    def graph_only(network: Any, **options: Any) -> Any:
        assert options["dynamic"] is False

        def backend(graph: Any, examples: list[Tensor]) -> Any:
            given = [t for t in examples if not isinstance(t, nn.Parameter) and t.dim() > 1]
            shapes.append(tuple(given[0].shape))
            return graph.forward

        return real(network, dynamic=False, backend=backend)

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", graph_only)
    return shapes


def test_static_rows_are_powers_of_two() -> None:
    assert [static_rows(n) for n in (1, 2, 3, 4, 5, 64, 65)] == [1, 2, 4, 4, 8, 64, 128]


def test_compiled_is_equal_to_eager(compiles: list[tuple[int, ...]]) -> None:
    model, x = conv_net(), torch.rand(3, 3, 32, 32)
    eager = explain(model, x, target=1, memory_format="contiguous", n_steps=21)
    fast = explain(model, x, target=1, memory_format="contiguous", n_steps=21, compile=True)
    assert relative(fast.attributions, eager.attributions) < 1e-6  # type: ignore[arg-type]
    assert compiles, "nothing was compiled"


def test_a_compiled_model_sees_few_shapes(compiles: list[tuple[int, ...]]) -> None:
    fast = prepare(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).eval(), compile=True)
    for rows in range(1, 17):
        x = torch.randn(rows, 6)
        assert fast(x).shape == (rows, 2)
        assert torch.allclose(fast(x), fast.exact(x), atol=1e-6)
    assert {shape[0] for shape in compiles} == {1, 2, 4, 8, 16}
    for rows in range(16, 1, -1):
        fast(torch.randn(rows, 6))
    assert len(compiles) == 5


def test_repeated_rows_leave_slopes_alone(compiles: list[tuple[int, ...]]) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)).eval()
    x = torch.randn(5, 6)
    slopes = IntegratedGradients(model).attribute(x, target=1, n_steps=7)
    fast = IntegratedGradients(prepare(model, compile=True)).attribute(x, target=1, n_steps=7)
    assert torch.allclose(fast, slopes, atol=1e-6)
    assert {shape[0] for shape in compiles} == {64}  # of 35


def test_shared_arguments_are_not_filled_up(compiles: list[tuple[int, ...]]) -> None:
    """A table that happens to have as many rows as a chunk."""

    class Looks(nn.Module):
        def forward(self, x: Tensor, table: Tensor) -> Tensor:
            return (x @ table.T).softmax(1) @ table

    torch.manual_seed(0)
    x, table = torch.randn(3, 4), torch.randn(15, 4)
    asked: dict[str, Any] = {"target": 1, "n_steps": 5, "additional_forward_args": table}
    eager = explain(Looks().eval(), x, **asked).attributions
    model = Looks().eval()
    explain(model, x, **asked)
    fast = explain(model, x, compile=True, **asked).attributions
    assert compiles and torch.allclose(fast, eager, atol=1e-6)  # type: ignore[arg-type]


def test_answers_that_cannot_be_cut_are_refused(compiles: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"compiled must answer with tensors.* got Weird"):
        prepare(Upcast(True).eval(), compile=True)(torch.rand(2, 3, 32, 32))


def test_what_a_cuda_graph_would_overwrite_is_copied(compiles: list[tuple[int, ...]]) -> None:
    fast = prepare(nn.Sequential(nn.Linear(6, 8), nn.Tanh()).eval(), compile=True)
    kept: list[Tensor] = []
    run = fast._run

    def remembers(x: Tensor) -> Tensor:
        answer = run(x)
        kept.append(answer)
        answer.register_hook(kept.append)
        return answer

    fast._run, fast._overwrites = remembers, True
    x = torch.randn(4, 6, requires_grad=True)
    answer = fast(x)
    assert torch.equal(answer, kept[0]) and answer.data_ptr() != kept[0].data_ptr()
    (slope,) = torch.autograd.grad(answer.sum(), x)
    expected = torch.autograd.grad(fast.exact(x).sum(), x)[0]
    torch.testing.assert_close(slope, expected)


def test_chunks_of_a_compiled_model_are_powers_of_two() -> None:
    x = (torch.rand(4, 10),)
    for most in range(1, 70):
        rows = ChunkPlanner(object(), x, most, static=True).rows()
        assert rows <= most < 2 * rows or rows == 64
        assert rows & (rows - 1) == 0


def test_tensors_that_go_along_are_filled_up_too(compiles: list[tuple[int, ...]]) -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor, scale: Tensor, power: int) -> Tensor:
            return (x * scale).sum(1, keepdim=True) ** power

    fast = prepare(Scaled().eval(), compile=True)
    x, scale = torch.rand(3, 4), torch.rand(3, 1)
    answer = fast.ask((x,), (scale, 2), (True, False))
    assert compiles and torch.allclose(answer, Scaled()(x, scale, 2))


def test_compiling_for_real(tmp_path: Any) -> None:
    """With the compiler itself, where there is one."""
    import shutil

    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU, and there is none")
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)).eval()
    x = torch.randn(3, 6)
    eager = explain(model, x, target=1, n_steps=10)
    fast = explain(model, x, target=1, n_steps=10, compile=True)
    assert relative(fast.attributions, eager.attributions) < 1e-5  # type: ignore[arg-type]
    explain(model, x, target=1, n_steps=10, precision="bf16")
    low = explain(model, x, target=1, n_steps=10, compile=True, precision="bf16")
    assert relative(low.attributions, eager.attributions) < 8 * ROUNDOFF["bf16"]  # type: ignore[arg-type]


# ---------------------------------------------------------------- cost


def test_rows_that_fill_up_are_not_counted(compiles: list[tuple[int, ...]]) -> None:
    model = nn.Linear(4, 2).eval()
    explain(model, torch.rand(3, 4), target=0, n_steps=5)  # so that nothing is measured any more
    cost = Cost()
    IntegratedGradients(prepare(model, compile=True)).attribute(
        torch.rand(3, 4), target=0, n_steps=5, cost=cost
    )
    assert cost.gradients == 15
    assert {shape[0] for shape in compiles} == {16}


def test_repr_says_what_was_prepared() -> None:
    assert (
        repr(prepare(nn.Linear(2, 2), precision="bf16")) == "Prepared(Linear, bf16, compiled=False)"
    )
    assert isinstance(prepare(nn.Linear(2, 2), compile=True), Prepared)
    assert pyxai_fast.prepare is prepare
