"""``pyxai-fast explain`` of sounds: a picture, the numbers and what is heard, for each file.

A model of waveforms is asked about spectra (`WaveformModel`), so that every method that explains
images explains it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pyxai_fast import plots
from pyxai_fast.audio import (
    AudioError,
    Spectrum,
    WaveformModel,
    audible,
    audible_figure,
    read_audio,
    time_frequency_tiles,
    write_audio,
)
from pyxai_fast.cli_explain import (
    Request,
    Result,
    Run,
    note_of,
    result_of,
    save_result,
)
from pyxai_fast.cli_explainer import (
    check_references,
    has_baseline,
    method_class,
    takes_of,
    with_prior_of,
)
from pyxai_fast.cli_images import (
    UsageError,
    check_free,
    check_packages,
    choose_device,
    output_names,
)
from pyxai_fast.cli_kinds import SOUND, check_kind
from pyxai_fast.explanation import Explanation
from pyxai_fast.models.black_box import BlackBox
from pyxai_fast.models.spec import SPEC_KINDS, load_model
from pyxai_fast.path_models.spec import load_path_model
from pyxai_fast.priors.spec import load_prior, prior_options

DEFAULT_RATE = 16000
DEMO = "python:pyxai_fast.demo.sound_model:load_sound_model"
PACKAGES = {"matplotlib": "plot", "soundfile": "audio"}
HEARD = ".heard.wav"
# Methods whose maps are masks already.
MASKS = ("dax",)
# What attributions are relative to: the sound itself, so many decibels below.
BASELINES = {"silence": -math.inf, "quiet": -30.0}
# Of tiles; see time_frequency_tiles.
SIZES = ("hertz", "seconds")


@dataclass(frozen=True)
class SoundResult(Result):
    """One explained sound, as it is written to run.json."""

    heard: str

    @property
    def files(self) -> tuple[str, ...]:
        return self.picture, self.attributions, self.heard


def explain_sounds(request: Request) -> int:
    """Explain every readable sound by itself; returns 0, or 1 if one could not be explained.

    Attributions are of the parts of its spectrum, [2, F, T]. Everything that can be wrong with the
    request itself is checked before the model is loaded.

    Raises:
        UsageError: an option that cannot be used, results that would be overwritten, or a package
            that is not installed.
        ModelSpecError: the model cannot be loaded.
    """
    check_packages("explain", request.file_format, PACKAGES)
    check_kind(request, SOUND)
    spec = _spec(request.model)
    sizes, options = _sizes(request)
    with_prior = with_prior_of(replace(request, options=options))
    prior_options(request.prior_options)
    baseline = _baseline(request)
    device = choose_device(request.device)
    out = Path(request.out)
    names = output_names(request.images, out, (".png", HEARD))
    check_free(out, names, (".png", f".{request.file_format}", HEARD), request.overwrite)

    model = load_model(spec, device, options=request.model_options)
    module = model.module
    own_rate: Any = getattr(module, "sample_rate", DEFAULT_RATE)
    spectrum = Spectrum(request.sample_rate or own_rate)
    prior = None
    if request.prior is not None:
        prior = load_prior(request.prior, device, None, request.prior_options)
    gradient, options = with_prior(prior)
    if request.path_model is not None:
        options["path_model"] = load_path_model(request.path_model, device)
    options.setdefault("memory_format", "contiguous")
    takes = takes_of(method_class(request.method))
    if "transform" in takes:
        options.setdefault("transform", spectrum.log_magnitude)
    tiled = "segments" in takes and "segments" not in options

    about = {"spectrum": {k: getattr(spectrum, k) for k in ("rate", "n_fft", "hop", "padding")}}
    with Run(request, model, device, about, SOUND) as run:
        # One by one: they differ in length, and none depends on what is explained beside it.
        for (position,) in run.batches(1):
            try:
                waveform = _read(request.images[position], spectrum)
            except AudioError as error:
                run.unreadable(position, str(error))
                continue
            samples = len(waveform)
            parts = spectrum.of(waveform.to(device)[None])
            if tiled:
                options["segments"] = time_frequency_tiles(spectrum, parts.shape, **sizes)
            run.explain(
                [position],
                partial(_write, request, spectrum, samples, names),
                _of_parts(module, spectrum, samples),
                parts,
                gradient=gradient,
                baselines=baseline(parts, spectrum, samples),
                class_names=model.class_names or getattr(module, "class_names", None),
                **options,
            )
    return run.finish()


# ---------------------------------------------------------------- before the model is loaded


def _spec(model: str) -> str:
    """Of the model; the demo has one of sounds, too, and so has Hugging Face."""
    kind, _, name = model.partition(":")
    if model == "demo":
        return DEMO
    if kind == "hf":
        return f"hf-audio:{name}"
    if kind in SPEC_KINDS and kind not in ("python", "hf-audio"):
        raise UsageError(
            f"--model: must be {SPEC_KINDS['python'].usage}, {SPEC_KINDS['hf'].usage} or demo for "
            f"sounds, got {kind}; your function may return any model of waveforms, such as "
            "BlackBox.from_onnx(...)"
        )
    return model


def _sizes(request: Request) -> tuple[dict[str, float], dict[str, Any]]:
    """The size of tiles, as far as it was given, and the other options of the method."""
    options = dict(request.options)
    sizes = {name: options.pop(name) for name in SIZES if name in options}
    if not sizes:
        return sizes, options
    given = " and ".join(f"{name}=..." for name in sizes)
    if "segments" not in takes_of(method_class(request.method)):
        raise UsageError(f"--set {given}: the method {request.method} hides no segments")
    if "segments" in options:
        raise UsageError(f"--set {given} and segments=... say the same thing; give one of them")
    for name, value in sizes.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:
            raise UsageError(f"--set: {name} must be a number above 0, got {value!r}")
    return sizes, options


def _baseline(request: Request) -> Callable[[Tensor, Spectrum, int], Tensor | float | None]:
    """From parts [1, 2, F, T], their spectrum and samples to baselines."""
    check_references(request)
    if request.references:
        return lambda parts, spectrum, samples: _references(
            request.references, spectrum, samples
        ).to(parts)
    if not has_baseline(request):
        return lambda *_: None
    name = request.baseline or "silence"
    try:
        decibels = BASELINES[name] if name in BASELINES else float(name)
    except ValueError:
        decibels = math.nan
    if not decibels < 0:
        raise UsageError(
            f"--baseline: must be {', '.join(BASELINES)} or so many decibels below 0 for sounds, "
            f"got {name!r}"
        )
    share = 10 ** (decibels / 20)
    return lambda parts, *_: share * parts if share else 0.0


def _references(files: Sequence[str], spectrum: Spectrum, samples: int) -> Tensor:
    """Parts [R, 2, F, T] of sounds that are cut, or followed by silence, to so many samples."""
    try:
        sounds = [read_audio(file, spectrum.rate)[0] for file in files]
    except AudioError as error:
        raise UsageError(f"--references: {error}") from error
    return spectrum.of(torch.stack([functional.pad(x, (0, samples - len(x))) for x in sounds]))


# ---------------------------------------------------------------- per sound


def _read(file: str, spectrum: Spectrum) -> Tensor:
    """The samples of a file; AudioError with the reason alone."""
    try:
        waveform, _ = read_audio(file, spectrum.rate)
    except AudioError as error:
        raise AudioError(str(error).removeprefix(f"{Path(file)}: ")) from error
    if len(waveform) < spectrum.n_fft:
        raise AudioError(
            f"is too short: {len(waveform)} samples at {spectrum.rate} per second, of "
            f"{spectrum.n_fft} that are needed"
        )
    return waveform


def _of_parts(module: Any, spectrum: Spectrum, samples: int) -> WaveformModel | BlackBox:
    """The model, asked about parts; one that only answers with what is left of its budget."""
    of_parts = WaveformModel(module, spectrum, samples)
    if not isinstance(module, BlackBox):
        return of_parts
    return BlackBox(of_parts, budget=module.remaining if module.cache is None else None)


def mask_of(attributions: Tensor, method: str) -> Tensor:
    """What is heard of a sound, [F, T] in [0, 1], by attributions [2, F, T] of its parts.

    The map itself where it is a mask. Otherwise what speaks for the class: the positive part of the
    sum over both channels, so that its 99.5th percentile (or its maximum, where that is 0) becomes
    1, and clipped there.
    """
    if method in MASKS:
        return attributions[0].clamp(0, 1)
    summed = plots.reduce_channels(attributions).clip(min=0)
    return torch.from_numpy(plots.normalise_map(summed))


def _write(
    request: Request,
    spectrum: Spectrum,
    samples: int,
    names: Sequence[str],
    explanation: Explanation,
    row: int,
    position: int,
) -> SoundResult:
    out, name = Path(request.out), names[position]
    tensors, fields = result_of(
        explanation, row, request.images[position], name, request.file_format
    )
    result = SoundResult(**fields, heard=f"{name}{HEARD}")
    assert isinstance(explanation.inputs, Tensor)
    parts = explanation.inputs[row : row + 1].detach().cpu()
    mask = mask_of(tensors["attributions"], request.method)
    figure = audible_figure(
        spectrum,
        parts,
        mask,
        samples,
        class_name=result.class_name,
        probability=result.probability,
        note=", ".join(part for part in (request.method, note_of(result)) if part),
    )
    plots.save_figure(figure, out / result.picture)
    heard = audible(spectrum, parts, mask[None, None], samples)[0]
    write_audio(out / result.heard, heard, spectrum.rate)
    written: Mapping[str, Tensor] = {**tensors, "mask": mask.contiguous()}
    save_result(result, written, out, request.method)
    return result
