"""Whatever is asked of `explain` and the methods: a map of the right shape, or one clear error.

A call begins as one that fits a model, and then some of its arguments are replaced by what people
give by mistake. Whichever it is, inputs, the model and torch's own state stay as they were.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from method_cases import NAMES, options_of
from path_model_cases import path_model
from torch import Tensor, nn

from pyxai_fast import (
    METHODS,
    BlurPath,
    Counterfactual,
    DiffusionPaths,
    Explanation,
    FreeMCG,
    LikelihoodRatio,
    Preprocessing,
    StickBreaking,
    Targets,
    explain,
)
from pyxai_fast.combinations import COMBINATIONS
from pyxai_fast.errors import is_one_of
from pyxai_fast.methods import PerturbationMethod
from pyxai_fast.priors import GaussianPrior

# op: argument must ..., got ...; a reason may stand in the place of what was got.
HOUSE = re.compile(r"^[^\n]{1,80}?: .*\bmust\b", re.DOTALL)
CLASSES = 3
PATHS = path_model()


class Watched(nn.Module):
    """Three smooth scores of inputs of any shape, with everything that a call might disturb."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.9, -0.4, 0.2], dtype=dtype))
        self.frozen = nn.Parameter(torch.tensor([0.1, 0.2, -0.3], dtype=dtype), requires_grad=False)
        self.register_buffer("shift", torch.tensor([0.5, 0.0, -0.5], dtype=dtype))
        self.dropout = nn.Dropout(0.5)
        self.weight.grad = torch.full_like(self.weight, 7.0)
        self.register_forward_hook(lambda *_: None)
        self.eval()

    def forward(self, *inputs: Tensor) -> Tensor:
        flat = torch.cat([x.flatten(1) if x.dim() > 1 else x[:, None] for x in inputs], 1)
        place = torch.arange(flat.shape[1], dtype=flat.dtype, device=flat.device)
        waves = torch.sin(flat + 0.3 * place)
        sums = torch.stack([waves.sum(1), (waves * flat).sum(1), flat.tanh().sum(1)], 1)
        return self.dropout(sums * self.weight + self.frozen + self.shift)


class Single(Watched):
    """One score for each row."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return super().forward(*inputs)[:, 1]


def state_of(model: nn.Module) -> list[Any]:
    """What a call must leave as it was."""
    held: list[Any] = []
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        grad = None if tensor.grad is None else (id(tensor.grad), tensor.grad.tolist())
        held.append((name, id(tensor), tensor.tolist(), tensor.requires_grad, grad))
    for part in model.modules():
        held.append((part.training, *map(tuple, (part._forward_hooks, part._forward_pre_hooks))))
        held.append((len(part._backward_hooks), len(part._backward_pre_hooks)))
    return held


@contextmanager
def nothing_changes(model: nn.Module, *tensors: Any) -> Iterator[None]:
    """Around a call: the model, tensors and torch's own settings are the same after it."""
    before = state_of(model)
    held = [(t, t.clone(), t._version, t.requires_grad, t.grad) for t in tensors]
    chosen = (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads())
    random = torch.get_rng_state()
    yield
    assert state_of(model) == before
    for tensor, copy, version, requires_grad, grad in held:
        assert tensor._version == version, "an input was written into"
        assert torch.equal(tensor.isnan(), copy.isnan())
        assert torch.equal(tensor.nan_to_num(), copy.nan_to_num())
        assert tensor.requires_grad == requires_grad and tensor.grad is grad
    assert (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()) == chosen
    assert torch.equal(torch.get_rng_state(), random), "the caller's random numbers were used"


