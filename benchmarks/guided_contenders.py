"""Guided IG as ours and as others write it: same steps, same hyper-parameters."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ig_contenders import forward_backward
from torch import Tensor, nn

from pyxai_fast import GuidedIG

FRACTION, MAX_DIST = 0.25, 0.02
OURS = "ours"
PAIR = "PAIR saliency, image by image"
# What a careful version finds its quantiles with.
QUANTILES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "kthvalue": lambda values, k: values.kthvalue(k, dim=1, keepdim=True).values,
    "topk": lambda values, k: values.topk(k, 1, largest=False, sorted=False).values.amax(
        1, keepdim=True
    ),
    "sort": lambda values, k: values.sort(1).values[:, k - 1 : k],
}


def careful(quantile: str) -> str:
    return f"PyTorch, {quantile}"


def contenders() -> list[str]:
    pair = [] if pair_module() is None else [PAIR]
    return [OURS, *map(careful, QUANTILES), *pair]


def made(
    name: str, model: nn.Module, inputs: Tensor, target: Tensor, n_steps: int
) -> Callable[[], Tensor]:
    """The call to be measured: attributions of a batch, from black."""
    if name == OURS:
        ours = GuidedIG(model)
        return lambda: ours.attribute(
            inputs, target=target, n_steps=n_steps, fraction=FRACTION, max_dist=MAX_DIST
        )
    if name == PAIR:
        return lambda: image_by_image(model, inputs, target, n_steps)
    quantile = QUANTILES[name.rpartition(" ")[2]]
    return lambda: batched(model, inputs, target, n_steps, quantile)


def batched(
    model: nn.Module,
    inputs: Tensor,
    target: Tensor,
    n_steps: int,
    quantile: Callable[[Tensor, int], Tensor],
) -> Tensor:
    """What a good engineer writes: all images together, and a mask where one is done before."""
    way = inputs.flatten(1)
    weights = way.abs() / way.abs().sum(1, keepdim=True)
    progress = (way == 0).to(way.dtype)
    attributions = torch.zeros_like(way)
    slack = torch.finfo(way.dtype).eps
    k = int(FRACTION * (way.shape[1] - 1)) + 1
    for step in range(n_steps):
        points = (way * progress).reshape(inputs.shape)
        grads = forward_backward(model, points, target).flatten(1)
        alpha = (step + 1) / n_steps
        least, most = max(alpha - MAX_DIST, 0.0), min(alpha + MAX_DIST, 1.0)
        new = progress.clamp(min=least)
        sizes = grads.abs().masked_fill_(new >= most, torch.inf)
        excess = (weights * (1 - new)).sum(1, keepdim=True) - (1 - alpha)
        while bool((active := excess > slack).any()):
            threshold = quantile(sizes, k)
            chosen = (sizes <= threshold) & (sizes < torch.inf) & active
            left = (most - new) * chosen
            room = (left * weights).sum(1, keepdim=True)
            if not bool((room > 0).any()):
                break
            share = torch.where(room > 0, excess / room, 0.0).clamp(max=1)
            new = torch.where(chosen & (share == 1), most, new + share * left)
            excess = torch.where(active, excess - share * room, excess)
            sizes.masked_fill_(chosen, torch.inf)
        if step == n_steps - 1:
            new = torch.ones_like(new)
        attributions += grads * (new - progress)
        progress = new
    return (attributions * way).reshape(inputs.shape)


def image_by_image(model: nn.Module, inputs: Tensor, target: Tensor, n_steps: int) -> Tensor:
    """PAIR's own call, which takes one image: float64 on the host, a batch of one each step."""
    guided_ig = pair_module()
    method, found = guided_ig.GuidedIG(), []
    for image, one in zip(inputs, target, strict=True):

        def call_model(images: Any, one: Tensor = one, **_: Any) -> dict[str, Any]:
            rows = torch.from_numpy(images).to(inputs.dtype)
            grads = forward_backward(model, rows, one[None])
            return {guided_ig.INPUT_OUTPUT_GRADIENTS: grads.numpy()}

        mask = method.GetMask(
            image.numpy(), call_model, x_steps=n_steps, fraction=FRACTION, max_dist=MAX_DIST
        )
        found.append(torch.from_numpy(mask))
    return torch.stack(found)


@functools.cache
def pair_module(name: str = "guided_ig") -> Any:
    """A module of PAIR's saliency; None where it is not installed."""
    if importlib.util.find_spec("saliency") is None:
        return None
    module: Any = importlib.import_module(f"saliency.core.{name}")
    module.np = _NumPy()
    return module


class _NumPy:
    """NumPy with the argument that PAIR gives to `quantile`, and NumPy has renamed."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def quantile(values: Any, q: float, interpolation: str) -> Any:
        return np.quantile(values, q, method=interpolation)
