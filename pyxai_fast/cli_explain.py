"""``pyxai-fast explain``: image files in, a picture and an attribution file per image out."""

from __future__ import annotations

import importlib.util
import inspect
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pyxai_fast
from pyxai_fast import ops, plots
from pyxai_fast.explanation import Explanation
from pyxai_fast.front_door import explain
from pyxai_fast.gradients import GRADIENTS, Gradient
from pyxai_fast.images import gaussian_blur, read_images
from pyxai_fast.methods import METHODS
from pyxai_fast.methods.unfinished import Unfinished
from pyxai_fast.models.black_box import BlackBox
from pyxai_fast.models.from_url import shown_spec
from pyxai_fast.models.preprocessing import Preprocessing
from pyxai_fast.models.preprocessing_file import read_preprocessing
from pyxai_fast.models.query_error import QueryError
from pyxai_fast.models.spec import LoadedModel, load_model

# The blur baseline: 10 pixels at 224, as in the literature on perturbations.
_BLUR_PER_PIXEL = 10.0 / 224.0


class UsageError(ValueError):
    """The command cannot be run as it was written; the message is one line that says why."""


@dataclass(frozen=True)
class Request:
    """What was asked for; the fields are the options of the command line.

    A baseline of None is black for methods that have one.
    """

    images: Sequence[str]
    model: str
    out: str
    model_options: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: str | None = None
    method: str = "integrated_gradients"
    gradient: str = "autograd"
    gradient_options: Mapping[str, Any] = field(default_factory=dict)
    samples: int | None = None
    sigma: float | None = None
    seed: int | None = None
    target: int | None = None
    steps: int | None = None
    baseline: str | None = None
    output: str = "logit"
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
    _check_packages(request.file_format)
    gradient, options = _gradient_and_options(request)
    baseline = _baseline(request)
    device = _device(request.device)
    out = Path(request.out)
    names = output_names(request.images, out)
    _check_free(out, names, request)

    preprocessing = None
    if request.preprocessing is not None:
        preprocessing = read_preprocessing(request.preprocessing)
    model = load_model(
        request.model, device, options=request.model_options, preprocessing=preprocessing
    )
    started = time.perf_counter()
    results: list[_Result] = []
    failures: list[tuple[str, str]] = []
    costs: list[dict[str, Any]] = []
    stopped: QueryError | None = None
    try:
        for first in range(0, len(request.images), request.batch_size):
            batch = request.images[first : first + request.batch_size]
            batch_names = names[first : first + request.batch_size]
            pixels, kept, unread = _read(batch, model.preprocessing)
            for index, reason in unread:
                failures.append((batch[index], reason))
                print(f"pyxai-fast: {batch[index]}: {reason}", file=sys.stderr)
            if not kept:
                continue
            pixels = pixels.to(device)
            explanation: Explanation | None = None
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
            record = _record(request, model, device, results, failures, costs, started)
            (out / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if isinstance(model.module, BlackBox):
            model.module.close()
    _print_summary(results, failures, out)
    return 1 if failures else 0


def output_names(images: Sequence[str], out: Path) -> list[str]:
    """One name without a suffix per image: its stem, numbered where that is taken.

    Taken are the names of the images before it (whatever their case, for file systems that
    ignore it), and names whose picture would replace one of the images themselves.
    """
    inputs = {os.path.realpath(image) for image in images}
    taken: set[str] = set()
    names = []
    for image in images:
        stem = Path(image).stem or "image"
        name, number = stem, 1
        while name.casefold() in taken or os.path.realpath(out / f"{name}.png") in inputs:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


# ---------------------------------------------------------------- before the model is loaded


def _check_packages(file_format: str) -> None:
    needed = {"PIL": "image", "matplotlib": "plot"}
    if file_format == "safetensors":
        needed["safetensors"] = "image"
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        extras = ",".join(sorted({needed[name] for name in missing}))
        raise UsageError(
            f"explain: needs {', '.join(missing)}; run: pip install pyxai-fast[{extras}]"
        )


def _gradient_and_options(request: Request) -> tuple[Gradient, dict[str, Any]]:
    """The gradient, and the options of the method."""
    if request.gradient not in GRADIENTS:
        raise UsageError(
            f"--gradient: must be one of {', '.join(GRADIENTS)}, got {request.gradient!r}"
        )
    kind = GRADIENTS[request.gradient]
    options = _method_options(request)
    of_gradient = dict(request.gradient_options)
    known = set(inspect.signature(kind).parameters)
    if unknown := sorted(set(of_gradient) - known):
        raise UsageError(
            f"--gradient-set: options of {request.gradient} must be among "
            f"{', '.join(sorted(known)) or 'none'}, got {', '.join(unknown)}"
        )
    for flag, name in (("samples", "n_samples"), ("sigma", "sigma"), ("seed", "seed")):
        value = getattr(request, flag)
        if value is None:
            continue
        takers = [
            taken
            for taken, takes in (
                (of_gradient, name in known),
                (options, _takes(METHODS[request.method], name)),
            )
            if takes
        ]
        if not takers:
            raise UsageError(
                f"--{flag}: neither the method {request.method} nor the gradient "
                f"{request.gradient} takes it"
            )
        # One seed for everything; samples and their size belong to the gradient first.
        for taker in takers if name == "seed" else takers[:1]:
            if name in taker:
                raise UsageError(f"--{flag} and {name}=... say the same thing; give one of them")
            taker[name] = value
    return kind(**of_gradient), options


def _method_options(request: Request) -> dict[str, Any]:
    if request.method not in METHODS:
        raise UsageError(
            f"--method: must be one of {', '.join(sorted(METHODS))}, got {request.method!r}"
        )
    options = dict(request.options)
    if request.steps is not None:
        if "n_steps" in options:
            raise UsageError("--steps and --set n_steps=... say the same thing; give one of them")
        if not _takes(METHODS[request.method], "n_steps"):
            raise UsageError(f"--steps: the method {request.method} has no steps")
        options["n_steps"] = request.steps
    if request.memory_format != "auto":
        options["memory_format"] = request.memory_format
    return options


def _takes(method: type, option: str) -> bool:
    functions = (method.__init__, getattr(method, "attribute", None))  # type: ignore[misc]
    return any(option in inspect.signature(f).parameters for f in functions if f is not None)


def _baseline(request: Request) -> Callable[[Tensor, Preprocessing], Tensor | float | None]:
    """From pixels [B, C, H, W] and their preprocessing to baselines in pixels."""
    if not _takes(METHODS[request.method], "baselines"):
        if request.baseline is not None:
            raise UsageError(f"--baseline: the method {request.method} has no baseline")
        return lambda pixels, _: None
    name = request.baseline or "black"
    if name == "blur":
        return lambda pixels, _: gaussian_blur(pixels, _BLUR_PER_PIXEL * max(pixels.shape[-2:]))
    if name == "mean":
        return _mean_colour
    levels = {"black": 0.0, "white": 1.0}
    try:
        level = levels[name] if name in levels else float(name)
    except ValueError:
        level = math.nan
    if not 0.0 <= level <= 1.0:
        raise UsageError(
            "--baseline: must be black, white, mean, blur or a grey level from 0 to 1, "
            f"got {name!r}"
        )
    return lambda pixels, _: level


def _mean_colour(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """[1, C, H, W]: one baseline for the whole batch is asked only once."""
    colour = torch.tensor(preprocessing.mean, dtype=pixels.dtype, device=pixels.device)
    return colour.clamp(0.0, 1.0).view(1, -1, 1, 1).expand(1, *pixels.shape[1:])


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device: cuda was asked for, but torch finds no CUDA device; use cpu")
    return torch.device(name)


def _check_free(out: Path, names: Sequence[str], request: Request) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out: must be a folder, got the file {out}")
    if request.overwrite:
        return
    files = [f"{name}.{suffix}" for name in names for suffix in ("png", request.file_format)]
    there = [file for file in [*files, "run.json"] if (out / file).exists()]
    if there:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise UsageError(
            f"--out: {out} already has {there[0]}{more}; add --overwrite or name another folder"
        )


# ---------------------------------------------------------------- per batch and per image


def _read(
    batch: Sequence[str], preprocessing: Preprocessing
) -> tuple[Tensor, list[int], list[tuple[int, str]]]:
    """Pixels, the positions in the batch they come from, and (position, reason) of the others."""
    pixels, _, failures = read_images(batch, preprocessing)
    reasons = dict(failures)
    kept = [i for i, path in enumerate(batch) if path not in reasons]
    unread = [(i, reasons[path]) for i, path in enumerate(batch) if path in reasons]
    return pixels, kept, unread


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
    )
    plots.save_figure(figure, out / result.picture)
    if request.file_format == "npz":
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
        np.savez(out / result.attributions, **arrays)
    else:
        from safetensors.torch import save_file

        text = {"method": request.method, "target": str(target), "file": image}
        save_file(tensors, out / result.attributions, metadata=text)
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
        },
        "preprocessing": model.preprocessing.as_dict(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pyxai_fast": pyxai_fast.__version__,
        },
        "backend": ops.backend_of(device),
        "backends": ops.backends(),
        "device": {
            "type": device.type,
            "name": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            "threads": torch.get_num_threads(),
        },
        "cost": {
            **totals,
            "wall_seconds": round(time.perf_counter() - started, 3),
            **_asked(model),
            "batches": [dict(cost) for cost in costs],
        },
        "results": [asdict(result) for result in results],
        "failures": [{"file": file, "reason": reason} for file, reason in failures],
    }


def _asked(model: LoadedModel) -> dict[str, Any]:
    """What a model that only answers was asked: rows sent, repetitions among them."""
    if not isinstance(model.module, BlackBox):
        return {}
    return {"sent": model.module.queries, "budget": model.module.budget}


def _print_summary(
    results: Sequence[_Result], failures: Sequence[tuple[str, str]], out: Path
) -> None:
    rows = [("image", "class", "p", "completeness gap", "standard error", "files")]
    for result in results:
        rows.append(
            (
                _shorten(Path(result.file).name, 40),
                _shorten(result.class_name or "-", 32),
                "-" if result.probability is None else f"{100 * result.probability:.1f}%",
                "-" if result.delta is None else f"{result.delta:+.2e}",
                "-" if result.error is None else f"{100 * result.error:.0f}%",
                f"{result.picture}, {result.attributions}",
            )
        )
    if results:
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            cells = [
                f"{cell:>{width}}" if column in (2, 3, 4) else f"{cell:<{width}}"
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            print("  ".join(cells).rstrip())
    failed = f", {len(failures)} failed" if failures else ""
    print(f"{len(results)} explained{failed}; settings and results in {out / 'run.json'}")


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}\u2026"
