"""From a blurred image to the image: the path of Blur IG."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import ArgumentError, is_one_of, near
from ..models.preprocessing import Affine
from ..reference.path import compute_dtype
from .curve import CurveTrace
from .quadrature import check_quadrature, check_rule_left_alone
from .refining_paths import NODES_OF_A_STEP, RefiningPaths

# sigma as a function of the time s = 1 - t that is left, 1 at the start.
SCHEDULES = {
    "linear": lambda s, most: s * most,
    "variance": lambda s, most: math.sqrt(s) * most,
    "geometric": lambda s, most: (1 + most) ** s - 1,
}
BOUNDARIES = ("zero", "reflect")
# A Gaussian is cut off so many standard deviations from its centre.
TRUNCATE = 4.0


class BlurPath:
    """gamma(t) is the image blurred by a Gaussian of sigma(t) pixels, from `max_sigma` down to 0.

    Xu, Venugopalan and Sundararajan, "Attribution in Scale and Space" (2020): Blur Integrated
    Gradients. The path starts at the most blurred image, so that there is no baseline to choose,
    and what attributions add up to is the difference to its score. Blurs are products with two
    matrices, as many images at a time as a chunk has.

    Args:
        max_sigma: of the start, in pixels.
        schedule: "linear", sigma falls evenly; "variance", its square, the time of the heat
            equation that the paper integrates over; "geometric", log(1 + sigma), with many steps
            where details appear, so that fewer steps do.
        boundary: what lies beyond the borders: "zero", as in the authors' code, or "reflect", the
            image mirrored at its border.
    """

    complete = True
    # Where each feature goes its own way, there is no mean slope that the way would multiply.
    has_mean_slope = False
    takes_baselines = False

    def __init__(
        self, max_sigma: float = 50.0, schedule: str = "linear", boundary: str = "zero"
    ) -> None:
        number = isinstance(max_sigma, (int, float)) and not isinstance(max_sigma, bool)
        if not number or not 0 < max_sigma < math.inf:
            raise ArgumentError(f"BlurPath: max_sigma must be a number > 0, got {max_sigma!r}")
        for name, value, known in (
            ("schedule", schedule, SCHEDULES),
            ("boundary", boundary, BOUNDARIES),
        ):
            if not is_one_of(value, known):
                raise ArgumentError(
                    f"BlurPath: {name} must be one of {', '.join(known)}, got {value!r}"
                    f"{near(str(value), known)}"
                )
        self.max_sigma, self.schedule, self.boundary = float(max_sigma), schedule, boundary

    def __repr__(self) -> str:
        return (
            f"BlurPath(max_sigma={self.max_sigma:g}, schedule={self.schedule!r}, "
            f"boundary={self.boundary!r})"
        )

    def sigma(self, t: float) -> float:
        """Of the blur at a time from 0 to 1."""
        return float(SCHEDULES[self.schedule](1 - t, self.max_sigma))

    def blur(self, images: Tensor, sigma: float) -> Tensor:
        """Images [..., H, W] blurred along both sides."""
        height, width = images.shape[-2:]
        across = blur_matrix(width, sigma, self.boundary).to(images)
        down = across
        if height != width:
            down = blur_matrix(height, sigma, self.boundary).to(images)
        return down @ (images @ across.T)

    def start(self, inputs: Tensor, baselines: Tensor) -> Tensor:
        check_images(inputs)
        check_no_baselines(baselines)
        wide = inputs.to(compute_dtype(inputs.dtype))
        return self.blur(wide, self.sigma(0.0))

    def trace(
        self,
        inputs: Tensor,
        baselines: Tensor,
        n_steps: int,
        method: str,
        affine: Affine | None = None,
        stream: int = 0,
    ) -> BlurTrace:
        check_quadrature(method, n_steps)
        check_rule_left_alone("BlurPath", method, "a rule of its own")
        check_images(inputs)
        check_no_baselines(baselines)
        return BlurTrace(inputs, n_steps, self, affine)

    def rules(self, n_steps: int) -> list[int]:
        return [n_steps * nodes for nodes in NODES_OF_A_STEP]

    def refining(
        self,
        inputs: Tensor,
        baselines: Tensor,
        n_steps: int,
        level: int,
        examples: Tensor,
        affine: Affine | None = None,
        stream: int = 0,
    ) -> RefiningPaths:
        return RefiningPaths(BlurTrace(inputs, n_steps, self, affine), level)


class BlurTrace(CurveTrace):
    def __init__(self, inputs: Tensor, n_steps: int, path: BlurPath, affine: Affine | None) -> None:
        super().__init__(inputs, torch.linspace(0, 1, n_steps + 1, dtype=torch.float64), affine)
        self.path = path

    def nodes(self, examples: slice, times: Tensor) -> Tensor:
        images = self.inputs[examples].to(compute_dtype(self.inputs.dtype))
        return torch.stack([self.path.blur(images, self.path.sigma(t)) for t in times.tolist()])


def check_images(inputs: Tensor) -> None:
    if inputs.dim() < 3:
        raise ArgumentError(
            f"BlurPath: inputs must be images [B, ..., H, W], got {list(inputs.shape)}"
        )


def check_no_baselines(baselines: Tensor) -> None:
    if baselines.dim() > 0 or bool(baselines != 0):
        raise ArgumentError(
            "attribute: baselines must be left alone with BlurPath, which starts at the blurred "
            f"inputs, got {list(baselines.shape) or baselines.item()}"
        )


def blur_matrix(size: int, sigma: float, boundary: str) -> Tensor:
    """float64 [size, size]: blurs a row of pixels by a normalised Gaussian, cut off at 4 sigma."""
    radius = int(TRUNCATE * sigma + 0.5)
    if radius == 0:
        return torch.eye(size, dtype=torch.float64)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    # From where each pixel takes what is `offset` away.
    source = torch.arange(size)[:, None] + torch.arange(-radius, radius + 1)
    weights = weights.expand(size, -1)
    if boundary == "zero":
        weights = torch.where((source >= 0) & (source < size), weights, 0.0)
        source = source.clamp(0, size - 1)
    else:  # ... c b a | a b c | c b a ...
        source = source % (2 * size)
        source = torch.minimum(source, 2 * size - 1 - source)
    return torch.zeros(size, size, dtype=torch.float64).scatter_add_(1, source, weights.clone())
