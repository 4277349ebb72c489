"""Whether maps find the event: methods that hide segments, on sounds with an event at a known time.

    python benchmarks/quality/sound_localisation.py --model python:FILE.py:FACTORY --events FOLDER
        [--table FILE.csv --labels COLUMN --kind COLUMN] --json OUT.json [--queries 1000]
        [--background noise|clips] [--snr 20] [--hidden -20] [--seeds 5] [--limit N] [--minutes M]

The model takes waveforms [R, samples] and answers scores in [0, 1], [R, classes]. The loudest
second of each clip is placed at a random time in a longer background, and what explains the class
is looked for in time: maps are averaged over frequency. Segments are tiles of the spectrum; hidden
ones are turned down by --hidden decibels, because silence is nothing that a model of sounds knows.
`localisation.py --page` writes the page.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from localisation import add_common, finish, recipe_of  # noqa: E402
from localisation_gallery import KeptMaps  # noqa: E402
from localisation_run import METRICS, Results, judged, run  # noqa: E402
from masked_pictures import chosen_of  # noqa: E402
from segment_maps import Case, Setup, answers, available  # noqa: E402
from sound_scenes import Clip, Scene, read_clips, scene_of  # noqa: E402

from pyxai_fast import ops  # noqa: E402
from pyxai_fast.audio import Spectrum, WaveformModel, time_frequency_tiles  # noqa: E402
from pyxai_fast.metrics import deletion  # noqa: E402
from pyxai_fast.metrics.bootstrap import mean_of  # noqa: E402
from pyxai_fast.models.spec import load_model  # noqa: E402
from pyxai_fast.segments import n_segments  # noqa: E402

SILENCE = "silence"
# What hidden tiles may be turned down by, in decibels, that is compared before.
TRIED = (SILENCE, "-30", "-20", "-10")
TRIED_CASES, TRIED_QUERIES = 4, 66
# Of a spectrum, below the loudest: what is drawn.
SHOWN_DB = 60.0


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    clips = read_clips(options.events, options.rate, options.table, options.labels, options.kind)
    samples = round(options.seconds * options.rate)
    spectrum = Spectrum(options.rate, options.n_fft, options.hop)
    loaded = load_model(options.model, options.device)
    model = WaveformModel(loaded.module, spectrum, samples)
    recipe = {"transform": functools.partial(loudness, spectrum), **recipe_of(options)}
    # Scores in [0, 1] are explained as they are.
    setup = Setup(model, options.queries, output="logit", recipe=recipe, noise=options.noise)
    names = available(loaded.module, options.methods)
    results = Results(
        options.json,
        {
            "kind": "sounds",
            # Not the spec: it may hold a path.
            "model": options.name or options.model.rpartition(":")[2],
            "data": options.data,
            "queries": options.queries,
            "methods": list(names),
            "recipe": recipe_of(options),
            "spectrum": [spectrum.n_fft, spectrum.hop],
            "tiles": options.tiles,
            "hidden": options.hidden,
            "noise": options.noise,
            "seconds": options.seconds,
            "event_seconds": options.event_seconds,
            "background": options.background,
            "snr": options.snr,
            "top": options.top,
            "scene_seed": options.scene_seed,
            "deletion_steps": options.deletion_steps,
            "seeds": options.seeds,
            "threads": options.threads,
        },
        (*METRICS, "deletion"),
    )
    cases: list[Case] = []
    found = (
        case
        for scene in scenes_of(clips, options)
        if (case := case_of(scene, model, options)) is not None
    )

    def chosen() -> Iterator[Case]:
        for case in found:
            if options.limit is not None and len(cases) >= options.limit:
                return
            cases.append(case)
            yield case

    def judge(case: Case, values: Tensor) -> dict[str, float]:
        when = in_time(values)
        found = judged(when, case.mask)
        return found | {"deletion": deletion_of(model, case, when, options.deletion_steps)}

    kept = KeptMaps(options.out)
    if options.try_hidden:
        tried = list(itertools.islice(chosen(), TRIED_CASES))
        for row in spread_of_hidden(tried, setup):
            print(f"{row['hidden']:>8}: {row['spread']['mean']:.3f} of {row['whole']['mean']:.3f}")
        return
    done = run(
        chosen(), setup, range(options.seeds), names, judge, results.rows, kept.keep,
        options.minutes,
    )  # fmt: skip
    if "hidden" not in results.said:
        results.said["hidden"] = spread_of_hidden(cases[:TRIED_CASES], setup)
    finish(results, cases, kept, done, options)


def scenes_of(clips: list[Clip], options: argparse.Namespace) -> Iterator[Scene]:
    for number, clip in enumerate(clips):
        yield scene_of(
            clip, clips, options.rate, options.seconds, options.event_seconds, options.snr,
            options.background, 1000 * options.scene_seed + number,
        )  # fmt: skip


def case_of(scene: Scene, model: WaveformModel, options: argparse.Namespace) -> Case | None:
    """None where the event's class is not among the first of the model's."""
    spectrum = model.spectrum
    parts = spectrum.of(scene.waveform[None]).to(options.device)
    with torch.no_grad():
        scores = model(parts)[0]
    target = chosen_of(scene.labels, scores, options.top)
    if target is None:
        return None
    hertz, seconds = options.tiles
    tiles = time_frequency_tiles(spectrum, parts.shape, hertz=hertz, seconds=seconds)
    times = spectrum.seconds(parts.shape[3]) * spectrum.rate
    decibels = spectrum.log_magnitude(parts, -120.0)[0].cpu()
    return Case(
        scene.name,
        parts,
        target,
        (times >= scene.start) & (times < scene.end),
        tiles.to(parts.device),
        turned_down(parts, options.hidden),
        {
            "target": target,
            "score": float(scores[target]),
            "start": scene.start / spectrum.rate,
            "end": scene.end / spectrum.rate,
            "segments": n_segments(tiles),
        },
        ((decibels - decibels.max()) / SHOWN_DB + 1).clamp(0, 1),
    )


def loudness(spectrum: Spectrum, parts: Tensor) -> Tensor:
    """What DAX's networks see of parts [R, 2, F, T]: decibels, [R, 1, F, T]."""
    return spectrum.log_magnitude(parts)


