"""The demo's classifier: a small convolutional network on 32x32 digits, with its weights."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pyxai_fast.demo.data import IMAGE_SIZE, N_CLASSES

WEIGHTS_PATH = Path(__file__).with_name("digits_cnn.safetensors")
RECIPE_PATH = Path(__file__).with_name("digits_cnn.json")

_CHANNELS = (1, 24, 32, 48, 64)


class DigitsCNN(nn.Module):
    """Four 3x3 convolutions with SiLU and overlapping average pooling, then a linear head.

    SiLU rather than ReLU: the score is smooth in the pixels, so a path integral converges in few
    steps. Overlapping average pooling rather than max pooling or strides: every pixel reaches the
    score by as many ways as its neighbours, so gradients carry no checkerboard.

    Args:
        batch_norm: put a BatchNorm after each convolution, as training does. The committed weights
            have it folded into the convolutions (:meth:`folded`).
    """

    def __init__(self, *, batch_norm: bool = False) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for i, (c_in, c_out) in enumerate(pairwise(_CHANNELS)):
            # The bias stays even before a BatchNorm: folding needs a place for the shift.
            blocks.append(nn.Conv2d(c_in, c_out, 3, padding=1))
            blocks.append(nn.BatchNorm2d(c_out) if batch_norm else nn.Identity())
            blocks.append(nn.SiLU())
            blocks.append(nn.AvgPool2d(4, stride=2, padding=1) if i < 3 else nn.Identity())
        self.features = nn.Sequential(*blocks)
        side = IMAGE_SIZE // 8
        self.head = nn.Linear(_CHANNELS[-1] * side * side, N_CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [B, 10] of pixels [B, 1, 32, 32] in [0, 1]; there is no other preprocessing."""
        logits: Tensor = self.head(self.features(pixels).flatten(1))
        return logits

    @torch.no_grad()
    def folded(self) -> DigitsCNN:
        """The same function of the pixels in eval mode, without BatchNorm; a new module."""
        plain = _empty().to_empty(device=self.head.weight.device).eval()
        for i, module in enumerate(self.features):
            if isinstance(module, nn.Conv2d):
                norm = self.features[i + 1]
                if isinstance(norm, nn.BatchNorm2d):
                    module = fuse_conv_bn_eval(module.eval(), norm.eval())
                plain.features[i].load_state_dict(module.state_dict())
        plain.head.load_state_dict(self.head.state_dict())
        return plain


def load_demo_model(weights: str | Path | None = None) -> DigitsCNN:
    """The trained network in eval mode, on the CPU, float32.

    Args:
        weights: a safetensors file of :mod:`pyxai_fast.demo.train`; None takes the packaged one.

    Raises:
        ImportError: when safetensors is missing.
        FileNotFoundError: when there is no such file.
        RuntimeError: when its tensors are not those of :class:`DigitsCNN`, by name and shape.
    """
    path = WEIGHTS_PATH if weights is None else Path(weights)
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(
            "load_demo_model: the weights are a safetensors file and safetensors is not "
            "installed; pip install pyxai-fast[demo]"
        ) from error
    _require(path)
    model = _empty()
    model.load_state_dict(load_file(path), strict=True, assign=True)
    return model.eval().requires_grad_(False)


def load_demo_recipe(path: str | Path | None = None) -> dict[str, Any]:
    """How the weights were made and how well they do: the JSON file beside them.

    Args:
        path: the JSON file; None takes the packaged one.

    Raises:
        FileNotFoundError: when there is no such file.
    """
    path = RECIPE_PATH if path is None else Path(path)
    _require(path)
    recipe: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return recipe


def _empty() -> DigitsCNN:
    # On the meta device nothing is initialised, so the caller's random state is left alone.
    with torch.device("meta"):
        return DigitsCNN()


def _require(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(
            f"load_demo_model: no file {path}; reinstall the package, or make it with "
            "`python -m pyxai_fast.demo.train`"
        )
