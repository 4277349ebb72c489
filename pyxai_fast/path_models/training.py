"""Train a path model for a classifier: on pictures, and on what the classifier says along paths."""

from __future__ import annotations

import functools
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import ArgumentError
from ..methods import IntegratedGradients
from ..models.preprocessing import Preprocessing
from ..priors.training_data import Pictures, check_enough
from ..runtime.progress import progress_bar
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
from .codec import Codec, Pixels
from .config import GUIDES, PathModelConfig
from .guide_labels import label_paths
from .path_data import draw_concentrations, spread_of, stick_breaking_tokens
from .path_model import PATHS, WRITTEN, PathModel, need_safetensors
from .recipe import PathRecipe

LABELS = "labels.pt"
LEAST_PICTURES = 10
# Paths scored at a time: what is lost at most when labelling is interrupted, by a few of these.
LABELLED_TOGETHER, SAVED_TOGETHER = 256, 1024
# Of a picture that is trained on, so that it can be told which of them are better.
LEAST_PATHS = 4
# Pictures whose answers and codes tell classifiers and codecs apart, and how closely.
PROBED, CLOSE = 4, 1e-3
# Where the held-out loss of the noise is measured, in shares of the levels.
MEASURED_AT = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8)
MOST_MEASURED = 2048
# What differs by less is rounding.
LEAST_DEVIATION = 1e-5
# Paths of a batch that share a concentration, and so are drawn together.
SHARED = 8
# Of path data: what the diffusion model learns from, what guides do, and what is measured on.
FRESH, SCORED, MEASURED = range(3)