def refusal(call: Callable[[], Any]) -> Any:
    """What a call gives; None where it is refused in the words of the house."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return call()
        except (TypeError, ValueError) as error:
            assert HOUSE.match(str(error)), f"{type(error).__name__}: {error}"
            return None


# --- what is drawn --------------------------------------------------------------------------------

SHAPES = ((5,), (1, 8, 8), (2, 3, 4), (3, 4), (), (2, 0, 3), (2, 3, 2, 2))
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
OTHERS = (torch.int64, torch.uint8, torch.bool)

# What is given by mistake, or nearly so, in place of any argument.
MISTAKES: list[Any] = [
    None, "x", "", -1, 0, 1, 2, 3.5, float("nan"), float("inf"), 10**30, True, [], {}, (), [1, 2],
    (0, 1), (1.5,), ("a",), np.int64(2), np.zeros(3), torch.zeros(()), torch.zeros(3),
    torch.ones(2, 5), torch.tensor([0, 1]), torch.tensor(1), torch.zeros(2, dtype=torch.complex64),
    torch.zeros(3, device="meta"), torch.eye(3).to_sparse(), object(), len, LikelihoodRatio,
    Targets(0, 1), Targets(9), "segment_mean", "autograd", "likelihood_ratio", "tiles:2", "prob",
]  # fmt: skip
# Options that exist besides those that calls begin with; some methods have them.
OPTIONS: dict[str, list[Any]] = {
    "target": [None, 0, -1, 2, 99, [0, 1, 2], [0], torch.tensor([2, 0, 1]), (1,), Targets(0, 2)],
    "baselines": [None, 0.5, 0, torch.zeros(()), "segment_mean", "mean"],
    "output": ["logit", "prob", "logprob", "margin"],
    "gradient": [None, "autograd", LikelihoodRatio(6, 0.1), LikelihoodRatio(5, antithetic=False)],
    "memory_format": ["auto", "contiguous", "channels_last"],
    "internal_batch_size": [None, 1, 2, 100],
    "standard_error": [None, True, False],
    "precision": ["fp32", "bf16", "fp16"],
    "numbers": [None, [5, 6, 7], [0], range(3)],
    "seed": [0, 3, 2**63],
    "tolerance": [None, 0.1],
    "multiply_by_inputs": [True, False],
    "abs": [True, False],
    "sigma": [0.1, 0],
    "select": ["max", "absmax"],
    "step_size": [1e-3],
    "early_stop": [0.0, 0.1],
    "first_point": [0, 1],
    "fraction": [0.5],
    "max_dist": [0.1],
    "stratified": [True],
    "normalised": [True],
    "aggregate": ["mean", "median", "variance", "probability"],
    "per": ["feature", "pixel"],
    "rule": ["middle", "left"],
    "schedule": ["linear", "geometric"],
    "boundary": ["zero", "reflect"],
    "segments": ["tiles:2", "features", None],
    "feature_mask": [None, torch.tensor([0, 1, 1, 2, 0]), torch.zeros(8, 8, dtype=torch.int64)],
    "loss": [None, "release", (0.01, 0.0, 0.0)],
    "preprocessing": [None, Preprocessing((0.5,), (0.25,), channels=1)],
    "class_names": [None, ["a", "b", "c"]],
    "feature_names": [None, list("abcde")],
    "return_convergence_delta": [False],
    "nonsense": [1],
}


@dataclass
class Asked:
    """A call of `explain`, and what it should give if it gives anything."""

    model: nn.Module
    inputs: Any
    method: Any
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def tensors(self) -> list[Tensor]:
        """Those that can be looked at after the call."""
        held = [*(self.inputs if isinstance(self.inputs, tuple) else (self.inputs,))]
        held += list(self.options.values())
        return [t for t in held if isinstance(t, Tensor) and not (t.is_meta or t.is_sparse)]


def laid(draw: st.DrawFn, size: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    kind = draw(st.sampled_from(["plain", "strided", "transposed", "expanded", "grad"]))
    values = torch.randn(size, generator=generator)
    if kind == "strided":
        values = torch.randn(*size, 2, generator=generator)[..., 0]
    elif kind == "transposed" and len(size) > 2:
        values = torch.randn(*size[:1], *size[:0:-1], generator=generator)
        values = values.permute(0, *range(len(size) - 1, 0, -1))
    elif kind == "expanded":
        values = torch.randn(1, *size[1:], generator=generator).expand(size)
    values = (3 * values).to(dtype)
    return values.requires_grad_() if kind == "grad" and dtype.is_floating_point else values


@st.composite
def fitting(draw: st.DrawFn) -> Asked:
    """A call that most methods can answer."""
    method = draw(st.sampled_from(NAMES))
    shape = draw(st.sampled_from([(5,), (1, 8, 8), (2, 4, 6)]))
    if method in ("diffusion_ig", "blur_ig"):
        shape = (1, 8, 8)
    batch = draw(st.sampled_from([3, 3, 1]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    kind = draw(st.sampled_from([Watched, Watched, Single]))
    if method in ("dax", "student_gradient", "lime", "kernel_shap", "rise"):
        kind = Watched  # of which there are probabilities
    options = options_of(method, shape)
    if draw(st.booleans()) and kind is Watched:
        options["target"] = draw(st.sampled_from([0, 2, [0, 1, 2][:batch]]))
    return Asked(kind(dtype), laid(draw, (batch, *shape), dtype, 1), method, options)


PLACES = ("inputs", "several", "method", "option", "option", "mistake")


@st.composite
def mistaken(draw: st.DrawFn) -> Asked:
    """The same with a few arguments replaced, left out or added."""
    asked = draw(fitting())
    for _ in range(draw(st.integers(1, 3))):
        where = draw(
            st.sampled_from(["inputs", "several", "method", "option", "option", "mistake"])
        )
        if where == "inputs":
            shape, batch = draw(st.sampled_from(SHAPES)), draw(st.sampled_from([0, 1, 3]))
            asked.inputs = laid(draw, (batch, *shape), draw(st.sampled_from(FLOATS + OTHERS)), 2)
        elif where == "several":
            asked.inputs = draw(
                st.sampled_from(
                    [(torch.rand(3, 2), torch.rand(3, 1, 4, 4)), (), (torch.rand(3, 2), 1), []]
                )
            )
        elif where == "method":
            asked.method = draw(st.sampled_from([*NAMES, *NAMES, *MISTAKES]))
            if isinstance(asked.method, str) and asked.method in NAMES:
                asked.options = options_of(asked.method)
        elif where == "option":
            name = draw(st.sampled_from(sorted(OPTIONS)))
            asked.options[name] = draw(st.sampled_from(OPTIONS[name]))
        else:
            name = draw(st.sampled_from(sorted({*OPTIONS, *asked.options, "inputs"})))
            value = draw(st.sampled_from(MISTAKES))
            if name == "inputs":
                asked.inputs = value
            else:
                asked.options[name] = value
    return asked


def check_maps(asked: Asked, explanation: Explanation) -> None:
    """Attributions are shaped as the inputs, of the type that is promised, and finite."""
    target = asked.options.get("target")
    lead = (len(target),) if isinstance(target, Targets) else ()
    inputs = asked.inputs if isinstance(asked.inputs, tuple) else (asked.inputs,)
    maps = explanation.attributions
    maps = maps if isinstance(maps, tuple) else (maps,)
    assert isinstance(explanation.attributions, tuple) == isinstance(asked.inputs, tuple)
    method = COMBINATIONS[asked.method].method if asked.method in COMBINATIONS else asked.method
    perturbs = issubclass(METHODS[method], PerturbationMethod)
    for x, found in zip(inputs, maps, strict=True):
        assert found.shape == (x.shape[0], *lead, *x.shape[1:])
        assert not found.requires_grad
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        expected = torch.float32 if perturbs else wide
        if method in ("saliency", "input_x_gradient") and x.is_floating_point():
            expected = x.dtype
        assert found.dtype == expected, (found.dtype, expected)
        assert bool(found.isfinite().all()), f"{asked}"
    assert explanation.outputs.shape[0] == inputs[0].shape[0]
    if explanation.delta is not None:
        assert explanation.delta.shape == (inputs[0].shape[0], *lead)
        assert bool(explanation.delta.isfinite().all())


HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def mixes_halves(asked: Asked) -> bool:
    """Halves of one kind in a network of the other: a model may join them, which torch refuses."""
    half = HALVES.get(str(asked.options.get("precision")))
    given = asked.inputs if isinstance(asked.inputs, tuple) else (asked.inputs,)
    types = {x.dtype for x in given if isinstance(x, Tensor)}
    return half is not None and bool(types & (set(HALVES.values()) - {half}))


def numbers_that_fit(asked: Asked) -> bool:
    """Whether what comes out can be finite: halves overflow, and infinity is not ours."""
    return not any(
        isinstance(v, float) and not np.isfinite(v) for v in asked.options.values()
    ) and asked.options.get("precision") in (None, "fp32", "bf16")


# --- explain --------------------------------------------------------------------------------------


@given(asked=fitting())
@settings(max_examples=60)
def test_a_call_that_fits_gives_a_map_and_changes_nothing(asked: Asked) -> None:
    with nothing_changes(asked.model, *asked.tensors), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        explanation = explain(asked.model, asked.inputs, method=asked.method, **asked.options)
    check_maps(asked, explanation)


@given(asked=mistaken())
@settings(max_examples=400)
def test_a_mistake_is_told_in_words_or_makes_no_difference(asked: Asked) -> None:
    assume(not mixes_halves(asked))
    assume(asked.options.get("seed", 0) is not None)  # which is drawn from torch's own numbers
    with nothing_changes(asked.model, *asked.tensors):
        explanation = refusal(
            lambda: explain(asked.model, asked.inputs, method=asked.method, **asked.options)
        )
    if explanation is not None and numbers_that_fit(asked):
        check_maps(asked, explanation)


@pytest.mark.parametrize(
    ("method", "more"),
    [*((name, {}) for name in NAMES), ("stick_breaking_ig", {"aggregate": "median"})],
)
def test_no_inputs_have_maps_without_rows_or_are_refused(method: str, more: dict[str, Any]) -> None:
    x = torch.rand(0, 1, 8, 8)
    options = {**options_of(method), **more, "target": 0}
    explanation = refusal(lambda: explain(Watched(), x, method=method, **options))
    assert explanation is None or explanation.attributions.shape == x.shape


FLAGS = {
    "saliency": ("abs", "create_graph", "standard_error", "compile"),
    "integrated_gradients": ("multiply_by_inputs", "standard_error"),
    "guided_ig": ("multiply_by_inputs",),
    "geometrically_guided_ig": ("multiply_by_inputs", "normalised"),
    "expected_gradients": ("stratified",),
}


@pytest.mark.parametrize(("method", "flag"), [(m, f) for m, flags in FLAGS.items() for f in flags])
@pytest.mark.parametrize("value", [torch.zeros(3), np.zeros(3), "yes", 1])
def test_flags_are_true_or_false(method: str, flag: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf": {flag}\b.* must be True or False, got"):
        explain(Watched(), torch.rand(2, 5), method=method, **{flag: value})


def test_a_prior_of_other_inputs_is_refused() -> None:
    prior = GaussianPrior(torch.zeros(5), torch.eye(5))
    with pytest.raises(ValueError, match=r"inputs must have shape \['R', 5\], as the mean has it"):
        explain(Watched(), torch.rand(2, 1, 8, 8), method="freemcg", prior=prior, n_particles=8)


@given(value=st.sampled_from(MISTAKES), x=st.sampled_from([(3, 5), (0, 5)]))
@settings(max_examples=60)
def test_what_is_no_model_is_refused(value: Any, x: tuple[int, ...]) -> None:
    if value is len or value is LikelihoodRatio:  # which can be called
        return
    assert refusal(lambda: explain(value, torch.rand(x))) is None


# --- the classes ----------------------------------------------------------------------------------


def kept(function: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Options that a function has: of others Python says so itself."""
    names = set(inspect.signature(function).parameters) - {"self", "inputs", "forward_func"}
    return {name: value for name, value in options.items() if name in names}


