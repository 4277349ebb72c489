"""Comparing methods on tensors: `evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..jobs.job import surroundings
from ..jobs.progress import job_progress
from ..metrics.asked import check_count
from ..metrics.maps import check_tensor
from ..models.preprocessing import Preprocessing
from ..models.score import model_device
from ..runtime.inference import outside_inference_mode
from ..runtime.prepared import prepare
from .comparison import Comparison
from .controls import CONTROLS
from .entries import Entry, Spent
from .explainers import Explainer, Methods, by_function, by_name, control, listed
from .gallery import Gallery, spread
from .loop import ORDERS, Comparing, Pictures
from .metrics import DEFAULT, check_pictures, chosen
from .rows_file import RowsFile


@outside_inference_mode
def evaluate(
    model: Any,
    inputs: Tensor,
    methods: Methods,
    metrics: str | Sequence[str] = DEFAULT,
    target: Any = None,
    masks: Tensor | None = None,
    preprocessing: Preprocessing | None = None,
    seed: int = 0,
    budget: int | None = None,
    signed: bool | str = True,
    *,
    output: str | None = None,
    select_output: Callable[[Any], Tensor] | None = None,
    class_names: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    batch_size: int = 16,
    precision: str = "fp32",
    compile: bool = False,
    progress: bool = False,
) -> Comparison:
    """Compares methods on the same pictures: how good their maps are, and what they cost.

    All methods explain the same class of each picture, every metric has one baseline for all of
    them, and maps that know nothing of the model, random ones and a Gaussian at the centre, are
    judged beside them. Means come with percentile bootstrap intervals over pictures, differences of
    methods are paired.

    Args:
        model: a torch module (in eval mode) that returns [B, n], or a BlackBox.
        inputs: pictures [B, C, H, W], floating-point; pixels in [0, 1] where `preprocessing` is
            given, else what the model takes.
        methods: names of methods, or functions; or a dict of labels to options (those of `explain`,
            with "method" where the label is not its name) or functions. A function is called as
            fn(model, inputs, target), the target int64 [B], and returns attributions shaped as the
            inputs, or without channels; with a preprocessing, the model that it gets takes pixels.
        metrics: names in METRICS.
        target: a class, or [B] of them; None explains what the model predicts.
        masks: bool [B, H, W] or [B, 1, H, W], where something is known to matter; metrics of
            localisation are added. Pictures whose mask is empty are left out of these.
        preprocessing: turns pixels into model inputs.
        seed: of methods that draw at random, of random maps and of metrics.
        budget: evaluations of the model for each map, of all methods: gradients of those that take
            gradients, else queries. What cannot be scaled is told in the result. Functions are
            called as they are.
        signed: True ranks pixels by what speaks for the class, False by size, "both" judges both.
        output: which score is explained; see `explain`. Metrics watch the probability; but
            infidelity this score, or the logit where none is given, for all methods.
        select_output: picks the output tensor from what the model returns.
        class_names, names: of the outputs and of the pictures, where they are known.
        batch_size: pictures that are explained together, at most.
        precision, compile: of the network; see `prepare`.
        progress: a progress bar.

    Returns:
        Comparison: its repr is a table; `.save(folder)` writes all of it.

    Raises:
        TypeError, ValueError: naming the argument, what it must be and what it is.
        ImportError: a metric needs a package that is not installed.
        QueryError: a BlackBox could not answer.

    Example:
        >>> from pyxai_fast.demo.data import load_digits
        >>> from pyxai_fast.demo.model import load_demo_model
        >>> from pyxai_fast.evaluation import evaluate
        >>> digits = load_digits("test")[0][:8]
        >>> methods = {"integrated_gradients": {"n_steps": 10}, "saliency": {}}
        >>> found = evaluate(load_demo_model(), digits, methods, metrics=("deletion",))
        >>> found.result("integrated_gradients", "deletion").minus["random"].better
        True
    """
    _check(model, inputs, masks, batch_size)
    orders = orders_of(signed)
    metrics = chosen(metrics, masks is not None)
    check_pictures(metrics, inputs)
    targets, called = _targets(target, len(inputs)), _names(names, len(inputs))
    classes = _class_names(class_names)
    if budget is not None:
        check_count("evaluate", "budget", budget)
    asked = prepare(model, precision=precision, compile=compile)
    device = model_device(model) or inputs.device
    common: dict[str, Any] = {
        "preprocessing": preprocessing,
        "select_output": select_output,
        "output": output,
    }
    explainers = [
        by_function(asked, label, method, preprocessing)
        if callable(method)
        else by_name(asked, label, *method, budget=budget, seed=seed, **common)
        for label, method in listed(methods).items()
    ]
    explainers += [control(label, seed) for label in CONTROLS]
    bar = job_progress(progress, len(inputs) * len(explainers))
    at_work = Comparing(
        asked,
        explainers,
        metrics,
        orders,
        RowsFile(None, Entry.COLUMNS),
        RowsFile(None, Spent.COLUMNS),
        Gallery(spread(len(inputs))),
        exact=model,
        target=targets,
        preprocessing=preprocessing,
        select_output=select_output,
        output=output,
        class_names=classes,
        seed=seed,
        progress=bar,
    )
    try:
        for first in range(0, len(inputs), batch_size):
            some = slice(first, first + batch_size)
            pixels = inputs[some].detach().to(device)
            numbers = range(first, first + len(pixels))
            inside = None if masks is None else _masks(masks[some], pixels)
            at_work.compare(Pictures(numbers, called[some], pixels, masks=inside))
    finally:
        bar.close()
    about = about_of(
        type(model).__name__, explainers, orders, len(inputs), target, seed, budget, device
    )
    return comparison_of(at_work, {**about, "output": output, "precision": precision})


def orders_of(signed: bool | str) -> tuple[str, ...]:
    """Of ORDERS."""
    if isinstance(signed, str) and signed == "both":
        return ORDERS
    if not isinstance(signed, bool):
        raise ArgumentError(f"evaluate: signed must be True, False or 'both', got {signed!r}")
    return ORDERS[:1] if signed else ORDERS[1:]


def about_of(
    model: str,
    explainers: Sequence[Explainer],
    orders: Sequence[str],
    pictures: int,
    target: Any,
    seed: int,
    budget: int | None,
    device: torch.device,
) -> dict[str, Any]:
    """What a comparison was of, fit for JSON.

    Args:
        target: the class that is explained, or one for each picture; None is the predicted one.
    """
    if isinstance(target, Tensor):
        target = target.tolist()
    return {
        "model": model,
        "pictures": pictures,
        "methods": {each.label: each.settings for each in explainers},
        "notes": {each.label: each.note for each in explainers if each.note},
        "orders": list(orders),
        "target": target,
        "seed": seed,
        "budget": budget,
        **surroundings(device),
    }


def comparison_of(at_work: Comparing, about: dict[str, Any]) -> Comparison:
    """What came of it."""
    return Comparison(
        [Entry.of(row) for row in at_work.entries.rows],
        [Spent.of(row) for row in at_work.spent.rows],
        [each.label for each in at_work.explainers],
        about,
        at_work.gallery,
    )


def _check(model: Any, inputs: Any, masks: Any, batch_size: Any) -> None:
    if not callable(model):
        raise TypeError(f"evaluate: model must be callable, got {type(model).__name__}")
    check_tensor("evaluate", "inputs", inputs)
    if inputs.dim() != 4 or not len(inputs) or not inputs.is_floating_point():
        raise ArgumentError(
            "evaluate: inputs must be pictures, floating-point [B, C, H, W] with B >= 1, got "
            f"{inputs.dtype} {list(inputs.shape)}"
        )
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ArgumentError(f"evaluate: batch_size must be an integer >= 1, got {batch_size!r}")
    if masks is None:
        return
    if not isinstance(masks, Tensor) or masks.dtype != torch.bool:
        got = masks.dtype if isinstance(masks, Tensor) else type(masks).__name__
        raise TypeError(f"evaluate: masks must be a tensor of bool, got {got}")
    batch, _, height, width = inputs.shape
    if list(masks.shape) not in ([batch, height, width], [batch, 1, height, width]):
        raise ArgumentError(
            f"evaluate: masks must be {[batch, height, width]} or {[batch, 1, height, width]}, got "
            f"{list(masks.shape)}"
        )


def _targets(target: Any, count: int) -> Any:
    if target is None or isinstance(target, int):
        return target
    try:
        given = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"evaluate: target must be a class, or one for each of {count} inputs, got {target!r}"
        ) from error
    check_tensor("evaluate", "target", given)
    if given.dim() and len(given) != count:
        raise ArgumentError(
            f"evaluate: target must be a class, or one for each of {count} inputs, got "
            f"{list(given.shape)}"
        )
    return given


def _names(names: Any, count: int) -> list[str]:
    if names is None:
        return [str(number) for number in range(count)]
    if not isinstance(names, Iterable) or isinstance(names, Tensor):
        raise TypeError(
            f"evaluate: names must be one for each of {count} inputs, got {type(names).__name__}"
        )
    called = [str(name) for name in names]
    if len(called) != count:
        raise ArgumentError(
            f"evaluate: names must be one for each of {count} inputs, got {len(called)}"
        )
    return called


def _class_names(names: Any) -> list[str] | None:
    if names is None:
        return None
    if not isinstance(names, Iterable) or isinstance(names, (str, Tensor)):
        raise TypeError(
            "evaluate: class_names must be the names of the model's outputs, got "
            f"{type(names).__name__}"
        )
    return [str(name) for name in names]


def _masks(masks: Tensor, pixels: Tensor) -> Tensor:
    return masks.reshape(len(pixels), 1, *pixels.shape[2:]).to(pixels.device)
