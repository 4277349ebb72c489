"""``pyxai-fast explain``: image files in, a picture and an attribution file per image out."""

from __future__ import annotations

import functools
import inspect
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyxai_fast import plots
from pyxai_fast.cli_images import (
    UsageError,
    asked,
    check_free,
    check_packages,
    choose_device,
    output_names,
    print_table,
    read_batch,
    save_arrays,
    shorten,
    surroundings,
)
from pyxai_fast.combinations import COMBINATIONS
from pyxai_fast.errors import near
from pyxai_fast.explanation import Explanation
from pyxai_fast.front_door import explain
from pyxai_fast.gradients import GRADIENTS, FreeMCG
from pyxai_fast.images import gaussian_blur
from pyxai_fast.methods import (
    METHODS,
    AttributionMethod,
    ExpectedGradients,
    PerturbationMethod,
)
from pyxai_fast.methods.unfinished import Unfinished
from pyxai_fast.models.black_box import BlackBox
from pyxai_fast.models.from_url import shown_spec
from pyxai_fast.models.preprocessing import Preprocessing
from pyxai_fast.models.preprocessing_file import read_preprocessing
from pyxai_fast.models.query_error import QueryError
from pyxai_fast.models.spec import LoadedModel, load_model
from pyxai_fast.path_models.sampling import check_guides
from pyxai_fast.path_models.spec import load_path_model
from pyxai_fast.priors import Prior
from pyxai_fast.priors.spec import load_prior, prior_options
from pyxai_fast.queries.hidden import KINDS

# The blur baseline: 10 pixels at 224, as in the literature on perturbations.
_BLUR_PER_PIXEL = 10.0 / 224.0


@dataclass(frozen=True)
class Request:
    """What was asked for; the fields are the options of the command line.

    A baseline of None is black for methods that have one; references are files of pictures.
    """

    images: Sequence[str]
    model: str
    out: str
    model_options: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: str | None = None
    method: str = "integrated_gradients"
    gradient: str = "autograd"
    gradient_options: Mapping[str, Any] = field(default_factory=dict)
    prior: str | None = None
    prior_options: Mapping[str, Any] = field(default_factory=dict)
    path_model: str | None = None
    guides: Mapping[str, float] = field(default_factory=dict)
    samples: int | None = None
    sigma: float | None = None
    seed: int | None = None
    target: int | None = None
    steps: int | None = None
    baseline: str | None = None
    references: Sequence[str] = ()
    output: str | None = None
    device: str = "auto"
    batch_size: int = 16
    memory_format: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    file_format: str = "safetensors"
    progress: bool = True
    overwrite: bool = False


@dataclass(frozen=True)
class _Result:
    """One explained image, as it is written to run.json."""

    file: str
    target: int | None
    class_name: str | None
    probability: float | None
    delta: float | None
    error: float | None
    picture: str
    attributions: str


