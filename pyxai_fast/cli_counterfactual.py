"""``pyxai-fast counterfactual``: image files in, what would have to change in each out."""

from __future__ import annotations

import inspect
import json
import sys
import time
from collections.abc import Mapping, Sequence
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
from pyxai_fast.counterfactual_plots import counterfactual_figure
from pyxai_fast.counterfactuals import Counterfactuals
from pyxai_fast.methods.counterfactual import Counterfactual
from pyxai_fast.models.black_box import BlackBox
from pyxai_fast.models.from_url import shown_spec
from pyxai_fast.models.preprocessing_file import read_preprocessing
from pyxai_fast.models.query_error import QueryError
from pyxai_fast.models.spec import LoadedModel, load_model
from pyxai_fast.priors.spec import load_prior, prior_options

SUFFIXES = (".png", "-counterfactual.png")
# Options that have a flag of their own, by the names of Counterfactual.
_FLAGS = {
    "n_particles": "particles",
    "n_steps": "steps",
    "strength": "strength",
    "step_size": "step_size",
    "step_proximity": "proximity",
    "coupling": "coupling",
    "seed": "seed",
}
_OF_THE_MODEL = {"self", "forward_func", "prior", "preprocessing", "select_output"}


@dataclass(frozen=True)
class Request:
    """What was asked for; the fields are the options of the command line."""

    images: Sequence[str]
    to: str
    model: str
    prior: str
    out: str
    model_options: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: str | None = None
    prior_options: Mapping[str, Any] = field(default_factory=dict)
    particles: int = 100
    steps: int = 50
    strength: float = 0.4
    step_size: float | None = None
    proximity: float = 0.02
    coupling: str = "ensemble"
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    batch_size: int = 16
    file_format: str = "safetensors"
    progress: bool = True
    overwrite: bool = False


@dataclass(frozen=True)
class _Result:
    """One changed image, as it is written to run.json."""

    file: str
    before: str
    after: str
    probability: float
    flipped: bool
    change: float
    picture: str
    counterfactual: str
    numbers: str