@given(asked=mistaken())
@settings(max_examples=150)
def test_classes_refuse_in_words_too(asked: Asked) -> None:
    if not is_one_of(asked.method, METHODS):
        return
    kind = METHODS[asked.method]
    at_construction = kept(kind.__init__, asked.options)
    if isinstance(at_construction.get("gradient"), str):
        del at_construction["gradient"]  # names are for `explain`
    at_call = kept(kind.attribute, asked.options)
    for name in set(at_construction) & set(at_call):
        del at_construction[name]

    def ask() -> Any:
        return kind(asked.model, **at_construction).attribute(asked.inputs, **at_call)

    with nothing_changes(asked.model, *asked.tensors):
        found = refusal(ask)
    if isinstance(found, Tensor) and numbers_that_fit(asked):
        assert bool(found.isfinite().all())
        assert found.shape[0] == asked.inputs.shape[0]


CONSTRUCTORS: dict[Callable[..., Any], dict[str, list[Any]]] = {
    LikelihoodRatio: {
        "n_samples": [1, 7, 8], "sigma": [0.1, torch.ones(1, 5), (0.1, 0.2)],
        "distribution": ["gaussian", "orthogonal"], "antithetic": [True, False],
        "baseline": ["none", "clean", "mean"], "blocks": [None, 2], "mode": ["shared", "random"],
        "keep": [0.5], "allocation": ["neyman"], "clip": [None, (0, 1), (None, 1.0), (1, 0)],
        "reflect": [True], "tolerance": [0.1], "seed": [1],
    },
    StickBreaking: {
        "alpha": [1, 0.5], "n_paths": [3], "per": ["pixel"], "aggregate": ["median"],
        "rule": ["left"], "seed": [1],
    },
    BlurPath: {"max_sigma": [3], "schedule": ["variance"], "boundary": ["reflect"]},
    DiffusionPaths: {
        "model": [PATHS], "n_paths": [2], "guides": [None, {}, {"faithful": 1.0}], "omega": [0.5],
        "aggregate": ["mean"], "max_rows": [4],
    },
    FreeMCG: {
        "prior": [GaussianPrior(torch.zeros(2), torch.eye(2))], "n_particles": [8],
        "levels": [(1, 2), [3]], "target": ["logit"],
    },
    Preprocessing: {
        "mean": [(0.5,), (0.1, 0.2, 0.3)], "std": [(0.5,)], "size": [None, (4, 4)],
        "resize": [None, 8, (8, 8)], "interpolation": ["nearest"], "channels": [1, 3],
    },
}  # fmt: skip
REQUIRED = {DiffusionPaths: ("model",), FreeMCG: ("prior",)}


