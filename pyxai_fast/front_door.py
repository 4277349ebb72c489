"""The front door: explain a batch of inputs of a model."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .combinations import COMBINATIONS
from .errors import ArgumentError, check_bool, is_one_of, near
from .explanation import Explanation
from .gradients import GRADIENTS, Autograd, FreeMCG, Gradient
from .methods import METHODS
from .methods.arguments import input_tensors
from .methods.attribution import AttributionMethod
from .methods.loop import LoopOptions
from .methods.unfinished import Unfinished
from .models.input_numbers import numbers_of
from .models.preprocessing import Preprocessing
from .models.query_error import QueryError
from .models.target import Targets, check_target, normalise_target
from .runtime.cost import Cost
from .runtime.inference import outside_inference_mode
from .runtime.prepared import Prepared, prepare
from .tables import as_table_call, warn_of_zeros


@outside_inference_mode
def explain(
    model: Any,
    inputs: Any,
    *,
    method: str = "integrated_gradients",
    target: Any = None,
    baselines: Any = None,
    gradient: str | Gradient | None = None,
    standard_error: bool | None = None,
    preprocessing: Preprocessing | None = None,
    output: str | None = None,
    select_output: Callable[[Any], Tensor] | None = None,
    additional_forward_args: Any = None,
    class_names: list[str] | None = None,
    feature_names: Sequence[str] | None = None,
    numbers: Sequence[int] | None = None,
    precision: str = "fp32",
    compile: bool = False,
    progress: bool = False,
    **options: Any,
) -> Explanation:
    """Explains why `model` answers as it does to each of a batch of inputs.

    Args:
        model: a torch module (in eval mode), any differentiable function of the inputs, or with a
            gradient that only asks (LikelihoodRatio) any function that answers, such as a BlackBox.
            For tables also a fitted estimator: a classifier with predict_proba (of scikit-learn, a
            Pipeline, xgboost, lightgbm), or a regressor with predict.
        inputs: [B, ...], or a tuple of such tensors; pixels in [0, 1] when `preprocessing` is
            given, else what the model takes. A table may be a pandas frame of numbers, or for
            models that only answer an array, [B, D]; frames and estimators are asked in float64.
        method: one of pyxai_fast.METHODS, or a combination that has a name: "stick_breaking_ig",
            "blur_ig", "diffusion_ig" (path_model=... must be given) or "freemcg" (prior=... must).
        target: the class to explain, for all examples or one for each; None explains the class that
            the model predicts; Targets(3, 5) explains several, from the same evaluations.
        baselines: where paths start, in the units of the inputs, for methods that have a path; for
            expected_gradients the references, [R, ...]. What stands for what is hidden, in methods
            that hide segments. For tables 0 by default, and better the mean of training data: a
            Series such as train.mean(), [D] or [1, D]; or "mean", of the rows given.
        gradient: how slopes are found: one of pyxai_fast.GRADIENTS by name, or an instance with
            options of its own; "autograd" by default.
        standard_error: whether to give the standard errors of the attributions; by default where
            attributions are estimates.
        preprocessing: turns pixels into model inputs, inside the kernels.
        output: "logit", "prob", "logprob" or "margin"; by default what suits the method: "prob" for
            those that hide segments, "logit" for the others. Of estimators, whatever the method,
            "prob" of classifiers, and of regressors what they predict.
        select_output: picks the output tensor from what the model returns.
        additional_forward_args: further arguments of the model.
        class_names: kept with the explanation, for pictures; by default an estimator's own.
        feature_names: of the columns of tables, the same; by default those of the frame, or of the
            one that the estimator was fitted on.
        numbers: of the inputs, [B], by which random draws tell them apart: an input with the same
            number has the same map in every batch, as far as the model's own answers do not depend
            on the batch. 0, 1, ... by default.
        precision: of the network: "fp32", "bf16" or "fp16"; see pyxai_fast.prepare.
        compile: run the network by torch.compile; see pyxai_fast.prepare.
        progress: a progress bar.
        options: any other option of the method's constructor (memory_format=...) or its `attribute`
            (n_steps=..., internal_batch_size=...; feature_mask=torch.tensor([0, 1, 1, 1, 2]) hides
            the three columns of a one-hot code together).

    Returns:
        Explanation.

    Raises:
        TypeError, ValueError: naming the argument, what it must be and what it is.
        QueryError: a BlackBox could not answer; as an Unfinished it has an `explanation` of the
            inputs that were finished before.

    Example:
        >>> import torch, pyxai_fast
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)).eval()
        >>> explanation = pyxai_fast.explain(model, torch.rand(2, 3, 2, 2), n_steps=20)
        >>> explanation.attributions.shape, explanation.target.shape
        (torch.Size([2, 3, 2, 2]), torch.Size([2]))
    """
    model, inputs, baselines, feature_names, own_classes, own_output, is_table = as_table_call(
        model, inputs, baselines, feature_names
    )
    class_names = own_classes if class_names is None else class_names
    model = prepare(model, precision=precision, compile=compile)
    if isinstance(model, Prepared):
        precision, compile = model.precision, model.compiled
    tensors = input_tensors(inputs, model)
    if numbers is not None:
        numbers = numbers_of("explain", numbers, tensors[0].shape[0]).tolist()
    name = method
    if is_one_of(method, COMBINATIONS):
        combination = COMBINATIONS[method]
        if gradient is not None:
            options["gradient"] = gradient
        if numbers is not None and "numbers" in combination.own_options:
            options["numbers"] = numbers
        made, options = combination.split(method, options)
        gradient = options.pop("gradient", None)
        if combination.axis == "gradient":
            gradient = made
        else:
            options["path"] = made
        name = combination.method
    kind = _method_class(name)
    at_construction, at_call = _split_options(kind, method, options)
    defaults = inspect.signature(kind.__init__).parameters
    slope: dict[str, Any] = {}
    if "gradient" in defaults:
        slope["gradient"] = gradient_of(gradient)
    elif gradient is not None:
        raise ArgumentError(
            f"explain: gradient must not be given for {method}, which takes none, got {gradient!r}"
        )
    if output is None:
        output = own_output or defaults["output"].default
    explainer = kind(
        model,
        output=output,
        select_output=select_output,
        preprocessing=preprocessing,
        **slope,
        **at_construction,
    )
    if numbers is not None:
        explainer.numbers = numbers
    if standard_error is not None:
        check_bool("explain", "standard_error", standard_error)
    else:
        standard_error = explainer.is_estimate() and explainer.has_standard_error()
    takes_baselines = "baselines" in inspect.signature(kind.attribute).parameters
    if baselines is not None:
        if not takes_baselines:
            raise ArgumentError(
                f"explain: baselines must not be given for {method}, which has no path, got "
                f"{type(baselines).__name__}"
            )
        at_call["baselines"] = baselines
    # All that can be known without the model is checked before it is asked.
    explainer.starts(tensors, baselines)
    for one in target if isinstance(target, Targets) else (target,):
        normalise_target(one, tensors[0].shape[0])
    LoopOptions(max_rows=at_call.get("internal_batch_size"))
    explainer.check_call(**at_call)
    batch, gaps = tensors[0].shape[0], explainer.has_convergence_delta()
    explainer.check_budget(batch * explainer.steps_of(**at_call), batch + (batch if gaps else 0))
    if is_table and takes_baselines and baselines is None:
        warn_of_zeros(tensors[0], feature_names)
    cost = Cost()
    outputs = explainer.outputs(inputs, additional_forward_args, cost)
    target, chosen = _resolve_target(target, outputs)
    settings = {
        "method": method,
        **{name: repr(value) for name, value in slope.items()},
        "output": output,
        **({} if precision == "fp32" else {"precision": precision}),
        **({"compile": True} if compile else {}),
        **{k: _jsonable(v) for k, v in (*at_construction.items(), *at_call.items())},
    }

    def explanation(
        attributions: Any, errors: Any, delta: Tensor | None, examples: Any = slice(None)
    ) -> Explanation:
        kept = tuple(x[examples] for x in (inputs if isinstance(inputs, tuple) else (inputs,)))
        return Explanation(
            attributions=attributions,
            standard_error=errors,
            inputs=kept if isinstance(inputs, tuple) else kept[0],
            target=None if chosen is None else chosen.to(kept[0].device)[examples],
            outputs=outputs.to(kept[0].device)[examples],
            delta=delta,
            cost=cost,
            method=method,
            settings=settings,
            class_names=class_names,
            feature_names=feature_names,
            n_targets=len(target) if isinstance(target, Targets) else None,
        )

    try:
        attributions = explainer.attribute(
            inputs,
            target=target,
            additional_forward_args=additional_forward_args,
            show_progress=progress,
            return_standard_error=standard_error,
            cost=cost,
            **at_call,
        )
    except Unfinished as stopped:
        if len(stopped.finished):
            stopped.explanation = explanation(
                stopped.attributions, stopped.standard_errors, None, stopped.finished
            )
        raise
    errors = None
    if standard_error:
        attributions, errors = attributions
    if precision == "fp16":
        _warn_of_overflow(attributions)
    delta = None
    if explainer.has_convergence_delta() and explainer.multiplies_by_inputs:
        try:
            delta = explainer.compute_convergence_delta(
                attributions,
                baselines,
                inputs,
                target,
                additional_forward_args,
                outputs=outputs,
                internal_batch_size=at_call.get("internal_batch_size"),
                cost=cost,
            )
        except QueryError as error:
            # The explanation itself is there, and may have cost a lot.
            warnings.warn(f"the completeness gap is not known: {error}", stacklevel=2)
    return explanation(attributions, errors, delta)


def check_options(
    method: str,
    options: Mapping[str, Any],
    *,
    output: str | None = None,
    gradient: Gradient | None = None,
) -> None:
    """Refuses what `explain` would refuse of a method's options, as far as that can be told without
    a model and inputs.

    Args:
        method, options, output: of `explain`; of options that must be given some may be missing.
        gradient: for methods that take one.

    Raises:
        TypeError, ValueError: naming the option, what it must be and what it is.
    """
    name, chosen = method, dict(options)
    made: dict[str, Any] = {}
    combination = COMBINATIONS.get(method)
    if combination is not None:
        name = combination.method
        if combination.needed:
            chosen = {k: v for k, v in chosen.items() if k not in combination.own_options}
        else:
            found, chosen = combination.split(method, chosen)
            made[combination.axis] = found
    kind = _method_class(name)
    at_construction, at_call = _split_options(kind, method, chosen)
    if combination is not None and combination.needed:
        return
    if gradient is not None:
        made["gradient"] = gradient
    if output is not None:
        made["output"] = output
    kind(_unasked, **made, **at_construction).check_call(**at_call)


def _unasked(*_: Any) -> Any:
    raise AssertionError("options are checked without a model")


def _method_class(method: str) -> type[AttributionMethod]:
    if not is_one_of(method, METHODS):
        names = ", ".join((*METHODS, *COMBINATIONS))
        raise ArgumentError(
            f"explain: method must be one of {names}, got {method!r}"
            f"{near(str(method), (*METHODS, *COMBINATIONS))}"
        )
    return METHODS[method]


def gradient_of(gradient: str | Gradient | None) -> Gradient:
    """How slopes are found, from how that is named; None is autograd.

    Raises:
        ArgumentError: a name that is none, or of one that needs a prior.
    """
    if gradient is None:
        return Autograd()
    if not isinstance(gradient, str):
        return gradient
    if gradient not in GRADIENTS:
        raise ArgumentError(
            f"explain: gradient must be one of {', '.join(GRADIENTS)} or an instance, got "
            f"{gradient!r}"
        )
    kind = GRADIENTS[gradient]
    if kind is FreeMCG:
        raise ArgumentError(
            "explain: gradient must be an instance where it needs a prior, FreeMCG(prior), got "
            f"{gradient!r}"
        )
    return kind()  # type: ignore[call-arg]


def _split_options(
    kind: type[AttributionMethod], method: str, options: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Which options belong to the constructor, and which to the call."""
    reserved = {
        "self",
        "forward_func",
        "inputs",
        "target",
        "cost",
        "show_progress",
        "return_convergence_delta",
        "return_standard_error",
    }
    constructor = set(inspect.signature(kind.__init__).parameters) - reserved
    call = set(inspect.signature(kind.attribute).parameters) - reserved
    unknown = sorted(set(options) - constructor - call)
    if unknown:
        known = constructor | call
        if method in COMBINATIONS:
            combination = COMBINATIONS[method]
            known = known - {combination.axis} | set(combination.own_options)
        raise TypeError(
            f"explain: options of {method} must be among {', '.join(sorted(known))}, "
            f"got {', '.join(unknown)}{near(unknown[0], known)}"
        )
    return (
        {k: v for k, v in options.items() if k in constructor},
        {k: v for k, v in options.items() if k not in constructor},
    )


