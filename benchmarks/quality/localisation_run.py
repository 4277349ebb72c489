"""Every map of every case and seed, judged; and what the figures come to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from differences import minus
from machine import machine
from rows import Rows
from segment_maps import LABELS, MAPS, Case, Made, Setup, answers, maps_of
from torch import Tensor

from pyxai_fast.metrics import best_iou, energy_inside, iou, iou_area, pointing_game
from pyxai_fast.metrics.bootstrap import mean_of

# Of maps and masks, [B] each; large is good.
METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "iou": iou,
    "iou_area": iou_area,
    "best_iou": best_iou,
    "pointing": pointing_game,
    "energy": energy_inside,
}
# What the others are compared with.
MAIN = "dax"
COST = ("evaluations", "seconds")
# May differ where a run goes on.
OPEN = ("seeds", "cases", "threads", "methods")

Judge = Callable[[Case, Tensor], dict[str, float]]
Keep = Callable[[Case, str, Made], object]


def judged(values: Tensor, mask: Tensor) -> dict[str, float]:
    """Every metric of one map and its mask."""
    return {name: float(metric(values[None], mask[None])) for name, metric in METRICS.items()}


def run(
    cases: Iterable[Case],
    setup: Setup,
    seeds: Sequence[int],
    names: Sequence[str],
    judge: Judge,
    rows: Rows,
    keep: Keep,
    minutes: float | None = None,
) -> bool:
    """Whether all is done; False after so many minutes, and another run goes on from there.

    Args:
        names: of the maps.
        judge: the figures of a map [H, W] of a case; large is good or small, as the metric is.
        rows: what is there already is not made again; what is made is added.
        keep: told of each map of the first seed that is made.
    """
    begin = time.monotonic()
    warm = False
    for case in cases:
        for seed in seeds:
            wanted = {
                name
                for name in names
                if (seed == seeds[0] or MAPS[name].drawn)
                and (case.name, seed, name) not in rows.found
            }
            if not wanted:
                continue
            if minutes is not None and time.monotonic() - begin > 60 * minutes:
                return False
            if not warm:
                # The first call measures what a row of the model takes, and is not timed.
                answers(setup, case, case.hidden, 8)
                warm = True
            started = time.monotonic()
            for name, made in maps_of(setup, case, seed, wanted):
                figures = judge(case, made.values.cpu())
                cost = dict(zip(COST, (made.evaluations, made.seconds), strict=True))
                rows.add((case.name, seed, name), figures | cost)
                if seed == seeds[0]:
                    keep(case, name, made)
            print(f"{case.name}, seed {seed}: {time.monotonic() - started:.0f} s", flush=True)
    return True


def summary(rows: Rows, cases: Sequence[str], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """For each map and metric, over the cases of which every map is there:

    - its mean over seeds and cases, with the bootstrap interval over cases;
    - `seed_sd`: the standard deviation over seeds for one case, root mean square over cases;
    - `main_minus`: the mean of MAIN minus this map, paired by case.
    """
    names = [name for name in MAPS if any(key[2] == name for key in rows.found)]
    of: dict[tuple[str, str], list[dict[str, float]]] = {}
    for (case, _, name), figures in rows.found.items():
        of.setdefault((name, case), []).append(figures)
    complete = [case for case in cases if all((name, case) in of for name in names)]

    def values(name: str, figure: str) -> list[Tensor]:
        each = ([row[figure] for row in of[name, case]] for case in complete)
        return [torch.tensor(one, dtype=torch.float64) for one in each]

    def means(name: str, figure: str) -> Tensor:
        return torch.stack([one.mean() for one in values(name, figure)])

    found = []
    for name in names if complete else []:
        row: dict[str, Any] = {"map": name, "label": LABELS[name], "cases": len(complete)}
        row["how"] = MAPS[name].said
        row["seeds"] = min(len(of[name, case]) for case in complete)
        for metric in metrics:
            mine = means(name, metric)
            row[metric] = mean_of(mine)
            if row["seeds"] > 1:
                spread = torch.stack([one.var() for one in values(name, metric)])
                row[f"{metric}_seed_sd"] = float(spread.mean().sqrt())
            if MAIN in names and name != MAIN:
                row[f"{metric}_main_minus"] = minus(means(MAIN, metric), mine)
        found.append(row | {figure: float(means(name, figure).mean()) for figure in COST})
    return found


class Results:
    """A JSON file of settings and figures, and the CSV file beside it.

    Args:
        path: of the JSON file.
        settings: of the run; those of the file, if there is one, must be the same but for OPEN.
        metrics: names of figures that `judge` of `run` gives.
    """

    def __init__(self, path: Path, settings: dict[str, Any], metrics: Sequence[str]) -> None:
        self.path, self.settings, self.metrics = path, settings, tuple(metrics)
        rows = path.with_suffix(".csv")
        before: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        if rows.exists() and _fixed(before.get("settings", {})) != _fixed(settings):
            raise SystemExit(
                f"{path}: --json must be a new file, or one of the same settings, which a run goes "
                f"on with; got one of other settings (remove it and {rows.name} to begin anew)"
            )
        self.rows = Rows(rows, (*self.metrics, *COST))
        self.said: dict[str, Any] = before.get("said", {})
        if not before:
            # A run that is stopped leaves what the next one goes on with.
            path.write_text(json.dumps({"settings": settings}) + "\n")

    def write(self, cases: Sequence[Case]) -> dict[str, Any]:
        result = {
            "machine_info": machine(),
            "settings": self.settings,
            "metrics": list(self.metrics),
            "said": self.said,
            "cases": [{"name": case.name, **case.said} for case in cases],
            "maps": summary(self.rows, [case.name for case in cases], self.metrics),
        }
        self.path.write_text(json.dumps(result, indent=1) + "\n")
        return result


def _fixed(settings: dict[str, Any]) -> dict[str, Any]:
    # As JSON has them: tuples become lists.
    kept = {name: value for name, value in settings.items() if name not in OPEN}
    fixed: dict[str, Any] = json.loads(json.dumps(kept))
    return fixed
