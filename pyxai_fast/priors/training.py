"""Train a diffusion network on pictures, so that there is a prior for them."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import ArgumentError
from ..models.errors import MissingDependency
from ..plots import save_image
from ..runtime.random_state import seed_torch
from ..runtime.training import (
    CHECKPOINT,
    REPORT,
    TrainingRun,
    claim,
    drive,
    generator_of,
    seed_of,
    write_whole,
)
from ..version import __version__
from .diffusion import DiffusionPrior
from .recipe import PriorRecipe
from .sampling import sample
from .training_data import Pictures, check_enough

SAMPLES = "samples.png"
# What is written: the pipeline, the report and the pictures, and a checkpoint until it is done.
WRITTEN = ("model_index.json", "unet", "scheduler", REPORT, SAMPLES, CHECKPOINT)
# Where the held-out loss is measured, in shares of the levels.
MEASURED_AT = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8)
MOST_MEASURED = 256
LEAST_PICTURES = 10
GRID_SIDE = 8
GRID_STEPS = 50


def train_prior(
    pictures: Pictures,
    recipe: PriorRecipe,
    out: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    resume: bool = False,
    overwrite: bool = False,
    checkpoint_every: int = 1000,
    progress: bool = True,
    say: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Train on pictures and write a DDPMPipeline, which DiffusionPrior.from_pretrained reads.

    The objective is DDPM's (Ho, Jain and Abbeel, 2020, equation 14): the mean squared error of the
    predicted noise. What happens in a step depends on the recipe and the step's number alone, so
    that a run that goes on from a checkpoint gives the bits of one that was never stopped.

    Args:
        pictures: see load_pictures.
        recipe: of their size and channels.
        out: folder: the pipeline, recipe.json (recipe, losses, versions), samples.png.
        device: where to train.
        resume: go on from the folder's checkpoint, if it has one.
        overwrite: replace an earlier result.
        checkpoint_every: steps between checkpoints, held-out losses and new samples.
        progress: show a bar (needs tqdm).
        say: what is told at checkpoints, one line each.

    Returns:
        The report, as in recipe.json.

    Raises:
        ArgumentError: an argument does not fit, or the folder is taken.
        MissingDependency: diffusers is not installed.
        TrainingError: the loss is no longer a number.
    """
    out, device = Path(out), torch.device(device)
    shape = tuple(pictures.pixels.shape[1:])
    if shape != (recipe.channels, recipe.size, recipe.size):
        raise ArgumentError(
            f"train_prior: pictures must be {recipe.channels}x{recipe.size}x{recipe.size}, as the "
            f"recipe says, got {'x'.join(map(str, shape))}"
        )
    check_enough(pictures, LEAST_PICTURES)
    if checkpoint_every < 1:
        raise ArgumentError(
            f"train_prior: checkpoint_every must be at least 1, got {checkpoint_every!r}"
        )
    if len(pictures) - _held_out(recipe, pictures) < 1:
        raise ArgumentError(
            f"train_prior: held_out must leave pictures to train on, got {recipe.held_out} of "
            f"{len(pictures)}"
        )
    finished = claim(
        "train_prior", "prior", out, WRITTEN, recipe, pictures.fingerprint, resume, overwrite
    )
    if finished is not None:
        say(f"{out} is finished")
        return finished
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        run = _Run(pictures, recipe, device)
        drive(
            run,
            out,
            resume=resume,
            checkpoint_every=checkpoint_every,
            progress=progress,
            say=say,
            name="train-prior",
            seen=lambda: save_grid(
                run.prior(), out / SAMPLES, GRID_STEPS, seed=recipe.seed, device=device
            ),
        )
    report = run.report()
    run.save_pipeline(out)
    write_whole(out / REPORT, lambda path: path.write_text(json.dumps(report, indent=2) + "\n"))
    (out / CHECKPOINT).unlink(missing_ok=True)
    return report


def make_unet(recipe: PriorRecipe) -> Any:
    """The network of a recipe, diffusers' UNet2DModel, with random weights."""
    diffusers = _diffusers()
    attends = [side in recipe.attention for side in recipe.sides]
    down = tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attends)
    up = tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends))
    return diffusers.UNet2DModel(
        sample_size=recipe.size,
        in_channels=recipe.channels,
        out_channels=recipe.channels,
        block_out_channels=recipe.widths,
        down_block_types=down,
        up_block_types=up,
        layers_per_block=recipe.layers,
        norm_num_groups=recipe.norm_groups,
        attention_head_dim=recipe.norm_groups,
        add_attention=attends[-1],
        dropout=recipe.dropout,
    )


def make_scheduler(recipe: PriorRecipe) -> Any:
    # The betas are those of 1000 levels; with fewer, each takes as much more of the signal.
    factor = 1000 / recipe.levels
    return _diffusers().DDPMScheduler(
        num_train_timesteps=recipe.levels,
        beta_start=1e-4 * factor,
        beta_end=min(2e-2 * factor, 0.999),
    )


def held_out_losses(prior: DiffusionPrior, pixels: Tensor, device: torch.device) -> dict[str, Any]:
    """The mean squared error of the predicted noise, by level, for the same noise every time.

    An answer of no noise at all has an error of 1.
    """
    clean = prior.encode(pixels.to(device))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(device)
    losses: dict[str, float] = {}
    for level in (int(at * len(prior.shares)) for at in MEASURED_AT):
        share = float(prior.shares[level])
        noisy = share**0.5 * clean + (1 - share) ** 0.5 * noise
        error = prior.predict_noise(noisy, level) - noise
        losses[str(level)] = round(float(error.square().mean()), 6)
    return losses