def _resolve_target(target: Any, outputs: Tensor) -> tuple[Any, Tensor | None]:
    """The target for `attribute`, and the class of each example as a tensor."""
    if target is None:
        if outputs.dim() == 1 or outputs.shape[1:].numel() <= 1:
            return None, None
        if outputs.dim() != 2:
            raise ArgumentError(
                "explain: target must be given for outputs that are not [B, n], got None for "
                f"{list(outputs.shape)}"
            )
        predicted = outputs.argmax(1)
        return predicted, predicted
    if isinstance(target, Targets):
        return target, torch.stack([_chosen(one, outputs) for one in target], 1)
    return target, _chosen(target, outputs)


def _chosen(target: Any, outputs: Tensor) -> Tensor:
    """The class of each example, [B]; [B, k] where it takes several indices."""
    checked = normalise_target(target, outputs.shape[0])
    check_target(checked, outputs)
    if isinstance(checked, Tensor):
        chosen = checked.squeeze(1) if checked.shape[1] == 1 else checked
    else:
        chosen = torch.tensor(checked).expand(outputs.shape[0], -1).squeeze(1)
    return chosen.to(outputs.device)


def _warn_of_overflow(attributions: Any) -> None:
    maps = attributions if isinstance(attributions, tuple) else (attributions,)
    if not all(bool(one.isfinite().all()) for one in maps):
        warnings.warn(
            "attributions are not finite: what exceeds 65504 is infinite in float16; "
            'precision="bf16" has the range of float32',
            stacklevel=3,
        )


def _jsonable(value: Any) -> Any:
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else f"tensor {list(value.shape)}"
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return repr(value)