def turned_down(parts: Tensor, hidden: str) -> Tensor:
    """What stands for hidden tiles: silence, or the sound so many decibels louder (negative)."""
    return parts * (0.0 if hidden == SILENCE else 10 ** (float(hidden) / 20))


def spread_of_hidden(cases: list[Case], setup: Setup) -> list[dict[str, Any]]:
    """For each way to hide tiles, how far the answers to random queries are spread: where they are
    all alike, nothing can be learnt from them."""
    rows = []
    for hidden in TRIED:
        found = [
            answers(setup, case, turned_down(case.inputs, hidden), TRIED_QUERIES) for case in cases
        ]
        rows.append(
            {
                "hidden": hidden,
                "mean": mean_of(torch.stack([each.mean() for each in found])),
                "spread": mean_of(torch.stack([each.std() for each in found])),
                "whole": mean_of(torch.tensor([case.said["score"] for case in cases])),
            }
        )
    return rows


def in_time(values: Tensor) -> Tensor:
    """Of what is positive in a map [F, T], the mean over frequency: float64 [T]."""
    return values.double().clamp(min=0).mean(0)


def deletion_of(model: WaveformModel, case: Case, when: Tensor, steps: int) -> float:
    """The area under the score of the class as times are hidden, over that of the sound: those
    first at which a map in time [T] is largest."""
    parts = case.inputs
    bins = torch.arange(parts.shape[2], device=parts.device, dtype=torch.int32)
    # All of a time before the next.
    times = ops.ranks_of(when.to(parts.device).float()[None])[:, None, None]
    places = times * len(bins) + bins[:, None]
    curve = deletion(
        model, parts, -places.double(), case.target,
        baselines=case.hidden, n_steps=steps, output="logit",
    )  # fmt: skip
    return float(curve.area / curve.scores[0])


def _tiles(text: str) -> tuple[float, float]:
    hertz, _, seconds = text.partition("x")
    return float(hertz), float(seconds)


def _hidden(text: str) -> str:
    return text if text == SILENCE else f"{float(text):g}"


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_common(found)
    add = found.add_argument
    add("--events", type=Path, required=True, help="folder of sound files")
    add("--table", type=Path, help="CSV file: file and the two columns below; see read_clips")
    add("--labels", default="labels", help="column of the classes that name the event")
    add("--kind", default="kind", help="column of what the event is")
    add("--rate", type=int, default=16000, help="of the model's waveforms")
    add("--seconds", type=float, default=4.0, help="of a scene")
    add("--event-seconds", type=float, default=1.0)
    add("--background", choices=("noise", "clips"), default="noise")
    add("--snr", type=float, default=20.0, help="of the event to the background, in dB")
    add("--n-fft", type=int)
    add("--hop", type=int, default=256)
    add("--tiles", type=_tiles, default=(2000.0, 0.25), help="HERTZxSECONDS")
    add("--hidden", type=_hidden, default="-20", help=f"decibels, or {SILENCE}")
    add("--noise", type=float, default=0.02, help="of SmoothGrad, in shares of the range")
    add("--scene-seed", type=int, default=0)
    add("--try-hidden", action="store_true", help="compare ways to hide tiles, no more")
    return found


if __name__ == "__main__":
    main()
