"""What a diffusion network was trained on: its levels of noise, and what its answer means."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError

PREDICTIONS = ("epsilon", "v_prediction", "sample")
# Schedules that end in noise alone are cut here, where diffusers' own samplers cut them.
LEAST_SHARE = 2.0**-24


@dataclass(frozen=True)
class NoiseSchedule:
    """Levels of noise and the meaning of a network's answer.

    With a the share of signal, x the clean input and e the noise, the network sees
    ``y = sqrt(a) x + sqrt(1 - a) e``. It answers with e ("epsilon"), with x ("sample"), or with
    ``v = sqrt(a) e - sqrt(1 - a) x`` ("v_prediction"; Salimans and Ho, "Progressive Distillation
    for Fast Sampling of Diffusion Models", 2022, appendix D).
    """

    shares: Tensor
    prediction: str = "epsilon"
    bounds: tuple[float, float] | None = (-1.0, 1.0)

    def __post_init__(self) -> None:
        shares = self.shares
        fits = shares.dim() == 1 and len(shares) > 0 and bool(((shares > 0) & (shares <= 1)).all())
        if not fits or bool((shares.diff() > 0).any()):
            raise ArgumentError(
                "DiffusionPrior: shares must be [T], in (0, 1] and falling, got "
                f"{list(shares.shape)}"
            )
        if self.prediction not in PREDICTIONS:
            raise ArgumentError(
                f"DiffusionPrior: the network must predict one of {', '.join(PREDICTIONS)}, got "
                f"{self.prediction!r}"
            )

    @classmethod
    def of(cls, scheduler: Any) -> NoiseSchedule:
        """That of a scheduler of diffusers, or of the shares [T] of a network that predicts noise.

        The shares are multiplied up again from the scheduler's betas, in float64: its own are the
        float32 product of a thousand factors.
        """
        if isinstance(scheduler, Tensor):
            return cls(scheduler.detach().cpu().double())
        betas = getattr(scheduler, "betas", None)
        if not isinstance(betas, Tensor) or not hasattr(scheduler, "alphas_cumprod"):
            raise ArgumentError(
                "DiffusionPrior: scheduler must have betas and alphas_cumprod, as DDPMScheduler "
                f"and DDIMScheduler do, got {type(scheduler).__name__}: levels of another kind are "
                "not supported"
            )
        config = scheduler.config
        shares = torch.cumprod(1 - betas.detach().cpu().double(), 0).clamp(min=LEAST_SHARE)
        reach = float(config.get("clip_sample_range", 1.0))
        clips = config.get("clip_sample", True)
        prediction = str(config.get("prediction_type", "epsilon"))
        return cls(shares, prediction, (-reach, reach) if clips else None)

    def noise(self, answer: Tensor, noisy: Tensor, level: int) -> Tensor:
        """The noise that a network's answer stands for."""
        share = float(self.shares[level])
        signal, spread = math.sqrt(share), math.sqrt(1 - share)
        if self.prediction == "epsilon":
            return answer
        if self.prediction == "v_prediction":
            return signal * answer + spread * noisy
        return (noisy - signal * answer) / spread