def save_grid(
    prior: DiffusionPrior,
    path: Path,
    n_steps: int,
    *,
    side: int = GRID_SIDE,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> None:
    """A picture of side times side samples."""
    assert prior.shape is not None  # the recipe's
    n_steps = min(n_steps, len(prior.shares))
    drawn = sample(prior, (side * side, *prior.shape), n_steps=n_steps, seed=seed, device=device)
    channels, height, width = drawn.shape[1:]
    rows = drawn.reshape(side, side, channels, height, width).permute(0, 3, 1, 4, 2)
    grid = rows.reshape(side * height, side * width, channels)
    array = (grid.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    array = array[:, :, 0] if channels == 1 else array
    write_whole(path, lambda there: save_image(array, there))


class _Run(TrainingRun):
    """The network of a prior, and the pictures that it is trained and measured on."""

    def __init__(self, pictures: Pictures, recipe: PriorRecipe, device: torch.device) -> None:
        self.pictures = pictures
        order = torch.randperm(len(pictures), generator=generator_of(recipe.seed, "split"))
        count = _held_out(recipe, pictures)
        self.held_out = pictures.take(order[:count][:MOST_MEASURED])
        self.trained_on = order[count:]
        self.scheduler = make_scheduler(recipe)
        self.shares = self.scheduler.alphas_cumprod.to(device)
        seed_torch(seed_of(recipe.seed, "weights"), device)
        unet = make_unet(recipe).to(device)
        super().__init__("train_prior", recipe, pictures.fingerprint, unet, device)
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    # --- steps -----------------------------------------------------------------------------------

    def losses(self) -> dict[str, Tensor]:
        recipe = self.recipe
        clean = self._batch() * 2 - 1
        noise = torch.randn_like(clean)
        levels = self.levels(len(clean), recipe.levels)
        share = self.shares[levels].reshape(-1, 1, 1, 1)
        noisy = share.sqrt() * clean + (1 - share).sqrt() * noise
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.bf16):
            answer = self.network(noisy, levels).sample
        return {"noise": functional.mse_loss(answer.float(), noise)}

    def _batch(self) -> Tensor:
        """The pictures of this step, every picture once before any comes again, [B, C, S, S]."""
        recipe, count = self.recipe, len(self.trained_on)
        places = range(self.step * recipe.batch_size, (self.step + 1) * recipe.batch_size)
        chosen = torch.stack([self._epoch(place // count)[place % count] for place in places])
        batch = self.pictures.take(chosen).to(self.device)
        if recipe.flip:
            mirrored = torch.rand(len(batch), 1, 1, 1, device=self.device) < 0.5
            batch = torch.where(mirrored, batch.flip(3), batch)
        return shifted(batch, recipe.shift) if recipe.shift else batch

    def _epoch(self, number: int) -> Tensor:
        if self._order[0] != number:
            generator = generator_of(self.recipe.seed, "epoch", number)
            order = torch.randperm(len(self.trained_on), generator=generator)
            self._order = number, self.trained_on[order]
        return self._order[1]

    # --- what has become of it -------------------------------------------------------------------

    def prior(self) -> DiffusionPrior:
        most = max(self.recipe.batch_size, GRID_SIDE**2)
        return DiffusionPrior(self.ema, self.scheduler, max_rows=most)

    def measure(self) -> str:
        losses = held_out_losses(self.prior(), self.held_out, self.device)
        entry = {
            "step": self.step,
            "training_loss": self.mean_losses()["noise"],
            "held_out_loss": round(sum(losses.values()) / len(losses), 6),
            "held_out_loss_by_level": losses,
        }
        self.history.append(entry)
        return (
            f"step {self.step} of {self.recipe.steps}: loss {entry['training_loss']:.4f}, held out "
            f"{entry['held_out_loss']:.4f}, {self.seconds:.0f} s"
        )

    def report(self) -> dict[str, Any]:
        last = self.history[-1]
        return {
            "recipe": asdict(self.recipe),
            "data": {
                "source": Path(self.pictures.source).name,
                "pictures": len(self.trained_on),
                "held_out": len(self.pictures) - len(self.trained_on),
                "fingerprint": self.pictures.fingerprint,
            },
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "training_loss": last["training_loss"],
            "held_out_loss": last["held_out_loss"],
            "held_out_loss_by_level": last["held_out_loss_by_level"],
            "history": [
                {name: entry[name] for name in ("step", "training_loss", "held_out_loss")}
                for entry in self.history
            ],
            "seconds": round(self.seconds, 1),
            "device": self.device.type,
            "threads": torch.get_num_threads(),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "diffusers": _diffusers().__version__,
                "pyxai_fast": __version__,
            },
        }

    def save_pipeline(self, out: Path) -> None:
        pipeline = _diffusers().DDPMPipeline(unet=self.ema, scheduler=self.scheduler)
        pipeline.save_pretrained(out)


def shifted(pictures: Tensor, most: int) -> Tensor:
    """Each picture moved by up to `most` pixels each way; its edges are repeated."""
    count, _, height, width = pictures.shape
    device = pictures.device
    down, right = torch.randint(-most, most + 1, (2, count, 1), device=device)
    rows = (torch.arange(height, device=device) - down).clamp(0, height - 1)
    columns = (torch.arange(width, device=device) - right).clamp(0, width - 1)
    numbers = torch.arange(count, device=device)[:, None, None]
    moved = pictures.permute(0, 2, 3, 1)[numbers, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2).contiguous()


def _held_out(recipe: PriorRecipe, pictures: Pictures) -> int:
    return max(1, round(recipe.held_out * len(pictures)))


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise MissingDependency(
            "train_prior: diffusers is needed; run: pip install pyxai-fast[diffusion]"
        ) from error
    return diffusers
