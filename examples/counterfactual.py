"""Counterfactuals: what would have to change for a network to read another digit.

    python examples/counterfactual.py [FOLDER]

Four digits, each led to the class that is likeliest next: along what a diffusion prior knows of
digits, and by descent in pixels. Both convince the network; only the first are digits. Prints how
far each is from the nearest training digit of its new class, and writes counterfactual.png (the way
there) and side_by_side.png (digits, with the prior, in pixels) into FOLDER.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from pyxai_fast import Counterfactual
from pyxai_fast.demo import load_demo_model, load_digits
from pyxai_fast.demo.prior import load_demo_prior
from pyxai_fast.plots import pixel_image, save_image


def in_pixels(model: nn.Module, digits: Tensor, target: Tensor) -> Tensor:
    """Up the slope of log p, pixel by pixel, until the class has 90 %."""
    changed = digits.clone()
    for _ in range(40):
        x = changed.requires_grad_()
        log_p = model(x).log_softmax(1).gather(1, target[:, None])[:, 0]
        (slope,) = torch.autograd.grad(log_p.sum(), x)
        there = (log_p > -0.1).view(-1, 1, 1, 1)
        changed = torch.where(there, x, x + 0.02 * slope.sign()).clamp(0, 1).detach()
    return changed


def main(folder: str = ".") -> dict[str, list[float]]:
    model, digits = load_demo_model(), load_digits("test")[0][:4]
    known, labels = load_digits("train")
    before, target = model(digits).topk(2).indices.T
    method = Counterfactual(model, load_demo_prior(), n_particles=30, n_steps=20)
    found, far = method.generate(digits, target), {}
    ways = {"as it is": digits, "prior": found.best, "pixels": in_pixels(model, digits, target)}
    for name, changed in ways.items():
        p, far[name] = model(changed).softmax(1), []
        for one, old, new, sure in zip(changed, before, target, p, strict=True):
            nearest = (known[labels == new] - one).flatten(1).norm(dim=1).min()
            far[name].append(float(nearest))
            told = f"p {float(sure[new]):.2f}, {float(nearest):.1f} from the nearest {int(new)}"
            print(f"{name:9} {int(old)} to {int(new)}: {told}")
    found.plot(Path(folder) / "counterfactual.png")
    rows = torch.cat([torch.cat(list(each), 2) for each in ways.values()], 1)
    large = rows.repeat_interleave(4, 1).repeat_interleave(4, 2)
    save_image(pixel_image(large.clamp(0, 1)), Path(folder) / "side_by_side.png")
    return far


if __name__ == "__main__":
    main(*sys.argv[1:])