def change_files(request: Request) -> int:
    """Changes every readable image; returns 0, or 1 if one could not be read or asked about.

    An image that the model still does not take for the class is a result, and said to be one.

    Raises:
        UsageError: An option that cannot be used, or results that would be overwritten.
        ModelSpecError: The model cannot be loaded.
        MissingDependency: Pillow, matplotlib, safetensors or diffusers is not installed.
    """
    check_packages("counterfactual", request.file_format)
    options = _options(request)
    Counterfactual.check_options(**options)
    prior_options(request.prior_options)
    device, out = choose_device(request.device), Path(request.out)
    names = output_names(request.images, out, SUFFIXES)
    check_free(out, names, (*SUFFIXES, f".{request.file_format}"), request.overwrite)
    preprocessing = None
    if request.preprocessing is not None:
        preprocessing = read_preprocessing(request.preprocessing)
    model = load_model(
        request.model, device, options=request.model_options, preprocessing=preprocessing
    )
    target = _class_of(request.to, model.class_names)
    prior = load_prior(request.prior, device, model.preprocessing.size, request.prior_options)
    method = Counterfactual(model.module, prior, preprocessing=model.preprocessing, **options)
    started = time.perf_counter()
    results: list[_Result] = []
    failures: list[tuple[str, str]] = []
    costs: list[dict[str, Any]] = []
    try:
        for first in range(0, len(request.images), request.batch_size):
            batch = request.images[first : first + request.batch_size]
            pixels, kept, unread = read_batch(batch, model.preprocessing)
            for index, reason in unread:
                failures.append((batch[index], reason))
                print(f"pyxai-fast: {batch[index]}: {reason}", file=sys.stderr)
            if not kept:
                continue
            try:
                found = method.generate(
                    pixels.to(device),
                    target,
                    keep_particles=False,
                    # So that a picture's result does not depend on what is changed beside it.
                    numbers=[first + index for index in kept],
                    class_names=model.class_names,
                    show_progress=request.progress,
                )
            except QueryError as error:
                # The rest would fail in the same way.
                left = [batch[index] for index in kept]
                left += request.images[first + request.batch_size :]
                failures += [(image, f"not changed: {error.reason}") for image in left]
                print(f"pyxai-fast: error: {error}", file=sys.stderr)
                break
            costs.append(found.cost.as_dict())
            out.mkdir(parents=True, exist_ok=True)
            for row, index in enumerate(kept):
                name = names[first + index]
                results.append(_write(found, row, batch[index], out, name, request.file_format))
    finally:
        # An interrupted run still says what it did.
        if results or failures:
            out.mkdir(parents=True, exist_ok=True)
            record = _record(request, model, device, results, failures, costs, started)
            (out / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if isinstance(model.module, BlackBox):
            model.module.close()
    _print_summary(results, failures, out)
    return 1 if failures else 0


def _options(request: Request) -> dict[str, Any]:
    known = set(inspect.signature(Counterfactual.__init__).parameters) - _OF_THE_MODEL
    if unknown := sorted(set(request.options) - (known - set(_FLAGS))):
        raise UsageError(
            f"--set: options of counterfactual must be among "
            f"{', '.join(sorted(known - set(_FLAGS)))} (others have flags), got "
            f"{', '.join(unknown)}"
        )
    return {name: getattr(request, flag) for name, flag in _FLAGS.items()} | dict(request.options)


def _class_of(text: str, class_names: Sequence[str] | None) -> int:
    """A class by its number, or by its name or one of its synonyms."""
    if text.isdecimal():
        return int(text)
    wanted = text.strip().casefold()
    names = class_names or []
    found = [
        i
        for i, name in enumerate(names)
        if wanted in (name.casefold(), *(part.strip().casefold() for part in name.split(",")))
    ]
    if len(found) != 1:
        near = [name for name in names if wanted in name.casefold()][:3]
        raise UsageError(
            f"--to: must be the number of a class, or its name, got {text!r}"
            + ("; the model has no names" if not names else f", the name of {len(found)} classes")
            + (f"; did you mean {' / '.join(near)}?" if near and not found else "")
        )
    return found[0]


def _write(
    found: Counterfactuals, row: int, image: str, out: Path, name: str, file_format: str
) -> _Result:
    one = found.example(row)
    before, after = one.outputs[0].softmax(0), one.best_outputs[0].softmax(0)
    target = int(one.target[0])
    result = _Result(
        file=image,
        before=_name(one, int(before.argmax())),
        after=_name(one, int(after.argmax())),
        probability=float(after[target]),
        flipped=bool(one.flipped[0]),
        change=float(one.distance(one.best)[0]),
        picture=f"{name}{SUFFIXES[0]}",
        counterfactual=f"{name}{SUFFIXES[1]}",
        numbers=f"{name}.{file_format}",
    )
    plots.save_figure(counterfactual_figure(one), out / result.picture)
    plots.save_image(plots.pixel_image(one.best[0].clamp(0, 1)), out / result.counterfactual)
    tensors: dict[str, Tensor] = {
        key: value[0].contiguous() if value.dim() and len(value) == 1 else value
        for key, value in one.tensors().items()
    }
    text = {"method": "counterfactual", "target": str(target), "file": image}
    save_arrays(tensors, out / result.numbers, text)
    return result


def _name(found: Counterfactuals, index: int) -> str:
    return str(index) if found.class_names is None else found.class_names[index]


def _record(
    request: Request,
    model: LoadedModel,
    device: torch.device,
    results: Sequence[_Result],
    failures: Sequence[tuple[str, str]],
    costs: Sequence[Mapping[str, Any]],
    started: float,
) -> dict[str, Any]:
    totals = {key: sum(cost[key] for cost in costs) for key in ("queries", "denoised", "seconds")}
    parts = {
        part: sum(cost["parts"].get(part, 0.0) for cost in costs) for part in ("prior", "model")
    }
    return {
        "settings": {
            **asdict(request),
            "model": shown_spec(request.model),
            "images": list(request.images),
        },
        "preprocessing": model.preprocessing.as_dict(),
        **surroundings(device),
        "cost": {
            **totals,
            "parts": parts,
            "wall_seconds": round(time.perf_counter() - started, 3),
            **asked(model),
        },
        "results": [asdict(result) for result in results],
        "failures": [{"file": file, "reason": reason} for file, reason in failures],
    }


def _remark(result: _Result) -> str:
    if not result.flipped:
        return " (not what was asked for)"
    return " (as it was)" if result.before == result.after else ""


def _print_summary(
    results: Sequence[_Result], failures: Sequence[tuple[str, str]], out: Path
) -> None:
    rows = [("image", "from", "to", "p", "mean change", "files")]
    for result in results:
        rows.append(
            (
                shorten(Path(result.file).name, 40),
                shorten(result.before, 32),
                shorten(result.after, 32) + _remark(result),
                f"{100 * result.probability:.1f}%",
                f"{result.change:.3f}",
                f"{result.picture}, {result.counterfactual}, {result.numbers}",
            )
        )
    if results:
        print_table(rows, numbers=(3, 4))
    flipped = sum(result.flipped for result in results)
    failed = f", {len(failures)} failed" if failures else ""
    print(
        f"{flipped} of {len(results)} taken for the class asked for{failed}; settings and results "
        f"in {out / 'run.json'}"
    )