def train_paths(
    pictures: Pictures,
    model: Callable[[Tensor], Tensor],
    recipe: PathRecipe,
    out: str | os.PathLike[str],
    *,
    codec: Codec | None = None,
    preprocessing: Preprocessing | None = None,
    device: str | torch.device = "cpu",
    resume: bool = False,
    overwrite: bool = False,
    checkpoint_every: int = 1000,
    progress: bool = True,
    say: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Train the three networks of a path model, and write it.

    First stick-breaking paths from the baseline to pictures are scored: attributions are taken
    along each, and their faithfulness and entropy are what the guides learn to tell from the noisy
    path. What they learn is by how much a path is better than the others of its picture, in the
    standard deviation of these: guidance takes slopes, to which a picture's mean adds nothing, and
    pictures differ more than their paths do, in spread too. The diffusion model learns to predict
    the noise of paths (Ho, Jain and Abbeel, 2020, equation 14). What happens in a step depends on
    the recipe and the step's number alone, so that a run that goes on from a checkpoint gives the
    bits of one that was never stopped.

    Args:
        pictures: see `pyxai_fast.priors.training_data.load_pictures`.
        model: the classifier, from model inputs [R, C, H, W] to logits [R, n], on the device.
        recipe: of networks and paths.
        out: folder: the path model, and recipe.json (recipe, losses, correlations, versions).
        codec: the space that paths lie in; pixels by default.
        preprocessing: from pixels to model inputs.
        device: where to train.
        resume: go on from what is in the folder, if anything is.
        overwrite: replace an earlier result.
        checkpoint_every: steps between checkpoints and held-out losses.
        progress: show bars (needs tqdm).
        say: what is told at checkpoints, one line each.

    Returns:
        The report, as in recipe.json.

    Raises:
        ArgumentError: an argument does not fit, or the folder is taken.
        MissingDependency: safetensors is not installed.
        TrainingError: the loss is no longer a number.
    """
    out, device = Path(out), torch.device(device)
    codec = Pixels() if codec is None else codec
    need_safetensors(out)
    check_enough(pictures, LEAST_PICTURES)
    if checkpoint_every < 1:
        raise ArgumentError(
            f"train_paths: checkpoint_every must be at least 1, got {checkpoint_every!r}"
        )
    kept_back = max(1, round(recipe.held_out * len(pictures)))
    if kept_back >= len(pictures):
        raise ArgumentError(
            f"train_paths: held_out must leave pictures to train on, got {recipe.held_out} of "
            f"{len(pictures)}"
        )
    written = (*WRITTEN, REPORT, LABELS, CHECKPOINT)
    finished = claim(
        "train_paths",
        "path model",
        out,
        written,
        recipe,
        pictures.fingerprint,
        resume,
        overwrite,
        unfinished=(LABELS, CHECKPOINT),
    )
    probe = _probe(pictures, model, preprocessing, codec, device)
    if finished is not None:
        check_same_probe(out, finished.get("probe"), probe)
        say(f"{out} is finished")
        return finished
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        config = _config_of(pictures, recipe, codec, device)
        data = _Labelled(pictures, recipe, kept_back, config, codec, device, probe)
        data.label(model, preprocessing, out / LABELS, progress, say)
        run = _Run(data, recipe, config, codec, pictures.fingerprint, device)
        drive(
            run,
            out,
            resume=resume,
            checkpoint_every=checkpoint_every,
            progress=progress,
            say=say,
            name="train-paths",
        )
    report = run.report(pictures)
    run.path_model().save_pretrained(out)
    write_whole(out / REPORT, lambda path: path.write_text(json.dumps(report, indent=2) + "\n"))
    for name in (LABELS, CHECKPOINT):
        (out / name).unlink(missing_ok=True)
    return report


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's, of two sets [N] without ties."""
    ranks = torch.stack([row.argsort().argsort().double() for row in (first, second)])
    return float(torch.corrcoef(ranks)[0, 1])


def _config_of(
    pictures: Pictures, recipe: PathRecipe, codec: Codec, device: torch.device
) -> PathModelConfig:
    """Of the pictures' codes; the mean and deviation of the scores are found by labelling."""
    some = torch.randperm(len(pictures), generator=generator_of(recipe.seed, "codes"))[:256]
    codes = codec.encode(pictures.take(some).to(device)).float()
    deviation = float(codes.std())
    return PathModelConfig(
        shape=tuple(codes.shape[1:]),
        grid=recipe.grid if recipe.grid and codes.dim() == 4 else None,
        points=recipe.points,
        width=recipe.width,
        heads=recipe.heads,
        depth=recipe.depth,
        levels=recipe.levels,
        spread=spread_of(recipe.alphas, recipe.points),
        ends=(float(codes.mean()), deviation if deviation > 0 else 1.0),
        codec=codec.kind,
    )


def _probe(
    pictures: Pictures,
    model: Callable[[Tensor], Tensor],
    preprocessing: Preprocessing | None,
    codec: Codec,
    device: torch.device,
) -> list[float]:
    """What the classifier says of some pictures, and where their codes lie: a run that goes on
    must have the same of both."""
    pixels = pictures.take(torch.arange(min(PROBED, len(pictures)))).to(device)
    answers = IntegratedGradients(model, preprocessing=preprocessing).outputs(pixels)
    check_finite(answers)
    codes = codec.encode(pixels).double().flatten(1)
    told = torch.cat([answers.double().flatten(), codes.mean(1), codes.std(1, correction=0)])
    return [float(f"{value:.6g}") for value in told.tolist()]


def check_finite(answers: Tensor) -> None:
    if not bool(answers.isfinite().all()):
        raise ArgumentError("train_paths: the model's answers must be finite, got nan or inf")


def check_same_probe(where: Path, then: Any, now: list[float]) -> None:
    """Raises where a classifier, its preprocessing or a codec is not the one of before."""
    same = isinstance(then, list) and len(then) == len(now)
    if not same or not torch.allclose(torch.tensor(then), torch.tensor(now), CLOSE, CLOSE):
        raise ArgumentError(
            f"train_paths: {where} is of another classifier, preprocessing or autoencoder; "
            "overwrite it or name another folder"
        )


class _Labelled:
    """Paths with pictures at their ends, and what attributions along them are like.

    Path j belongs to picture j of its part, counted round and round. Held-out pictures have as
    large a share of the paths as of the pictures, at least 2 each; those that are trained on have
    at least 4 each, and where there are too many pictures for that, some are left out. Tokens are
    drawn when they are asked for: a path is its number.
    """

    def __init__(
        self,
        pictures: Pictures,
        recipe: PathRecipe,
        kept_back: int,
        config: PathModelConfig,
        codec: Codec,
        device: torch.device,
        probe: list[float],
    ) -> None:
        self.pictures, self.recipe, self.config, self.codec = pictures, recipe, config, codec
        self.probe = probe
        self.device, self.seconds = device, 0.0
        order = torch.randperm(len(pictures), generator=generator_of(recipe.seed, "split"))
        held, trained = order[:kept_back], order[kept_back:]
        self.measured = max(1, round(recipe.paths * kept_back / len(pictures)))
        self.trained = recipe.paths - self.measured
        if self.trained < LEAST_PATHS:
            raise ArgumentError(
                f"train_paths: paths must leave at least {LEAST_PATHS} to train on, got "
                f"{recipe.paths} with {self.measured} of them held out"
            )
        held = held[: max(1, self.measured // 2)]
        trained = trained[: self.trained // LEAST_PATHS]
        count = self.measured + self.trained
        self.of_picture = torch.cat(
            [
                held[torch.arange(self.measured) % len(held)],
                trained[torch.arange(self.trained) % len(trained)],
            ]
        )
        generator = generator_of(recipe.seed, "alphas")
        self.alphas = draw_concentrations(count, recipe.alphas, generator)
        self.labels = self.standard = torch.empty(0, len(GUIDES))
        self.n_pictures = len(held), len(trained)
        self.mean, self.deviation = torch.zeros(len(GUIDES)), torch.ones(len(GUIDES))

    def tokens(self, rows: Tensor) -> Tensor:
        """[R, T, P], of paths by number."""
        return stick_breaking_tokens(
            self.config, self.alphas[rows], self.recipe.seed, SCORED, numbers=rows
        )

    def label(
        self,
        model: Callable[[Tensor], Tensor],
        preprocessing: Preprocessing | None,
        path: Path,
        progress: bool,
        say: Callable[[str], object],
    ) -> None:
        count = len(self.of_picture)
        if path.exists():
            try:
                found = torch.load(path, weights_only=True)
                of, labels, seconds = found["of"], found["labels"], found["seconds"]
            except Exception as error:
                raise ArgumentError(
                    f"train_paths: the scores {path} cannot be read; start again with overwrite"
                ) from error
            if of != self._identity():
                raise ArgumentError(
                    f"train_paths: {path} holds scores of another recipe or of other pictures; "
                    "overwrite it or name another folder"
                )
            check_same_probe(path, found.get("probe"), self.probe)
            self.labels, self.seconds = labels, seconds
            if len(self.labels) < count:
                say(f"going on from path {len(self.labels)} of {count}")
        bar = progress_bar(progress, count, "scoring paths", unit=" paths")
        bar.update(len(self.labels))
        try:
            while (first := len(self.labels)) < count:
                began = time.perf_counter()
                rows = torch.arange(first, min(first + LABELLED_TOGETHER, count))
                pixels = self.pictures.take(self.of_picture[rows]).to(self.device)
                scored = self._score(model, preprocessing, pixels, self.tokens(rows))
                self.labels = torch.cat([self.labels, scored])
                self.seconds += time.perf_counter() - began
                bar.update(len(scored))
                done = len(self.labels)
                if done % SAVED_TOGETHER < LABELLED_TOGETHER or done == count:
                    state = {
                        "of": self._identity(),
                        "probe": self.probe,
                        "labels": self.labels,
                        "seconds": self.seconds,
                    }
                    write_whole(path, functools.partial(torch.save, state))
        finally:
            bar.close()
        check_finite(self.labels)
        learnt = self.labels[self.measured :]
        self.standard = standardised(self.labels, self.of_picture)
        self.mean, self.deviation = learnt.mean(0), learnt.std(0, correction=0)
        told = ", ".join(
            f"{name} {mean:.3f} +- {deviation:.3f}"
            for name, mean, deviation in zip(
                ("faithfulness", "entropy"), self.mean, self.deviation, strict=True
            )
        )
        say(f"{count} paths scored: {told}, {self.seconds:.0f} s")

    def _identity(self) -> str:
        """Of everything that decides the scores, but for what the probe tells."""
        names = ("grid", "points", "alphas", "paths", "baseline", "output", "held_out", "seed")
        recipe = {name: getattr(self.recipe, name) for name in names}
        return json.dumps([recipe, self.codec.kind, self.pictures.fingerprint])

    def _score(
        self,
        model: Callable[[Tensor], Tensor],
        preprocessing: Preprocessing | None,
        pixels: Tensor,
        tokens: Tensor,
    ) -> Tensor:
        target = IntegratedGradients(model, preprocessing=preprocessing).outputs(pixels).argmax(1)
        return label_paths(
            model,
            pixels,
            self.recipe.baseline,
            tokens.to(self.device),
            self.config,
            self.codec,
            target=target,
            output=self.recipe.output,
            preprocessing=preprocessing,
        ).cpu()

    def ends(self, rows: Tensor) -> Tensor:
        """[R, 2, C * h * w], of paths by number."""
        pixels = self.pictures.take(self.of_picture[rows]).to(self.device)
        black = torch.full_like(pixels[:1], self.recipe.baseline)
        last = self.config.seen(self.codec.encode(pixels).float())
        first = self.config.seen(self.codec.encode(black).float())
        return torch.stack([first.expand_as(last), last], 1)


class _Run(TrainingRun):
    def __init__(
        self,
        data: _Labelled,
        recipe: PathRecipe,
        config: PathModelConfig,
        codec: Codec,
        fingerprint: str,
        device: torch.device,
    ) -> None:
        scores = {
            name: (float(mean), float(deviation))
            for name, mean, deviation in zip(GUIDES, data.mean, data.deviation, strict=True)
        }
        self.paths, self.codec = data, codec
        self.config = PathModelConfig(**(asdict(config) | {"scores": scores}))
        seed_torch(seed_of(recipe.seed, "weights"), device)
        model = PathModel(self.config, codec, device=device)
        self.by_name = model.networks.requires_grad_(True)
        super().__init__("train_paths", recipe, fingerprint, self.by_name, device)
        self.shares = model.shares.float().to(device)
        generator = generator_of(recipe.seed, "measured")
        alphas = draw_concentrations(64, recipe.alphas, generator)
        self.fresh = stick_breaking_tokens(self.config, alphas, recipe.seed, MEASURED)
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def losses(self) -> dict[str, Tensor]:
        recipe = self.recipe
        clean = self._fresh_paths()
        noisy, noise, levels = self._noised(clean)
        rows = self._labelled_rows()
        seen, _, seen_levels = self._noised(self.paths.tokens(rows).to(self.device))
        ends, labels = self.paths.ends(rows), self.paths.standard[rows].to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.bf16):
            answer = self.by_name[PATHS](noisy, levels)
            said = [self.by_name[name](seen, seen_levels, ends) for name in GUIDES]
        losses = {PATHS: functional.mse_loss(answer.float(), noise)}
        for i, name in enumerate(GUIDES):
            losses[name] = functional.mse_loss(said[i].float(), labels[:, i])
        return losses

    def _noised(self, clean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        noise = torch.randn_like(clean)
        levels = self.levels(len(clean), self.recipe.levels)
        share = self.shares[levels].reshape(-1, 1, 1)
        return share.sqrt() * clean + (1 - share).sqrt() * noise, noise, levels

    def _fresh_paths(self) -> Tensor:
        recipe = self.recipe
        generator = generator_of(recipe.seed, "fresh", self.step)
        kinds = draw_concentrations(-(-recipe.batch_size // SHARED), recipe.alphas, generator)
        alphas = kinds.repeat_interleave(SHARED)[: recipe.batch_size]
        numbers = torch.arange(recipe.batch_size) + self.step * recipe.batch_size
        tokens = stick_breaking_tokens(self.config, alphas, recipe.seed, FRESH, numbers)
        return tokens.to(self.device)

    def _labelled_rows(self) -> Tensor:
        """Numbers of this step's scored paths, every path once before any comes again."""
        size, count = self.recipe.batch_size, self.paths.trained
        places = range(self.step * size, (self.step + 1) * size)
        chosen = torch.stack([self._epoch(place // count)[place % count] for place in places])
        return chosen + self.paths.measured

    def _epoch(self, number: int) -> Tensor:
        if self._order[0] != number:
            generator = generator_of(self.recipe.seed, "epoch", number)
            self._order = number, torch.randperm(self.paths.trained, generator=generator)
        return self._order[1]

    def path_model(self) -> PathModel:
        with torch.random.fork_rng([]):
            model = PathModel(self.config, self.codec, device=self.device)
        model.networks.load_state_dict(self.ema.state_dict())
        return model

    @torch.no_grad()
    def measure(self) -> str:
        model = self.path_model()
        guides = self._measure_guides(model)
        entry = {
            "step": self.step,
            "training_loss": self.mean_losses(),
            "held_out_noise": round(self._measure_noise(model), 6),
            "guides": guides,
        }
        self.history.append(entry)
        told = ", ".join(
            f"{name} {found['loss']:.3f} (rank correlation {found['rank_correlation']:.2f})"
            for name, found in guides.items()
        )
        return (
            f"step {self.step} of {self.recipe.steps}: held out, noise "
            f"{entry['held_out_noise']:.4f}, {told}, {self.seconds:.0f} s"
        )

    def _measure_noise(self, model: PathModel) -> float:
        """The mean squared error of the predicted noise; of no answer at all it is 1."""
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(self.fresh.shape, generator=generator).to(self.device)
        clean, errors = self.fresh.to(self.device), []
        for level in (int(at * self.recipe.levels) for at in MEASURED_AT):
            share = float(model.shares[level])
            noisy = share**0.5 * clean + (1 - share) ** 0.5 * noise
            errors.append(float((model.noise(noisy, level) - noise).square().mean()))
        return sum(errors) / len(errors)

    def _measure_guides(self, model: PathModel) -> dict[str, dict[str, float]]:
        """On the clean paths of held-out pictures: the mean squared error, which of no answer is
        about 1, and Spearman's correlation over the paths of one picture."""
        rows = torch.arange(min(self.paths.measured, MOST_MEASURED))
        labels = self.paths.standard[rows]
        own = self.paths.of_picture[rows]
        results = {}
        for i, name in enumerate(GUIDES):
            parts = [
                model.score(name, self.paths.tokens(some).to(self.device), 0, self.paths.ends(some))
                for some in rows.split(LABELLED_TOGETHER)
            ]
            said = torch.cat(parts).cpu()
            results[name] = {
                "loss": round(float((said - labels[:, i]).square().mean()), 6),
                "rank_correlation": round(
                    rank_correlation(centred(said, own), centred(labels[:, i], own)), 4
                ),
            }
        return results

    def report(self, pictures: Pictures) -> dict[str, Any]:
        last = self.history[-1]
        return {
            "recipe": asdict(self.recipe),
            "data": {
                "source": Path(pictures.source).name,
                "pictures": self.paths.n_pictures[1],
                "held_out": self.paths.n_pictures[0],
                "paths": self.paths.trained,
                "held_out_paths": self.paths.measured,
                "fingerprint": self.fingerprint,
            },
            "codec": self.codec.kind,
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "scores": self.config.scores,
            "probe": self.paths.probe,
            "held_out_noise": last["held_out_noise"],
            "guides": last["guides"],
            "history": self.history,
            "seconds": {
                "scoring": round(self.paths.seconds, 1),
                "training": round(self.seconds, 1),
            },
            "device": self.device.type,
            "threads": torch.get_num_threads(),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "pyxai_fast": __version__,
            },
        }


def standardised(values: Tensor, groups: Tensor) -> Tensor:
    """Values [N, K] less the mean of their group [N], over its standard deviation, float32.

    0 in a group that is all the same.
    """
    _, index = groups.unique(return_inverse=True)
    away = centred(values, groups)
    variances = torch.zeros(int(index.max()) + 1, values.shape[1], dtype=torch.float64)
    variances.index_add_(0, index, away.square())
    variances /= (index.bincount() - 1).clamp(min=1)[:, None]
    return (away / variances.sqrt().clamp(min=LEAST_DEVIATION)[index]).float()


def centred(values: Tensor, groups: Tensor) -> Tensor:
    """Values [N, ...] less the mean of their group [N], float64."""
    _, index = groups.unique(return_inverse=True)
    sums = values.new_zeros((int(index.max()) + 1, *values.shape[1:]), dtype=torch.float64)
    sums.index_add_(0, index, values.double())
    counts = index.bincount().reshape(-1, *[1] * (values.dim() - 1))
    means: Tensor = (sums / counts)[index]
    return values.double() - means
