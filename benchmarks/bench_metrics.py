"""Metrics of maps, ours and as captum, Quantus and PAIR's saliency have them, in the same settings.

    make test-quantus    # makes the environment, .venv-quantus, and tests that the values agree
    .venv-quantus/bin/python benchmarks/bench_metrics.py [--quick] [--device cuda] [--threads N]
        [--json OUT] [--metrics NAME ...]

stores the figures and writes benchmarks/README.md, unless `--json` says where figures go.

Every contender judges the same maps of the same inputs, and metrics that explain anew call the same
explanation. Contenders take turns, and medians are compared. Peers that are not installed are left
out, and named. Where a peer does less than ours or something else, the row says so; where it does
the same and nothing is drawn, nothing is timed before the values agree.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import report
import torch
from clock import QUICK as QUICK_EFFORT
from clock import Contender, Effort, quantiles, race
from ig_cases import CASES, Case, digits
from machine import RESULTS, ROOT, cpu_name, machine, short_name
from torch import Tensor, nn

from pyxai_fast import Saliency, metrics
from pyxai_fast.metrics.information_curves import THRESHOLDS

THREADS = 1
EFFORT = Effort(seconds=10, fewest=5, most=15)
QUICK_CASE = Case("digits conv net", digits, (2, 1, 28, 28))
CASE_NAMES = ("strided conv net", "digits conv net")
PEERS = ("captum", "quantus", "saliency")
OURS = "ours"

# Makes a number, or one for each input.
Call = Callable[[], Any]


@dataclass(frozen=True)
class Settings:
    runs: int = 100
    subset: int = 224
    samples: int = 10
    sigma: float = 0.1
    radius: float = 0.02
    # Of deletion, for each channel: a divisor of the number of pixels, which Quantus wants.
    steps: int = 14
    # Shares of the pixels that ROAD removes, in percent.
    removed: tuple[int, ...] = (10, 50, 90)
    # Where information is measured: pictures, and of their pixels those that are known at first.
    curves: int = 2
    known: float = 0.01


QUICK_SETTINGS = Settings(runs=4, subset=30, samples=2, steps=4, removed=(50,))


@dataclass(frozen=True)
class Task:
    """What is judged: inputs, the predicted classes, and one signed map for each, [B, 1, H, W]."""

    net: nn.Module
    inputs: Tensor
    target: Tensor
    slopes: Tensor
    maps: Tensor
    mask: Tensor
    settings: Settings

    @property
    def arrays(self) -> dict[str, Any]:
        """What Quantus takes; its metrics write into attributions."""
        return {
            "model": self.net,
            "x_batch": self.inputs.cpu().numpy(),
            "y_batch": self.target.cpu().numpy(),
            "channel_first": True,
            "device": str(self.inputs.device),
        }

    def judged(self) -> dict[str, Any]:
        return self.arrays | {"a_batch": self.maps.cpu().numpy().copy()}


@dataclass(frozen=True)
class Match:
    """A metric, and how each contender is called.

    Attributes:
        note: what is not the same for all.
        same: whether all must find the same values.
    """

    metric: str
    calls: dict[str, Call]
    note: str = ""
    same: bool = False


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="do they run? Few small inputs")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--metrics", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--json", type=Path, help="where to write the figures, in place of results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    partly = options.quick or options.metrics or options.device != "cpu"
    path = options.json
    if path is None and not partly:
        path = RESULTS / "metrics" / f"{short_name(cpu_name())}.json"
        path.parent.mkdir(exist_ok=True)
    for results in measured(torch.device(options.device), options.quick, options.metrics):
        if path:  # after every row, so that what ends the run leaves what was measured
            path.write_text(json.dumps(results, indent=1) + "\n")
    if path and options.json is None:
        report.main()
        print(f"wrote {path.relative_to(ROOT)} and {report.README.relative_to(ROOT)}")


def measured(
    device: torch.device, quick: bool = False, wanted: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """The figures, after each row; what they are is printed."""
    peers = {name: peer for name in PEERS if (peer := _imported(name)) is not None}
    results: dict[str, Any] = {
        "machine_info": machine(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "missing": [name for name in PEERS if name not in peers],
        "rows": [],
    }
    print(", ".join(f"{key} {value}" for key, value in results["machine_info"].items()))
    if results["missing"]:
        print(f"not installed, and left out: {', '.join(results['missing'])}")
    cases = [QUICK_CASE] if quick else [CASES[name] for name in CASE_NAMES]
    for case in cases:
        task = task_of(case, device, QUICK_SETTINGS if quick else Settings())
        for match in matches(task, peers):
            if wanted and match.metric not in wanted:
                continue
            row = run(match, device, QUICK_EFFORT if quick else EFFORT)
            results["rows"].append({"case": case.name, "shape": list(case.shape), **row})
            print(told(results["rows"][-1]), flush=True)
            yield results


def run(match: Match, device: torch.device, effort: Effort) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of captum and Quantus, about their arguments
        values = {name: _mean(call()) for name, call in match.calls.items()}
        if match.same:
            agreed(match.metric, values)
        contenders = {name: Contender(call, nullcontext) for name, call in match.calls.items()}
        times = race(contenders, device, effort)
    seconds = {name: quantiles(each) for name, each in times.items()}
    return {
        "metric": match.metric,
        "note": match.note,
        "seconds": seconds,
        "rounds": {name: len(each) for name, each in times.items()},
        "speedup": {
            name: round(each[0] / seconds[OURS][0], 2)
            for name, each in seconds.items()
            if name != OURS
        },
        "mean_value": values,
    }


def agreed(metric: str, values: dict[str, float]) -> None:
    """Raises where the peers' mean values are not ours."""
    for name, value in values.items():
        if not math.isclose(value, values[OURS], rel_tol=1e-4, abs_tol=1e-6):
            raise SystemExit(f"{metric}: {name} finds {value}, ours {values[OURS]}")


