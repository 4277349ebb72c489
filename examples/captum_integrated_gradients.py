"""A captum method on the kernels of pyxai_fast: Integrated Gradients by the left rule.

    python examples/captum_integrated_gradients.py

The class is captum's in all but its inner loop: it takes captum's gradients, and works under
captum's NoiseTunnel. Its points and its sum are ops of pyxai_fast: one buffer of points for all
chunks, and one sum in float64, so memory does not grow with the steps.
"""

from __future__ import annotations

import torch
from captum.attr import GradientAttribution, IntegratedGradients, NoiseTunnel
from captum.log import log_usage
from torch import Tensor, nn

from pyxai_fast import ops


class LeftRuleIntegratedGradients(GradientAttribution):
    """Equation 3 of Sundararajan, Taly and Yan (2017), with the sum over k = 0 ... m - 1."""

    @log_usage()  # NoiseTunnel expects a wrapped function
    def attribute(
        self,
        inputs: Tensor,
        baselines: Tensor | float | tuple[Tensor | float] = 0.0,
        target: Tensor | int | None = None,
        n_steps: int = 50,
        steps_per_chunk: int = 10,
    ) -> Tensor:
        inputs = inputs.detach()
        if isinstance(baselines, tuple):  # as NoiseTunnel passes them on
            (baselines,) = baselines
        batch = inputs.shape[0]
        alphas = torch.arange(n_steps, device=inputs.device) / n_steps
        weights = torch.full_like(alphas, 1 / n_steps, dtype=torch.float64)
        buffer = inputs.new_empty(min(steps_per_chunk, n_steps) * batch, *inputs.shape[1:])
        total = torch.zeros_like(inputs, dtype=torch.float64, memory_format=torch.contiguous_format)

        for chunk_alphas, chunk_weights in zip(
            alphas.split(steps_per_chunk), weights.split(steps_per_chunk), strict=True
        ):
            steps = len(chunk_alphas)
            points = ops.path_points(inputs, baselines, chunk_alphas, out=buffer[: steps * batch])
            # A new leaf on the same memory: captum asks for gradients at it.
            leaf = points.detach().requires_grad_()
            targets = target.repeat(steps) if isinstance(target, Tensor) else target
            (grads,) = self.gradient_func(self.forward_func, (leaf,), targets)
            ops.path_accumulate(grads, chunk_weights, total=total)
        return (total * (inputs - baselines)).to(inputs.dtype)


def main() -> dict[str, float]:
    """Compares with captum's own; the figures that are printed."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Softplus(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 10)
    ).eval()
    images, baselines = torch.rand(4, 3, 32, 32), torch.rand(4, 3, 32, 32)
    target = model(images).argmax(1)
    ours, theirs = LeftRuleIntegratedGradients(model), IntegratedGradients(model)

    found = ours.attribute(images, baselines, target)
    expected = theirs.attribute(images, baselines, target, n_steps=50, method="riemann_left")
    with torch.no_grad():
        scores = model(images) - model(baselines)
    gap = found.sum((1, 2, 3)) - scores.gather(1, target[:, None]).squeeze(1)

    def smoothed(attribution: GradientAttribution, **options: object) -> Tensor:
        torch.manual_seed(1)
        maps: Tensor = NoiseTunnel(attribution).attribute(
            images, nt_samples=2, stdevs=0.1, baselines=0.0, target=target, **options
        )
        return maps

    figures = {
        "largest attribution": found.abs().max().item(),
        "largest difference from captum's": (found - expected).abs().max().item(),
        "the same under NoiseTunnel": (
            (smoothed(ours) - smoothed(theirs, method="riemann_left")).abs().max().item()
        ),
        "largest completeness gap": gap.abs().max().item(),
    }
    for name, value in figures.items():
        print(f"{name:34} {value:.2e}")
    return figures


if __name__ == "__main__":
    main()
