"""Small networks that learn the sets of known evidence in seconds."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_CHANNELS = (16, 32, 48, 64)
_HIDDEN = 64
# Inputs in [0, 1] are centred, and enlarged to about the size that layers begin with.
_MIDDLE, _SCALE = 0.5, 4.0
# How much the places that speak most for a feature count for more than others.
_SHARPNESS = 4.0


class SmallCNN(nn.Module):
    """Four convolutions with SiLU, the first with stride 2, average pooling between the others, and
    a smooth maximum over all places; any height and width of at least 16.

    Nothing in it looks at the whole of an input but the maximum at its end.

    Args:
        channels: of the inputs.
        n_classes: of the logits [R, n_classes].
        batch_norm: put a BatchNorm after each convolution, as training does; see `folded`.
    """

    def __init__(self, channels: int, n_classes: int, *, batch_norm: bool = False) -> None:
        super().__init__()
        self.channels, self.n_classes = channels, n_classes
        blocks: list[nn.Module] = []
        for i, (c_in, c_out) in enumerate(pairwise((channels, *_CHANNELS))):
            # Four taps two apart: every pixel is under as many of them as its neighbours.
            conv = nn.Conv2d(c_in, c_out, 3, padding=1) if i else nn.Conv2d(c_in, c_out, 4, 2, 1)
            blocks += [conv, nn.BatchNorm2d(c_out) if batch_norm else nn.Identity(), nn.SiLU()]
            if 0 < i < len(_CHANNELS) - 1:
                blocks.append(nn.AvgPool2d(2))
        self.features = nn.Sequential(*blocks)
        self.head = nn.Linear(_CHANNELS[-1], n_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of inputs [R, channels, H, W] in [0, 1]."""
        found = self.features(_SCALE * (inputs - _MIDDLE)).flatten(2)
        logits: Tensor = self.head((_SHARPNESS * found).logsumexp(2) / _SHARPNESS)
        return logits

    @torch.no_grad()
    def folded(self) -> SmallCNN:
        """The same function in eval mode, without BatchNorm; a new module."""
        with torch.device("meta"):
            plain = SmallCNN(self.channels, self.n_classes)
        plain = plain.to_empty(device=self.head.weight.device).eval()
        for i, module in enumerate(self.features):
            if isinstance(module, nn.Conv2d):
                norm = self.features[i + 1]
                if isinstance(norm, nn.BatchNorm2d):
                    module = fuse_conv_bn_eval(module.eval(), norm.eval())
                plain.features[i].load_state_dict(module.state_dict())
        plain.head.load_state_dict(self.head.state_dict())
        return plain


class SmallMLP(nn.Sequential):
    """Two hidden layers with SiLU: logits [R, n_classes] of rows [R, columns]."""

    def __init__(self, columns: int, n_classes: int) -> None:
        super().__init__(
            nn.Linear(columns, _HIDDEN),
            nn.SiLU(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.SiLU(),
            nn.Linear(_HIDDEN, n_classes),
        )