def told(row: dict[str, Any]) -> str:
    times = ", ".join(
        f"{name} {each[0]:.4g} s"
        + (f" ({row['speedup'][name]:.2f}x)" if name in row["speedup"] else "")
        for name, each in row["seconds"].items()
    )
    shape = "x".join(map(str, row["shape"]))
    return f"{row['metric']}, {shape}: {times}" + (f"; {row['note']}" if row["note"] else "")


# --- what is judged ------------------------------------------------------------------------------


def task_of(case: Case, device: torch.device, settings: Settings) -> Task:
    net, inputs = case.model().to(device), case.inputs().to(device)
    with torch.no_grad():
        target = net(inputs).argmax(1)
    slopes = Saliency(net).attribute(inputs, target, abs=False)
    mask = torch.zeros(len(inputs), 1, *inputs.shape[2:], dtype=torch.bool, device=device)
    height, width = inputs.shape[2:]
    mask[..., height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = True
    maps = slopes.abs().sum(1, keepdim=True)
    return Task(net, inputs, target, slopes, maps, mask, settings)


def slopes(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    """The explanation that all contenders ask for: plain autograd."""
    inputs = inputs.detach().requires_grad_()
    with torch.enable_grad():
        score = model(inputs).gather(1, target[:, None]).sum()
        (found,) = torch.autograd.grad(score, inputs)
    return found.abs()


def slopes_for_quantus(model: nn.Module, inputs: Any, targets: Any, **options: Any) -> Any:
    device = next(model.parameters()).device
    rows = torch.as_tensor(inputs, dtype=torch.float32, device=device)
    return slopes(model, rows, torch.as_tensor(targets, device=device)).cpu().numpy()


# --- matches -------------------------------------------------------------------------------------


def matches(task: Task, peers: dict[str, Any]) -> Iterator[Match]:
    yield of_subsets(task, peers)
    yield of_noise(task, peers)
    yield of_sensitivity(task, peers)
    yield of_forgetting(task, peers)
    yield of_deletion(task, peers)
    yield of_imputed(task, peers)
    yield of_information(task, peers)
    yield from of_maps(task, peers)


def of_subsets(task: Task, peers: dict[str, Any]) -> Match:
    at = task.settings
    calls: dict[str, Call] = {
        OURS: lambda: metrics.faithfulness_correlation(
            task.net, task.inputs, task.slopes, task.target, n_runs=at.runs,
            subset_size=at.subset, output="logit",
        )
    }  # fmt: skip
    if "quantus" in peers:
        metric = peers["quantus"].FaithfulnessCorrelation(
            nr_runs=at.runs, subset_size=at.subset, return_aggregate=False, disable_warnings=True
        )
        slopes = task.slopes.cpu().numpy()
        calls["Quantus"] = lambda: metric(**task.arrays, a_batch=slopes.copy())
    return Match("faithfulness_correlation", calls)


def of_noise(task: Task, peers: dict[str, Any]) -> Match:
    at = task.settings
    calls: dict[str, Call] = {
        OURS: lambda: metrics.infidelity(
            task.net, task.inputs, task.slopes, task.target, n_samples=at.samples,
            perturbations=at.sigma,
        )
    }  # fmt: skip
    if "captum" in peers:
        captum = importlib.import_module("captum.metrics")

        def noisy(rows: Tensor) -> tuple[Tensor, Tensor]:
            noise = at.sigma * torch.randn_like(rows)
            return noise, rows - noise

        calls["captum"] = lambda: captum.infidelity(
            task.net, noisy, task.inputs, task.slopes, target=task.target,
            n_perturb_samples=at.samples,
        )  # fmt: skip
    return Match("infidelity", calls)


def of_sensitivity(task: Task, peers: dict[str, Any]) -> Match:
    at = task.settings
    calls: dict[str, Call] = {
        OURS: lambda: metrics.max_sensitivity(
            lambda inputs: slopes(task.net, inputs, task.target), task.inputs,
            radius=at.radius, n_samples=at.samples,
        )
    }  # fmt: skip
    if "captum" in peers:
        captum = importlib.import_module("captum.metrics")

        def explained(inputs: Any, target: Tensor) -> Any:
            # captum gives the inputs themselves in a tuple, and wants a tuple back.
            if isinstance(inputs, tuple):
                return tuple(slopes(task.net, each, target) for each in inputs)
            return slopes(task.net, inputs, target)

        calls["captum"] = lambda: captum.sensitivity_max(
            explained, task.inputs, perturb_radius=at.radius, n_perturb_samples=at.samples,
            target=task.target,
        )  # fmt: skip
    if "quantus" in peers:
        metric = peers["quantus"].MaxSensitivity(
            nr_samples=at.samples, lower_bound=at.radius, disable_warnings=True
        )
        calls["Quantus"] = lambda: metric(**task.arrays, explain_func=slopes_for_quantus)
    return Match("max_sensitivity", calls)


def of_forgetting(task: Task, peers: dict[str, Any]) -> Match:
    calls: dict[str, Call] = {
        OURS: lambda: metrics.mprt(task.net, slopes, task.inputs, task.target).similarity[
            "spearman"
        ]
    }
    if "quantus" in peers:
        metric = peers["quantus"].MPRT(disable_warnings=True)

        def theirs() -> list[list[float]]:
            found = metric(**task.arrays, explain_func=slopes_for_quantus)
            return [values for name, values in found.items() if name != "original"]

        calls["Quantus"] = theirs
    return Match("mprt", calls)


def of_deletion(task: Task, peers: dict[str, Any]) -> Match:
    steps = task.settings.steps * task.inputs.shape[1]
    calls: dict[str, Call] = {
        OURS: lambda: metrics.deletion(
            task.net, task.inputs, task.maps, task.target, n_steps=steps
        ).scores[1:]
    }
    if "quantus" in peers:
        metric = peers["quantus"].PixelFlipping(
            features_in_step=task.inputs[0].numel() // steps, disable_warnings=True
        )
        calls["Quantus"] = lambda: metric(**task.judged(), softmax=True)
    return Match("deletion", calls, "Quantus ranks channels one by one")


def of_imputed(task: Task, peers: dict[str, Any]) -> Match:
    at = task.settings
    calls: dict[str, Call] = {
        OURS: lambda: metrics.road(
            task.net, task.inputs, task.maps, task.target,
            fractions=[percent / 100 for percent in at.removed],
        ).most_first.scores
    }  # fmt: skip
    if "quantus" in peers and task.inputs.shape[1] > 1:
        return Match("road", calls, "Quantus's takes grey pictures alone")
    if "quantus" in peers:
        metric = peers["quantus"].ROAD(percentages=list(at.removed), disable_warnings=True)
        calls["Quantus"] = lambda: list(metric(**task.judged()).values())
    note = "ours removes the first and the last of the ranking, Quantus the first; and it counts"
    return Match("road", calls, f"{note} classes that stay, where ours gives probabilities")


class Detail(nn.Module):
    """Sure of the first of two classes where neighbouring pixels differ as those of noise do: what
    a picture has, and hardly anything of it when it is blurred."""

    def forward(self, pixels: Tensor) -> Tensor:
        rough = (pixels[..., 1:] - pixels[..., :-1]).abs().mean((1, 2, 3))
        return torch.stack((60 * (rough - 1 / 6), torch.zeros_like(rough)), 1)


def of_information(task: Task, peers: dict[str, Any]) -> Match:
    """The areas of some pictures: those of SIC, then those of AIC."""
    some = slice(task.settings.curves)
    net, inputs, maps = Detail(), task.inputs[some], task.maps[some].double()
    generator = torch.Generator().manual_seed(2)
    start = torch.rand(inputs[:, 0].shape, generator=generator) < task.settings.known

    def ours() -> Tensor:
        found = metrics.performance_information(net, inputs, maps, 0, start=start)
        return torch.cat((found.sic.area, found.aic.area))

    calls: dict[str, Call] = {OURS: ours}
    if "saliency" in peers:
        if not hasattr(np, "trapz"):  # which it asks for, and NumPy has renamed
            setattr(np, "trapz", np.trapezoid)  # noqa: B010
        pic = importlib.import_module("saliency.metrics.pic")
        grey = inputs.shape[1] == 1
        pixels = (inputs * 255).round().byte().cpu()
        pictures = (pixels[:, 0] if grey else pixels.movedim(1, 3)).numpy()
        rankings, known = maps[:, 0].cpu().numpy(), start.numpy()

        @torch.no_grad()
        def score(images: Any, accuracy: bool) -> Any:
            rows = torch.from_numpy(images).to(inputs.device)
            logits = net((rows[:, None] if grey else rows.movedim(3, 1)) / 255)
            said = logits.argmax(1) == 0 if accuracy else logits.double().softmax(1)[:, 0]
            return said.double().tolist()

        def theirs() -> list[float]:
            return [
                pic.compute_pic_metric(
                    picture, ranking, first, partial(score, accuracy=accuracy), THRESHOLDS
                ).auc
                for accuracy in (False, True)
                for picture, ranking, first in zip(pictures, rankings, known, strict=True)
            ]

        calls["PAIR"] = theirs
    note = f"SIC and AIC of the first {len(inputs)}; PAIR's blurs anew for each, channel by channel"
    return Match("performance_information", calls, note, same=True)


def of_maps(task: Task, peers: dict[str, Any]) -> Iterator[Match]:
    """Metrics that ask no model."""
    of_one: dict[str, tuple[Call, str, dict[str, Any]]] = {
        "complexity": (lambda: metrics.complexity(task.maps), "Complexity", {}),
        "sparseness": (lambda: metrics.sparseness(task.maps), "Sparseness", {}),
        "pointing_game": (
            lambda: metrics.pointing_game(task.maps, task.mask),
            "PointingGame",
            {"s_batch": task.mask.cpu().numpy()},
        ),
        "energy_inside": (
            lambda: metrics.energy_inside(task.maps, task.mask),
            "RelevanceMassAccuracy",
            {"s_batch": task.mask.cpu().numpy()},
        ),
    }
    for name, (ours, theirs, more) in of_one.items():
        calls = {OURS: ours}
        if "quantus" in peers:
            metric = getattr(peers["quantus"], theirs)(disable_warnings=True)
            calls["Quantus"] = lambda metric=metric, more=more: metric(**task.judged(), **more)
        yield Match(name, calls, same=True)


# --- peers ---------------------------------------------------------------------------------------


def _mean(found: Any) -> float:
    values = found.detach().cpu().numpy() if isinstance(found, Tensor) else found
    return float(f"{np.asarray(values, dtype=float).mean():.6g}")


def _imported(name: str) -> Any | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


if __name__ == "__main__":
    main()