def explain_files(request: Request) -> int:
    """Explain every readable image; returns 0, or 1 if an image could not be explained.

    Everything that can be wrong with the request itself is checked before the model is loaded.

    Raises:
        UsageError: An option that cannot be used, or results that would be overwritten.
        ModelSpecError: The model cannot be loaded.
        QueryError: A model that only answers could not; results so far are kept.
        MissingDependency: Pillow, matplotlib or safetensors is not installed.
    """
    check_packages("explain", request.file_format)
    with_prior = _with_prior(request)
    prior_options(request.prior_options)
    baseline = _baseline(request)
    device = choose_device(request.device)
    out = Path(request.out)
    names = output_names(request.images, out)
    check_free(out, names, (".png", f".{request.file_format}"), request.overwrite)

    preprocessing = None
    if request.preprocessing is not None:
        preprocessing = read_preprocessing(request.preprocessing)
    model = load_model(
        request.model, device, options=request.model_options, preprocessing=preprocessing
    )
    prior = None
    if request.prior is not None:
        size = model.preprocessing.size
        prior = load_prior(request.prior, device, size, request.prior_options)
    gradient, options = with_prior(prior)
    numbered = _takes_numbers(request)
    if request.path_model is not None:
        options["path_model"] = load_path_model(request.path_model, device)
    started = time.perf_counter()
    results: list[_Result] = []
    failures: list[tuple[str, str]] = []
    costs: list[dict[str, Any]] = []
    used: dict[str, Any] = {}
    stopped: QueryError | None = None
    try:
        for first in range(0, len(request.images), request.batch_size):
            batch = request.images[first : first + request.batch_size]
            batch_names = names[first : first + request.batch_size]
            pixels, kept, unread = read_batch(batch, model.preprocessing)
            for index, reason in unread:
                failures.append((batch[index], reason))
                print(f"pyxai-fast: {batch[index]}: {reason}", file=sys.stderr)
            if not kept:
                continue
            pixels = pixels.to(device)
            explanation: Explanation | None = None
            if numbered:
                # So that a picture's map does not depend on what is explained beside it.
                options["numbers"] = [first + index for index in kept]
            try:
                explanation = explain(
                    model.module,
                    pixels,
                    method=request.method,
                    gradient=gradient,
                    target=request.target,
                    baselines=baseline(pixels, model.preprocessing),
                    preprocessing=model.preprocessing,
                    output=request.output,
                    class_names=model.class_names,
                    progress=request.progress,
                    **options,
                )
                done = kept
            except QueryError as error:
                # What was finished before is kept; the rest would fail in the same way.
                stopped, done = error, []
                if isinstance(error, Unfinished) and error.explanation is not None:
                    explanation = error.explanation
                    done = [kept[i] for i in error.finished.tolist()]
            if explanation is not None:
                costs.append(explanation.cost.as_dict())
                used = explanation.settings
                out.mkdir(parents=True, exist_ok=True)
            for row, index in enumerate(done):
                assert explanation is not None
                results.append(
                    _write(explanation, row, batch[index], out, batch_names[index], request)
                )
            if stopped is not None:
                left = [batch[index] for index in kept if index not in done]
                left += request.images[first + request.batch_size :]
                failures += [(image, f"not finished: {stopped.reason}") for image in left]
                print(f"pyxai-fast: error: {stopped}", file=sys.stderr)
                break
    finally:
        # An interrupted run still says what it did.
        if results or failures:
            out.mkdir(parents=True, exist_ok=True)
            record = _record(request, model, device, results, failures, costs, used, started)
            (out / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if isinstance(model.module, BlackBox):
            model.module.close()
    _print_summary(results, failures, out)
    return 1 if failures else 0


# ---------------------------------------------------------------- before the model is loaded


# The options that a flag sets, in the words of whatever takes it.
_FLAGS = {
    "samples": ("n_samples", "n_particles", "n_queries"),
    "sigma": ("sigma",),
    "seed": ("seed",),
}


def _with_prior(request: Request) -> Callable[[Prior | None], tuple[Any, dict[str, Any]]]:
    """Checks the options of method and gradient, and returns what puts the prior among them.

    That returns the gradient, or None where the method has its own, and the method's options.
    """
    if request.gradient not in GRADIENTS:
        raise UsageError(
            f"--gradient: must be one of {', '.join(GRADIENTS)}, got {request.gradient!r}"
        )
    method, options = _method_class(request.method), _method_options(request)
    combination = COMBINATIONS.get(request.method)
    takes_gradient = "gradient" in _parameters(method)
    own_gradient = combination is not None and combination.axis == "gradient"
    takes = _takes(method) if combination is None else {*combination.own_options, *_takes(method)}
    if own_gradient and (request.gradient != "autograd" or request.gradient_options):
        raise UsageError(f"--gradient: the method {request.method} has its own")
    if not takes_gradient and (request.gradient != "autograd" or request.gradient_options):
        raise UsageError(f"--gradient: the method {request.method} takes none")
    kind = GRADIENTS[request.gradient]
    of_gradient, known = dict(request.gradient_options), _parameters(kind)
    if unknown := sorted(set(of_gradient) - known):
        raise UsageError(
            f"--gradient-set: options of {request.gradient} must be among "
            f"{', '.join(sorted(known)) or 'none'}, got {', '.join(unknown)}"
        )
    takers = [(options, takes)] if own_gradient else [(of_gradient, known), (options, takes)]
    of_method = combination is not None and "prior" in combination.needed
    asks_prior = of_method or kind is FreeMCG
    _check_prior(request, asks_prior)
    _set_guides(request, takes, options)
    _set_flags(request, takers)

    def with_prior(prior: Prior | None) -> tuple[Any, dict[str, Any]]:
        given: dict[str, Any] = {"prior": prior} if asks_prior else {}
        if own_gradient or not takes_gradient:
            return None, options | given
        return kind(**(of_gradient | given)), options

    if not asks_prior:
        with_prior(None)  # whatever is wrong with its options is said before the model is loaded
    return with_prior


def _check_prior(request: Request, asked_for: bool) -> None:
    if asked_for and request.prior is None:
        what = request.method if request.method in COMBINATIONS else request.gradient
        raise UsageError(
            f"--prior: must be given for {what}: demo, or the folder or hub name of a diffusers "
            "pipeline (pyxai-fast train-prior makes one)"
        )
    if not asked_for and (request.prior is not None or request.prior_options):
        raise UsageError(
            f"--prior: neither the method {request.method} nor the gradient {request.gradient} "
            "takes one"
        )


def _set_guides(request: Request, takes: set[str], options: dict[str, Any]) -> None:
    """Checks --path-model, and puts --guide into the method's options."""
    asked_for = "path_model" in takes
    if asked_for and request.path_model is None:
        raise UsageError(
            f"--path-model: must be given for {request.method}: demo, or the folder of a path "
            "model (pyxai-fast train-paths makes one)"
        )
    if not asked_for and (request.path_model is not None or request.guides):
        flag = "--path-model" if request.path_model is not None else "--guide"
        raise UsageError(f"{flag}: the method {request.method} takes none")
    if request.guides:
        if "guides" in options:
            raise UsageError("--guide and --set guides=... say the same thing; give one of them")
        check_guides("--guide", request.guides)
        options["guides"] = dict(request.guides)


def _set_flags(request: Request, takers: Sequence[tuple[dict[str, Any], set[str]]]) -> None:
    """Puts --samples, --sigma and --seed into the options of what takes them."""
    for flag, names in _FLAGS.items():
        value = getattr(request, flag)
        if value is None:
            continue
        found = [(to, name) for to, known in takers for name in names if name in known]
        if not found:
            raise UsageError(
                f"--{flag}: neither the method {request.method} nor the gradient "
                f"{request.gradient} takes it"
            )
        # One seed for everything; samples and their size belong to the gradient first.
        for to, name in found if flag == "seed" else found[:1]:
            if name in to:
                raise UsageError(f"--{flag} and {name}=... say the same thing; give one of them")
            to[name] = value


def _references(files: Sequence[str], preprocessing: Preprocessing) -> Tensor:
    pixels, _, unread = read_batch(files, preprocessing)
    for position, reason in unread:
        raise UsageError(f"--references: {files[position]}: {reason}")
    return pixels


def _method_class(name: str) -> type[AttributionMethod]:
    if name in COMBINATIONS:
        name = COMBINATIONS[name].method
    if name not in METHODS:
        names = ", ".join(sorted((*METHODS, *COMBINATIONS)))
        raise UsageError(
            f"--method: must be one of {names}, got {name!r}{near(name, (*METHODS, *COMBINATIONS))}"
        )
    return METHODS[name]


def _method_options(request: Request) -> dict[str, Any]:
    options = dict(request.options)
    if request.steps is not None:
        if "n_steps" in options:
            raise UsageError("--steps and --set n_steps=... say the same thing; give one of them")
        if "n_steps" not in _takes(_method_class(request.method)):
            raise UsageError(f"--steps: the method {request.method} has no steps")
        options["n_steps"] = request.steps
    if request.memory_format != "auto":
        options["memory_format"] = request.memory_format
    return options


def _takes_numbers(request: Request) -> bool:
    """Whether the method's paths are random, and no numbers of the pictures were given."""
    combination = COMBINATIONS.get(request.method)
    return (
        combination is not None
        and "numbers" in combination.own_options
        and "numbers" not in request.options
    )


def _takes(method: type) -> set[str]:
    """Options of a method, of its constructor and of the call."""
    return _parameters(method) | _parameters(getattr(method, "attribute", None))


def _parameters(function: Any) -> set[str]:
    return set() if function is None else set(inspect.signature(function).parameters)


def _baseline(request: Request) -> Callable[[Tensor, Preprocessing], Tensor | float | str | None]:
    """From pixels [B, C, H, W] and their preprocessing to baselines in pixels."""
    kind = _method_class(request.method)
    if request.references:
        if not issubclass(kind, ExpectedGradients):
            raise UsageError(f"--references: the method {request.method} takes none")
        if request.baseline is not None:
            raise UsageError("--references and --baseline say the same thing; give one of them")
        read = functools.cache(functools.partial(_references, tuple(request.references)))
        return lambda pixels, preprocessing: read(preprocessing).to(pixels.device)
    combination = COMBINATIONS.get(request.method)
    own_start = combination is not None and not getattr(combination.kind, "takes_baselines", True)
    if own_start or "baselines" not in _takes(kind):
        if request.baseline is not None:
            raise UsageError(f"--baseline: the method {request.method} has no baseline")
        return lambda pixels, _: None
    hides = issubclass(kind, PerturbationMethod)
    if hides and request.baseline in (None, *KINDS):
        return lambda pixels, _: request.baseline  # None: what suits the method
    name = request.baseline or "black"
    if name == "blur":
        return lambda pixels, _: gaussian_blur(pixels, _BLUR_PER_PIXEL * max(pixels.shape[-2:]))
    if name == "mean":
        return _mean_colour
    levels = {"black": 0.0, "white": 1.0}
    besides = f", {', '.join(KINDS)}" if hides else ""
    try:
        level = levels[name] if name in levels else float(name)
    except ValueError:
        level = math.nan
    if not 0.0 <= level <= 1.0:
        raise UsageError(
            f"--baseline: must be black, white, mean, blur{besides} or a grey level from 0 to 1, "
            f"got {name!r}"
        )
    return lambda pixels, _: level


def _mean_colour(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """[1, C, H, W]: one baseline for the whole batch is asked only once."""
    colour = torch.tensor(preprocessing.mean, dtype=pixels.dtype, device=pixels.device)
    return colour.clamp(0.0, 1.0).view(1, -1, 1, 1).expand(1, *pixels.shape[1:])


# ---------------------------------------------------------------- per batch and per image


def _write(
    explanation: Explanation,
    row: int,
    image: str,
    out: Path,
    name: str,
    request: Request,
) -> _Result:
    maps, inputs = explanation.attributions, explanation.inputs
    assert isinstance(maps, Tensor) and isinstance(inputs, Tensor)  # one tensor went in
    attributions = maps[row].detach().to("cpu", torch.float32).contiguous()
    target = None if explanation.target is None else int(explanation.target[row])
    class_name, probability = plots.class_and_probability(explanation, row)
    delta = None if explanation.delta is None else float(explanation.delta[row])
    errors = explanation.standard_error
    assert errors is None or isinstance(errors, Tensor)
    tensors = {"attributions": attributions}
    if errors is not None:
        tensors["standard_error"] = errors[row].detach().to("cpu", torch.float32).contiguous()
    result = _Result(
        file=image,
        target=target,
        class_name=class_name,
        probability=probability,
        delta=delta if delta is not None and math.isfinite(delta) else None,
        error=_relative_error(tensors),
        picture=f"{name}.png",
        attributions=f"{name}.{request.file_format}",
    )
    figure = plots.overlay_figure(
        inputs[row],
        attributions,
        class_name=class_name,
        probability=probability,
        method=request.method,
        note=None if result.error is None else f"standard error {100 * result.error:.0f}%",
    )
    plots.save_figure(figure, out / result.picture)
    text = {"method": request.method, "target": str(target), "file": image}
    save_arrays(tensors, out / result.attributions, text)
    return result


def _relative_error(tensors: Mapping[str, Tensor]) -> float | None:
    """Root mean square of the standard errors, relative to that of the attributions themselves.

    None where the map shows nothing but its noise.
    """
    if "standard_error" not in tensors:
        return None
    errors = tensors["standard_error"].double()
    known = errors.isfinite()
    noise = float(errors[known].square().mean())
    # What is seen is both: the squares of the attributions and of their errors.
    size = float(tensors["attributions"].double()[known].square().mean()) - noise
    return math.sqrt(noise / size) if size > 0 else None


# ---------------------------------------------------------------- afterwards


def _record(
    request: Request,
    model: LoadedModel,
    device: torch.device,
    results: Sequence[_Result],
    failures: Sequence[tuple[str, str]],
    costs: Sequence[Mapping[str, Any]],
    used: Mapping[str, Any],
    started: float,
) -> dict[str, Any]:
    totals = {
        key: sum(cost.get(key) or 0 for cost in costs)
        for key in ("gradients", "queries", "seconds")
    }
    return {
        "settings": {
            **asdict(request),
            "model": shown_spec(request.model),
            "images": list(request.images),
            "references": list(request.references),
        },
        "explained": dict(used),
        **surroundings(model, device),
        "cost": {
            **totals,
            "wall_seconds": round(time.perf_counter() - started, 3),
            **asked(model),
            "batches": [dict(cost) for cost in costs],
        },
        "results": [asdict(result) for result in results],
        "failures": [{"file": file, "reason": reason} for file, reason in failures],
    }


def _print_summary(
    results: Sequence[_Result], failures: Sequence[tuple[str, str]], out: Path
) -> None:
    rows = [("image", "class", "p", "completeness gap", "standard error", "files")]
    for result in results:
        rows.append(
            (
                shorten(Path(result.file).name, 40),
                shorten(result.class_name or "-", 32),
                "-" if result.probability is None else f"{100 * result.probability:.1f}%",
                "-" if result.delta is None else f"{result.delta:+.2e}",
                "-" if result.error is None else f"{100 * result.error:.0f}%",
                f"{result.picture}, {result.attributions}",
            )
        )
    if results:
        print_table(rows, numbers=(2, 3, 4))
    failed = f", {len(failures)} failed" if failures else ""
    print(f"{len(results)} explained{failed}; settings and results in {out / 'run.json'}")