@pytest.mark.parametrize("kind", CONSTRUCTORS, ids=lambda kind: kind.__name__)
@given(data=st.data())
@settings(max_examples=80)
def test_what_cannot_be_made_is_refused_in_words(kind: Any, data: st.DataObject) -> None:
    choices = CONSTRUCTORS[kind]
    names = data.draw(st.sets(st.sampled_from(sorted(choices)), max_size=4))
    names |= set(REQUIRED.get(kind, ()))
    options = {name: data.draw(st.sampled_from(choices[name])) for name in sorted(names)}
    for name in data.draw(st.sets(st.sampled_from(sorted(choices)), max_size=1)):
        options[name] = data.draw(st.sampled_from(MISTAKES))
    if kind is DiffusionPaths and isinstance(options["model"], str):
        return  # the name of a folder, of which tests of files speak
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            repr(kind(**options))
        except (TypeError, ValueError) as error:
            if kind is not Preprocessing or isinstance(error, ValueError):
                words = HOUSE.match(str(error)) or kind is Preprocessing
                assert words, f"{type(error).__name__}: {error}"


# --- counterfactuals ------------------------------------------------------------------------------

COUNTERFACTUAL: dict[str, list[Any]] = {
    "n_particles": [2, 8], "n_steps": [2, 4], "strength": [0.4], "step_size": [None, 0.1],
    "step_proximity": [0.0, 0.1], "eta": [0, 1], "inflation": [1.1], "coupling": ["ensemble"],
    "target_score": ["logprob", "logit"], "seed": [3],
}  # fmt: skip
GENERATE: dict[str, list[Any]] = {
    "target": [1, 0, [0, 1, 2], torch.tensor([1, 1, 1])], "numbers": [None, [3, 4, 5]],
    "internal_batch_size": [None, 4], "keep_particles": [False], "keep_trajectory": [False],
    "class_names": [list("abc")],
}  # fmt: skip


