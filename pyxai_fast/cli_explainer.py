"""From what a command line says of a model and a method to what explains batches of pictures."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyxai_fast.cli_images import UsageError, read_batch
from pyxai_fast.combinations import COMBINATIONS
from pyxai_fast.errors import near
from pyxai_fast.front_door import check_options
from pyxai_fast.gradients import GRADIENTS, FreeMCG
from pyxai_fast.images import gaussian_blur
from pyxai_fast.methods import (
    METHODS,
    AttributionMethod,
    ExpectedGradients,
    PerturbationMethod,
)
from pyxai_fast.models.loaded import LoadedModel
from pyxai_fast.models.preprocessing import Preprocessing
from pyxai_fast.models.preprocessing_file import read_preprocessing
from pyxai_fast.models.spec import load_model
from pyxai_fast.path_models.sampling import check_guides
from pyxai_fast.path_models.spec import load_path_model
from pyxai_fast.picture_explainer import PictureExplainer
from pyxai_fast.priors import Prior
from pyxai_fast.priors.spec import load_prior, prior_options
from pyxai_fast.queries.hidden import KINDS

# The blur baseline: 10 pixels at 224, as in the literature on perturbations.
_BLUR_PER_PIXEL = 10.0 / 224.0


@dataclass(frozen=True, kw_only=True)
class MethodRequest:
    """A model, and how it is to be explained.

    A baseline of None is black for methods that have one; references are files of pictures.
    """

    model: str
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
    memory_format: str = "auto"
    precision: str = "fp32"
    compile: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


def check_request(request: MethodRequest) -> None:
    """Refuses what can be seen to be wrong before the model is loaded.

    Raises:
        UsageError: naming the option.
    """
    with_prior_of(request)
    prior_options(request.prior_options)
    _baseline(request)


def picture_explainer(request: MethodRequest, device: torch.device) -> PictureExplainer:
    """Loads the model, and whatever the method needs besides.

    Everything that can be wrong with the request itself is checked before the model is loaded.

    Raises:
        UsageError: an option that cannot be used.
        ModelSpecError: the model cannot be loaded.
    """
    of_model = explainer_of(request, device)
    return of_model(requested_model(request, device))


def requested_model(request: MethodRequest, device: torch.device) -> LoadedModel:
    """Loads the model.

    Raises:
        ModelSpecError: it cannot be loaded.
    """
    preprocessing = None
    if request.preprocessing is not None:
        preprocessing = read_preprocessing(request.preprocessing)
    return load_model(
        request.model, device, options=request.model_options, preprocessing=preprocessing
    )


def explainer_of(
    request: MethodRequest, device: torch.device
) -> Callable[[LoadedModel], PictureExplainer]:
    """Checks everything that can be wrong with the request itself, and returns what loads whatever
    the method needs besides the model.

    Raises:
        UsageError: an option that cannot be used.
    """
    with_prior = with_prior_of(request)
    prior_options(request.prior_options)
    baseline = _baseline(request)

    def of_model(model: LoadedModel) -> PictureExplainer:
        prior = None
        if request.prior is not None:
            size = model.preprocessing.size
            prior = load_prior(request.prior, device, size, request.prior_options)
        gradient, options = with_prior(prior)
        if request.path_model is not None:
            options["path_model"] = load_path_model(request.path_model, device)
        return PictureExplainer(
            model,
            device,
            request.method,
            target=request.target,
            baseline=baseline,
            gradient=gradient,
            output=request.output,
            precision=request.precision,
            compile=request.compile,
            **options,
        )

    return of_model


# The options that a flag sets, in the words of whatever takes it.
_FLAGS = {
    "samples": ("n_samples", "n_particles", "n_queries"),
    "sigma": ("sigma",),
    "seed": ("seed",),
}


def with_prior_of(request: MethodRequest) -> Callable[[Prior | None], tuple[Any, dict[str, Any]]]:
    """Checks the options of method and gradient, and returns what puts the prior among them.

    That returns the gradient, or None where the method has its own, and the method's options.
    """
    if request.gradient not in GRADIENTS:
        raise UsageError(
            f"--gradient: must be one of {', '.join(GRADIENTS)}, got {request.gradient!r}"
        )
    method, options = method_class(request.method), _method_options(request)
    combination = COMBINATIONS.get(request.method)
    takes_gradient = "gradient" in _parameters(method)
    own_gradient = combination is not None and combination.axis == "gradient"
    takes = takes_of(method)
    if combination is not None:
        takes |= {*combination.own_options}
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

    # Whatever is wrong with options is said before the model is loaded.
    made = None if asks_prior else with_prior(None)[0]
    check_options(request.method, options, output=request.output, gradient=made)
    return with_prior


def _check_prior(request: MethodRequest, asked_for: bool) -> None:
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


def _set_guides(request: MethodRequest, takes: set[str], options: dict[str, Any]) -> None:
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


def _set_flags(request: MethodRequest, takers: Sequence[tuple[dict[str, Any], set[str]]]) -> None:
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


def method_class(name: str) -> type[AttributionMethod]:
    if name in COMBINATIONS:
        name = COMBINATIONS[name].method
    if name not in METHODS:
        names = ", ".join(sorted((*METHODS, *COMBINATIONS)))
        raise UsageError(
            f"--method: must be one of {names}, got {name!r}{near(name, (*METHODS, *COMBINATIONS))}"
        )
    return METHODS[name]


def _method_options(request: MethodRequest) -> dict[str, Any]:
    options = dict(request.options)
    if request.steps is not None:
        if "n_steps" in options:
            raise UsageError("--steps and --set n_steps=... say the same thing; give one of them")
        if "n_steps" not in takes_of(method_class(request.method)):
            raise UsageError(f"--steps: the method {request.method} has no steps")
        options["n_steps"] = request.steps
    if request.memory_format != "auto":
        options["memory_format"] = request.memory_format
    return options


def takes_of(method: type) -> set[str]:
    """Options of a method, of its constructor and of the call."""
    return _parameters(method) | _parameters(getattr(method, "attribute", None))


def _parameters(function: Any) -> set[str]:
    return set() if function is None else set(inspect.signature(function).parameters)


def has_baseline(request: MethodRequest) -> bool:
    """Whether the method has one; UsageError where it has none and one was asked for."""
    combination = COMBINATIONS.get(request.method)
    own_start = combination is not None and not getattr(combination.kind, "takes_baselines", True)
    has = not own_start and "baselines" in takes_of(method_class(request.method))
    if not has and request.baseline is not None:
        raise UsageError(f"--baseline: the method {request.method} has no baseline")
    return has


def check_references(request: MethodRequest) -> None:
    """Refuses references where they say nothing, or what the baseline says."""
    if not request.references:
        return
    if not issubclass(method_class(request.method), ExpectedGradients):
        raise UsageError(f"--references: the method {request.method} takes none")
    if request.baseline is not None:
        raise UsageError("--references and --baseline say the same thing; give one of them")


def _baseline(
    request: MethodRequest,
) -> Callable[[Tensor, Preprocessing], Tensor | float | str | None]:
    """From pixels [B, C, H, W] and their preprocessing to baselines in pixels."""
    kind = method_class(request.method)
    check_references(request)
    if request.references:
        read = functools.cache(functools.partial(_references, tuple(request.references)))
        return lambda pixels, preprocessing: read(preprocessing).to(pixels.device)
    if not has_baseline(request):
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
