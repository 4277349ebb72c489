"""``pyxai-fast explain``: image files in, a picture and an attribution file per image out."""

from __future__ import annotations

import functools
import inspect
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from pyxai_fast.cli_kinds import IMAGE, check_kind
from pyxai_fast.combinations import COMBINATIONS
from pyxai_fast.errors import near
from pyxai_fast.explanation import Explanation
from pyxai_fast.front_door import check_options, explain
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
from pyxai_fast.models.score import ForwardFunc
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

    A baseline of None is black for methods that have one; references are files of pictures. Where
    the files hold something else, what explains them says what its fields mean.
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
    sample_rate: int | None = None
    rows: str | None = None
    columns: str | None = None
    drop: str | None = None


@dataclass(frozen=True)
class Result:
    """One explained file, as it is written to run.json; the last fields are files."""

    file: str
    target: int | None
    class_name: str | None
    probability: float | None
    delta: float | None
    error: float | None
    picture: str
    attributions: str

    @property
    def files(self) -> tuple[str, ...]:
        return self.picture, self.attributions


class Run:
    """Items that are explained, batch after batch: what was done, what failed, and the record.

    As a context it writes run.json when it ends, however it ends, if there is anything to say.

    Args:
        request: what was asked for.
        model, device: of the run.
        about: what else results depend on, for run.json.
        noun: what the files are.
        items: what is explained, by name; the files by default.
    """

    def __init__(
        self,
        request: Request,
        model: LoadedModel,
        device: torch.device,
        about: Mapping[str, Any],
        noun: str = IMAGE,
        items: Sequence[str] | None = None,
    ) -> None:
        self.request, self.model, self.device = request, model, device
        self.about, self.noun = about, noun
        self.out = Path(request.out)
        self.results: list[Any] = []
        self.failures: list[tuple[str, str]] = []
        self.costs: list[dict[str, Any]] = []
        self.used: dict[str, Any] = {}
        self.items = request.images if items is None else items
        self._left = dict(enumerate(self.items))
        self._stopped = False
        self._started = time.perf_counter()

    def batches(self, size: int) -> Iterator[list[int]]:
        """Positions of the items, until a model that only answers could not."""
        for first in range(0, len(self.items), size):
            if self._stopped:
                return
            yield list(range(first, min(first + size, len(self.items))))

    def unreadable(self, position: int, reason: str) -> None:
        file = self._left.pop(position)
        self.failures.append((file, reason))
        print(f"pyxai-fast: {file}: {reason}", file=sys.stderr)

    def explain(
        self,
        positions: Sequence[int],
        write: Callable[[Explanation, int, int], Any],
        model: ForwardFunc,
        inputs: Tensor,
        **options: Any,
    ) -> None:
        """Explains inputs [B, ...], one for each of the positions, and writes what is finished.

        Args:
            write: given the explanation, a row of it and its position, writes that row's files,
                and gives what run.json is to say of it, a dataclass.
            options: of pyxai_fast.explain.
        """
        request = self.request
        explanation: Explanation | None = None
        done, stopped = list(positions), None
        try:
            explanation = explain(
                model,
                inputs,
                method=request.method,
                target=request.target,
                output=request.output,
                progress=request.progress,
                **options,
            )
        except QueryError as error:
            # What was finished before is kept; the rest would fail in the same way.
            stopped, done = error, []
            if isinstance(error, Unfinished) and error.explanation is not None:
                explanation = error.explanation
                done = [positions[i] for i in error.finished.tolist()]
        if explanation is not None:
            self.costs.append(explanation.cost.as_dict())
            self.used = explanation.settings
            self.out.mkdir(parents=True, exist_ok=True)
            for row, position in enumerate(done):
                self.results.append(write(explanation, row, position))
                del self._left[position]
        if stopped is not None:
            self._stopped = True
            self.failures += [(f, f"not finished: {stopped.reason}") for f in self._left.values()]
            print(f"pyxai-fast: error: {stopped}", file=sys.stderr)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        # An interrupted run still says what it did.
        if self.results or self.failures:
            self.out.mkdir(parents=True, exist_ok=True)
            record = json.dumps(self._record(), indent=2) + "\n"
            (self.out / "run.json").write_text(record, encoding="utf-8")
        if isinstance(self.model.module, BlackBox):
            self.model.module.close()

    def finish(self) -> int:
        """Prints what was done; the exit code."""
        _print_summary(self.results, self.failures, self.out, self.noun)
        return 1 if self.failures else 0

    def _record(self) -> dict[str, Any]:
        totals = {
            key: sum(cost.get(key) or 0 for cost in self.costs)
            for key in ("gradients", "queries", "seconds")
        }
        settings = asdict(self.request)
        files = list(settings.pop("images"))
        return {
            "settings": {
                f"{self.noun}s": files,
                **settings,
                "model": shown_spec(self.request.model),
                "references": list(self.request.references),
            },
            "explained": dict(self.used),
            **self.about,
            **surroundings(self.device),
            "cost": {
                **totals,
                "wall_seconds": round(time.perf_counter() - self._started, 3),
                **asked(self.model),
                "batches": [dict(cost) for cost in self.costs],
            },
            "results": [asdict(result) for result in self.results],
            "failures": [{"file": file, "reason": reason} for file, reason in self.failures],
        }


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
    check_kind(request, IMAGE)
    with_prior = with_prior_of(request)
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
    numbered = takes_numbers(request)
    if request.path_model is not None:
        options["path_model"] = load_path_model(request.path_model, device)

    def write(explanation: Explanation, row: int, position: int) -> Result:
        return _write(explanation, row, request.images[position], out, names[position], request)

    with Run(request, model, device, {"preprocessing": model.preprocessing.as_dict()}) as run:
        for batch in run.batches(request.batch_size):
            files = [request.images[position] for position in batch]
            pixels, kept, unread = read_batch(files, model.preprocessing)
            for index, reason in unread:
                run.unreadable(batch[index], reason)
            if not kept:
                continue
            pixels = pixels.to(device)
            positions = [batch[index] for index in kept]
            if numbered:
                # So that a picture's map does not depend on what is explained beside it.
                options["numbers"] = positions
            run.explain(
                positions,
                write,
                model.module,
                pixels,
                gradient=gradient,
                baselines=baseline(pixels, model.preprocessing),
                preprocessing=model.preprocessing,
                class_names=model.class_names,
                **options,
            )
    return run.finish()