@given(data=st.data())
@settings(max_examples=60)
def test_counterfactuals_are_refused_in_words_too(data: st.DataObject) -> None:
    model = Watched()
    prior = GaussianPrior(torch.zeros(5), torch.eye(5))
    made: dict[str, Any] = {"n_particles": 8, "n_steps": 2}
    asked: dict[str, Any] = {"target": 1}
    for options, choices in ((made, COUNTERFACTUAL), (asked, GENERATE)):
        for name in data.draw(st.sets(st.sampled_from(sorted(choices)), max_size=2)):
            options[name] = data.draw(st.sampled_from(choices[name] + MISTAKES))
    inputs: Any = torch.randn(3, 5)
    if data.draw(st.booleans()):
        inputs = data.draw(st.sampled_from([inputs[:0], inputs.double(), (inputs,), *MISTAKES]))
    usable = isinstance(inputs, Tensor) and not (inputs.is_meta or inputs.is_sparse)
    with nothing_changes(model, *([inputs] if usable else [])):
        found = refusal(lambda: Counterfactual(model, prior, **made).generate(inputs, **asked))
    if found is not None:
        assert found.best.shape == inputs.shape
        assert bool(found.best.isfinite().all())


# --- the tests themselves -------------------------------------------------------------------------


def test_a_call_that_changes_something_is_found_out() -> None:
    model, x = Watched(), torch.rand(2, 5)

    def write() -> None:
        x[0] = 0

    changes: list[Callable[[], Any]] = [
        lambda: model.train(),
        lambda: model.weight.requires_grad_(False),
        lambda: model.weight.grad.zero_(),
        lambda: model.register_forward_hook(lambda *_: None),
        lambda: model.shift.add_(1),
        lambda: torch.rand(1),
        write,
    ]
    for change in changes:
        model = Watched()
        with pytest.raises(AssertionError), nothing_changes(model, x):
            change()


def test_an_error_in_other_words_is_found_out() -> None:
    def vague() -> None:
        raise ValueError("bad value")

    with pytest.raises(AssertionError, match="bad value"):
        refusal(vague)
    with pytest.raises(IndexError):
        refusal(lambda: [][0])
