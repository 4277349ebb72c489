"""DiffID: how much better a model does without what a map calls unimportant than without the rest.

Kim, Lee and Choi compare paths by it; defined as in the released evaluation of their MA-GIG.
"""

from __future__ import annotations

import torch
from deletion import ROWS, Model
from torch import Tensor

from pyxai_fast import ops
from pyxai_fast.models.preprocessing import Preprocessing

RATIOS = tuple(round(0.1 * i, 1) for i in range(1, 10))


@torch.no_grad()
def diffid(
    model: Model,
    inputs: Tensor,
    attributions: Tensor,
    target: Tensor,
    preprocessing: Preprocessing | None = None,
) -> Tensor:
    """Of each input, [B], in [-1, 1]: large is good.

    Features of all channels rank by absolute attribution. For each of RATIOS, that share of them is
    replaced by the mean of the features that are kept: the least important for insertion, the most
    important for deletion. Counted is whether the class is still the target, and returned is the
    mean of insertion minus deletion.

    Args:
        model: logits [R, n] of model inputs.
        inputs, attributions: [B, ...]; pixels where `preprocessing` is given.
        target: int64 [B].
    """
    most = ops.ranks_of(attributions.abs())  # 0 is the most important
    features = inputs[0].numel()
    flat, places = inputs.flatten(1), most.flatten(1)
    total = torch.zeros(len(inputs), dtype=torch.float64, device=inputs.device)
    for ratio in RATIOS:
        count = round(ratio * features)
        for sign, gone in ((1.0, places >= features - count), (-1.0, places < count)):
            kept = ~gone
            mean = (flat * kept).double().sum(1) / kept.sum(1)
            pixels = torch.where(gone, mean[:, None].to(flat.dtype), flat).reshape(inputs.shape)
            if preprocessing is not None:
                pixels = preprocessing.normalise(pixels)
            answers = torch.cat([model(rows) for rows in pixels.split(ROWS)])
            total += sign * (answers.argmax(1) == target)
    return total / len(RATIOS)
