"""The loop that trainings share: steps, a running mean of the weights, checkpoints, going on.

What happens in a step depends on the recipe and the step's number alone, so that a run that goes on
from a checkpoint gives the bits of one that was never stopped.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArgumentError
from .progress import progress_bar
from .random_state import seed_torch

CHECKPOINT, REPORT = "checkpoint.pt", "recipe.json"
# By a checkpoint.
_HELD = {
    "recipe", "fingerprint", "step", "seconds", "history", "network", "ema", "optimiser",
}  # fmt: skip
# In names of files that are being written.
_UNFINISHED = ".new-"
# Steps between looks at the loss, which on a GPU wait for it.
LOOK_EVERY = 50


class TrainingError(RuntimeError):
    """Training went wrong; the message is one line that says what to do."""


class TrainingRun:
    """A run: what a checkpoint holds, and what is made of the recipe again.

    Args:
        what: the function's name, for messages.
        recipe: a dataclass with steps, batch_size, learning_rate, weight_decay, warm_up,
            gradient_clip, ema and seed.
        fingerprint: of the data; data: what messages call them.
        network: what is trained, on the device already.
        device: where.
    """

    def __init__(
        self,
        what: str,
        recipe: Any,
        fingerprint: str,
        network: nn.Module,
        device: torch.device,
        data: str = "pictures",
    ) -> None:
        self.what, self.recipe, self.fingerprint, self.data = what, recipe, fingerprint, data
        self.network, self.device = network, device
        self.ema = copy.deepcopy(network).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(
            network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, Any]] = []
        self._losses: dict[str, Tensor] = {}
        self._steps = 0

    # What a kind of training defines.

    def losses(self) -> dict[str, Tensor]:
        """Of the step self.step, by name; their sum is what is lowered."""
        raise NotImplementedError

    def measure(self) -> str:
        """Adds an entry to the history, and says it in a line."""
        raise NotImplementedError

    # Steps.

    def train(self, steps: int, done: Callable[[int], object]) -> None:
        self.network.train()
        began = time.perf_counter()
        self._losses, self._steps = {}, steps
        for number in range(steps):
            self._take_step()
            done(1)
            look = number % LOOK_EVERY == LOOK_EVERY - 1 or number == steps - 1
            if look and not bool(torch.stack(list(self._losses.values())).isfinite().all()):
                raise TrainingError(
                    f"{self.what}: the loss is nan or inf at step {self.step}; try a lower "
                    f"learning rate than {self.recipe.learning_rate:g}"
                )
        self.seconds += time.perf_counter() - began

    def _take_step(self) -> None:
        recipe = self.recipe
        seed_torch(seed_of(recipe.seed, "step", self.step), self.device)
        losses = self.losses()
        self.optimiser.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), recipe.gradient_clip)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate_at(recipe, self.step)
        self.optimiser.step()
        # The mean of few weights is not held back by those that were there at the start.
        decay = min(recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.ema.parameters()), list(self.network.parameters()), 1 - decay
            )
            for name, loss in losses.items():
                self._losses[name] = self._losses.get(name, 0.0) + loss.detach()
        self.step += 1

    def mean_losses(self) -> dict[str, float]:
        """Over the steps of the last call of `train`."""
        return {name: round(float(sums) / self._steps, 6) for name, sums in self._losses.items()}

    def levels(self, count: int, n_levels: int) -> Tensor:
        """Levels of noise for the rows of a batch, [count].

        One draw for all, at even distances: the batch's levels are spread as the levels are
        (Kingma et al., "Variational Diffusion Models", 2021, appendix I.1).
        """
        places = torch.arange(count, device=self.device) / count
        places = (places + torch.rand(1, device=self.device)) % 1
        return (places * n_levels).long().clamp(max=n_levels - 1)

    # Checkpoints.

    def save(self, path: Path) -> None:
        state = {
            "recipe": asdict(self.recipe),
            "fingerprint": self.fingerprint,
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "network": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        write_whole(path, lambda there: torch.save(state, there))

    def load(self, path: Path) -> None:
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            if not set(state) >= _HELD:
                raise ValueError("it lacks " + ", ".join(sorted(_HELD - set(state))))
        except Exception as error:
            raise ArgumentError(
                f"{self.what}: the checkpoint {path} cannot be read; start again with overwrite"
            ) from error
        for field in fields(self.recipe):
            now, then = getattr(self.recipe, field.name), state["recipe"].get(field.name)
            if now != (tuple(then) if isinstance(now, tuple) else then):
                raise ArgumentError(
                    f"{self.what}: {field.name} must be {then!r}, as when {path} was written, got "
                    f"{now!r}"
                )
        if state["fingerprint"] != self.fingerprint:
            raise ArgumentError(
                f"{self.what}: the {self.data} are not those that {path} was trained on"
            )
        self.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.history = state["history"]


def drive(
    run: TrainingRun,
    out: Path,
    *,
    resume: bool,
    checkpoint_every: int,
    progress: bool,
    say: Callable[[str], object],
    name: str,
    seen: Callable[[], object] = lambda: None,
) -> None:
    """All steps of a run, with what is told, `seen` and written at each checkpoint."""
    steps = run.recipe.steps
    if resume and (out / CHECKPOINT).exists():
        run.load(out / CHECKPOINT)
        say(f"going on from step {run.step} of {steps}")
    bar = progress_bar(progress, steps, name, unit=" steps")
    bar.update(run.step)
    try:
        while run.step < steps:
            run.train(
                min(checkpoint_every - run.step % checkpoint_every, steps - run.step), bar.update
            )
            say(run.measure())
            seen()
            run.save(out / CHECKPOINT)
    finally:
        bar.close()


def claim(
    what: str,
    made: str,
    out: Path,
    written: Sequence[str],
    recipe: Any,
    fingerprint: str,
    resume: bool,
    overwrite: bool,
    unfinished: Sequence[str] = (CHECKPOINT,),
    data: str = "pictures",
) -> dict[str, Any] | None:
    """Makes the folder ready; the report of a run that is finished already, when resuming.

    `written` are the names of all that a run writes, `unfinished` those that only one that goes on
    has; `made` is what it makes, for messages.
    """
    if resume and overwrite:
        raise ArgumentError(f"{what}: resume and overwrite exclude each other, got both")
    if out.exists() and not out.is_dir():
        raise ArgumentError(f"{what}: out must be a folder, got the file {out}")
    there = [name for name in written if (out / name).exists()]
    if resume and (out / REPORT).exists():
        report = _report_of(what, out / REPORT)
        same = report.get("data", {}).get("fingerprint") == fingerprint
        if same and report.get("recipe") == json.loads(json.dumps(asdict(recipe))):
            return report
        raise ArgumentError(
            f"{what}: {out} holds a finished {made} of "
            f"{'another recipe' if same else f'other {data}'}; overwrite it or name another folder"
        )
    going_on = resume and any((out / name).exists() for name in unfinished)
    if there and not going_on and not overwrite:
        raise ArgumentError(
            f"{what}: {out} already has {there[0]}; resume, overwrite or name another folder"
        )
    if overwrite:
        for name in there:
            path = out / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    out.mkdir(parents=True, exist_ok=True)
    # What a run that was killed left; no other writes to this folder.
    for left in out.glob(f".*{_UNFINISHED}*"):
        left.unlink()
    return None


def _report_of(what: str, path: Path) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(report, dict) and isinstance(report.get("data", {}), dict):
            return report
        reason = "it holds something else"
    except (ValueError, RecursionError) as error:
        reason = str(error)
    raise ArgumentError(
        f"{what}: the report {path} cannot be read; start again with overwrite ({reason})"
    )


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """All or nothing: a file is in place when it is complete, whoever else writes it meanwhile."""
    new = path.with_name(f".{path.name}{_UNFINISHED}{uuid.uuid4().hex}{path.suffix}")
    try:
        write(new)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def learning_rate_at(recipe: Any, step: int) -> float:
    """Of a step, from 0: rises linearly to its peak, then falls as a cosine, to zero."""
    peak: float = recipe.learning_rate
    if step < recipe.warm_up:
        rising: float = peak * (step + 1) / recipe.warm_up
        return rising
    done = (step - recipe.warm_up) / max(recipe.steps - recipe.warm_up, 1)
    falling: float = peak * 0.5 * (1 + math.cos(math.pi * done))
    return falling


def seed_of(seed: int, what: str, number: int = 0) -> int:
    """One for each purpose and number. 32 bits, which is what torch's CPU generator takes."""
    text = f"{seed}/{what}/{number}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big")


def generator_of(seed: int, what: str, number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(seed, what, number))