# ---------------------------------------------------------------- before the model is loaded


# The options that a flag sets, in the words of whatever takes it.
_FLAGS = {
    "samples": ("n_samples", "n_particles", "n_queries"),
    "sigma": ("sigma",),
    "seed": ("seed",),
}


def with_prior_of(request: Request) -> Callable[[Prior | None], tuple[Any, dict[str, Any]]]:
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


def method_class(name: str) -> type[AttributionMethod]:
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
        if "n_steps" not in takes_of(method_class(request.method)):
            raise UsageError(f"--steps: the method {request.method} has no steps")
        options["n_steps"] = request.steps
    if request.memory_format != "auto":
        options["memory_format"] = request.memory_format
    return options


def takes_numbers(request: Request) -> bool:
    """Whether the method's paths are random, and no numbers of the pictures were given."""
    combination = COMBINATIONS.get(request.method)
    return (
        combination is not None
        and "numbers" in combination.own_options
        and "numbers" not in request.options
    )


def takes_of(method: type) -> set[str]:
    """Options of a method, of its constructor and of the call."""
    return _parameters(method) | _parameters(getattr(method, "attribute", None))


def _parameters(function: Any) -> set[str]:
    return set() if function is None else set(inspect.signature(function).parameters)


def has_baseline(request: Request) -> bool:
    """Whether the method has one; UsageError where it has none and one was asked for."""
    combination = COMBINATIONS.get(request.method)
    own_start = combination is not None and not getattr(combination.kind, "takes_baselines", True)
    has = not own_start and "baselines" in takes_of(method_class(request.method))
    if not has and request.baseline is not None:
        raise UsageError(f"--baseline: the method {request.method} has no baseline")
    return has


def check_references(request: Request) -> None:
    """Refuses references where they say nothing, or what the baseline says."""
    if not request.references:
        return
    if not issubclass(method_class(request.method), ExpectedGradients):
        raise UsageError(f"--references: the method {request.method} takes none")
    if request.baseline is not None:
        raise UsageError("--references and --baseline say the same thing; give one of them")


def _baseline(request: Request) -> Callable[[Tensor, Preprocessing], Tensor | float | str | None]:
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


# ---------------------------------------------------------------- per batch and per image


def result_of(
    explanation: Explanation, row: int, file: str, name: str, file_format: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of one file, attributions first, and the fields of its Result."""
    maps, errors = explanation.attributions, explanation.standard_error
    assert isinstance(maps, Tensor)  # one tensor went in
    assert errors is None or isinstance(errors, Tensor)
    tensors = {"attributions": maps[row].detach().to("cpu", torch.float32).contiguous()}
    if errors is not None:
        tensors["standard_error"] = errors[row].detach().to("cpu", torch.float32).contiguous()
    class_name, probability = plots.class_and_probability(explanation, row)
    delta = None if explanation.delta is None else float(explanation.delta[row])
    return tensors, {
        "file": file,
        "target": None if explanation.target is None else int(explanation.target[row]),
        "class_name": class_name,
        "probability": probability,
        "delta": delta if delta is not None and math.isfinite(delta) else None,
        "error": relative_error(tensors),
        "picture": f"{name}.png",
        "attributions": f"{name}.{file_format}",
    }


def note_of(result: Result) -> str | None:
    """What a picture says of it, besides class and probability."""
    return None if result.error is None else f"standard error {100 * result.error:.0f}%"


def save_result(result: Result, tensors: Mapping[str, Tensor], out: Path, method: str) -> None:
    text = {"method": method, "target": str(result.target), "file": result.file}
    save_arrays(tensors, out / result.attributions, text)


def _write(
    explanation: Explanation,
    row: int,
    image: str,
    out: Path,
    name: str,
    request: Request,
) -> Result:
    tensors, fields = result_of(explanation, row, image, name, request.file_format)
    result = Result(**fields)
    assert isinstance(explanation.inputs, Tensor)
    figure = plots.overlay_figure(
        explanation.inputs[row],
        tensors["attributions"],
        class_name=result.class_name,
        probability=result.probability,
        method=request.method,
        note=note_of(result),
    )
    plots.save_figure(figure, out / result.picture)
    save_result(result, tensors, out, request.method)
    return result


def relative_error(tensors: Mapping[str, Tensor]) -> float | None:
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


def _print_summary(
    results: Sequence[Result], failures: Sequence[tuple[str, str]], out: Path, noun: str
) -> None:
    rows = [(noun, "class", "p", "completeness gap", "standard error", "files")]
    for result in results:
        rows.append(
            (
                shorten(Path(result.file).name, 40),
                shorten(result.class_name or "-", 32),
                "-" if result.probability is None else f"{100 * result.probability:.1f}%",
                "-" if result.delta is None else f"{result.delta:+.2e}",
                "-" if result.error is None else f"{100 * result.error:.0f}%",
                ", ".join(result.files),
            )
        )
    if results:
        print_table(rows, numbers=(2, 3, 4))
    failed = f", {len(failures)} failed" if failures else ""
    print(f"{len(results)} explained{failed}; settings and results in {out / 'run.json'}")
