"""What the demo measures: each method on each backend, and the table that says what it cost."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyxai_fast import ops
from pyxai_fast.combinations import COMBINATIONS
from pyxai_fast.demo.path_model import load_demo_path_model
from pyxai_fast.explanation import Explanation
from pyxai_fast.front_door import explain
from pyxai_fast.methods import METHODS
from pyxai_fast.priors import Prior

# The method that is run on every backend, not only on the best one.
COMPARED = "integrated_gradients"
REPEATS = 3  # timed calls of each run
# The method that asks a diffusion prior: one timed call, and fewer particles than its default.
ON_MANIFOLD, PARTICLES = "freemcg", 32
# The method with references: the digits themselves.
REFERRED = "expected_gradients"
# Paths, with options for digits: from the blurred digit, whose strokes are a few pixels wide; along
# fewer random paths than by default.
PATHS: dict[str, dict[str, Any]] = {
    "blur_ig": {"max_sigma": 8.0, "schedule": "geometric"},
    "stick_breaking_ig": {"n_paths": 4},
    "diffusion_ig": {"n_paths": 4},
}
LEARNT = "diffusion_ig"
N_ASCENT = 4  # gradients from each point, of the method that climbs
N_QUERIES = 300  # of the methods that hide segments
# Those that train a network for each digit: one timed call.
TRAINED = ("dax", "student_gradient")
COLUMNS = (
    "method",
    "backend",
    "gradients",
    "queries",
    "ms per input",
    "completeness gap",
    "relative gap",
)


@dataclass(frozen=True)
class Run:
    """One method on one backend.

    Attributes:
        backend: "cpu" (C++ kernels) or "reference" (PyTorch).
        explanation: of the last repetition.
        seconds: wall time of one call to explain, for the whole batch; of the fastest repetition,
            since other work on the machine can only add to it.
    """

    backend: str
    explanation: Explanation
    seconds: float

    @property
    def method(self) -> str:
        """The method's name in METHODS."""
        return self.explanation.method

    @property
    def attributions(self) -> Tensor:
        """[B, 1, 32, 32]."""
        attributions = self.explanation.attributions
        assert isinstance(attributions, Tensor)
        return attributions

    def as_dict(self) -> dict[str, Any]:
        """One row of table.json; the gaps are None for a method that promises no completeness."""
        gap, relative = completeness(self.explanation)
        cost = self.explanation.cost
        return {
            "method": self.method,
            "backend": self.backend,
            "gradients": cost.gradients,
            "queries": cost.queries,
            "seconds_per_input": self.seconds / len(self.attributions),
            "completeness_gap": gap,
            "relative_completeness_gap": relative,
            "settings": self.explanation.settings,
        }


def cpu_backends() -> list[str]:
    """Backends that can run here on CPU tensors, the one used by default first."""
    loaded = [name for name, state in ops.backends().items() if state == "loaded"]
    return [name for name in ("cpu", "reference") if name in loaded]


def plan(with_prior: bool) -> list[tuple[str, str]]:
    """(method, backend) of every run: all methods on the default backend, one on all."""
    backends = cpu_backends()
    runs = [
        (method, backend)
        for method in (*METHODS, *PATHS)
        for backend in (backends if method == COMPARED else backends[:1])
    ]
    return [*runs, (ON_MANIFOLD, backends[0])] if with_prior else runs


@contextmanager
def fastest_threads(model: nn.Module, images: Tensor) -> Iterator[None]:
    """Within the block torch uses one thread where that is faster than the number it is set to.

    Layers of a network this small take microseconds. On a machine that is busy with something else,
    threads that meet after each of them mostly wait for the one that has lost its core.
    """
    threads = torch.get_num_threads()
    seconds = dict.fromkeys((threads, 1), 0.0)
    try:
        for i in range(6):
            for n in seconds:
                torch.set_num_threads(n)
                started = time.perf_counter()
                model(images)
                if i > 0:  # the first round sets things up
                    # A sum, not the fastest: among busy neighbours a single call may be lucky.
                    seconds[n] += time.perf_counter() - started
        torch.set_num_threads(min(seconds, key=seconds.__getitem__))
        yield
    finally:
        torch.set_num_threads(threads)


def run(
    model: nn.Module,
    images: Tensor,
    method: str,
    backend: str,
    *,
    steps: int,
    prior: Prior | None = None,
    progress: bool = False,
) -> Run:
    """Explain the predicted class of each image, and time it.

    Args:
        model: in eval mode, on the CPU; returns logits [B, n].
        images: [B, 1, 32, 32] in [0, 1].
        method: a name in METHODS or COMBINATIONS.
        backend: one of :func:`cpu_backends`.
        steps: points on the path, or noisy copies, for methods that have them.
        prior: for the method that has particles.
        progress: a progress bar for the first call, which is not timed: it also measures how much
            memory the model takes, and pays for what is set up once. (Of methods that train there
            is one call.)
    """
    options: dict[str, Any] = {
        name: steps for name in ("n_steps", "n_samples") if _takes(method, name)
    }
    if _takes(method, "n_ascent"):
        options["n_ascent"] = N_ASCENT
    if _takes(method, "n_queries"):
        options["n_queries"] = N_QUERIES
    options |= PATHS.get(method, {})
    if method == LEARNT:
        learnt = load_demo_path_model()
        options |= {"path_model": learnt, "n_steps": max(steps, learnt.config.points)}
    if method == REFERRED:
        options["baselines"] = images
    if method == ON_MANIFOLD:
        options = {"prior": prior, "n_particles": PARTICLES}
    with ops.native_kernels(backend != "reference"):
        if method not in TRAINED:
            explain(model, images, method=method, progress=progress, **options)
        seconds = []
        for _ in range(1 if method in (ON_MANIFOLD, *TRAINED) else REPEATS):
            started = time.perf_counter()
            shown = progress and method in TRAINED
            explanation = explain(model, images, method=method, progress=shown, **options)
            seconds.append(time.perf_counter() - started)
    return Run(backend, explanation, min(seconds))


def completeness(explanation: Explanation) -> tuple[float | None, float | None]:
    """Largest completeness gap of a batch, and the largest relative to its score difference.

    The gap is ``|sum(attributions) - (s(inputs) - s(baselines))|``; relative, it is divided by
    ``|s(inputs) - s(baselines)|``. None for methods that promise no completeness.
    """
    delta = explanation.delta
    if delta is None:
        return None, None
    assert isinstance(explanation.attributions, Tensor)
    gap = delta.double()
    difference = explanation.attributions.double().flatten(1).sum(1) - gap
    return float(gap.abs().max()), float((gap / difference).abs().max())


def agreement(runs: Sequence[Run]) -> str | None:
    """One sentence on how far the backends agree; None when only one could run."""
    compared = [item for item in runs if item.method == COMPARED]
    if len(compared) < 2:
        return None
    first, *others = compared
    names = " and ".join(item.backend for item in compared)
    differences = [float((item.attributions - first.attributions).abs().max()) for item in others]
    if all(torch.equal(item.attributions, first.attributions) for item in others):
        return f"{COMPARED} is the same on {names}, bit for bit."
    largest = float(first.attributions.abs().max())
    return (
        f"{COMPARED} on {names} differs by at most {max(differences):.1e}, where the largest "
        f"attribution is {largest:.1e}."
    )


def markdown(runs: Sequence[Run]) -> str:
    """The table in Markdown, with cells padded so that it also reads well in a terminal."""
    rows = [COLUMNS, *(_cells(item.as_dict()) for item in runs)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    numeric = [i > 1 for i in range(len(COLUMNS))]
    rule = tuple(
        "-" * (width - right) + ":" * right for width, right in zip(widths, numeric, strict=True)
    )
    lines = []
    for row in (rows[0], rule, *rows[1:]):
        cells = (
            f"{cell:>{width}}" if right else f"{cell:<{width}}"
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    gaps = (row["completeness_gap"], row["relative_completeness_gap"])
    return (
        row["method"],
        row["backend"],
        str(row["gradients"]),
        str(row["queries"]),
        f"{1e3 * row['seconds_per_input']:.2f}",
        *("n/a" if gap is None else f"{gap:.1e}" for gap in gaps),
    )


def _takes(method: str, option: str) -> bool:
    kind: Any = METHODS[COMBINATIONS[method].method if method in COMBINATIONS else method]
    return option in inspect.signature(kind.attribute).parameters
