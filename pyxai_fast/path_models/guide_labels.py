"""What the guides learn to tell: how good the attributions of a path are.

Faithfulness, over the share r of the features that are most important:

    Faith(path) = mean_r [ p(baseline with these of the input)
                           - p(input with these of the baseline) ]

and complexity, the entropy of the attributions:

    Comp(path) = - sum_i p_i log(p_i + eps),  p_i = |A_i| / sum_j |A_j|

p is the softmax probability of the explained class. Faithfulness is the difference of the scores
of insertion and deletion (Petsiuk, Das and Saenko, 2018) over shares 0.1 to 0.9.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..methods import IntegratedGradients
from ..models.preprocessing import Preprocessing
from ..models.score import owner_of
from ..paths.paced import GivenPaths
from ..runtime.chunks import Chunk, ChunkPlanner, length, run_chunks
from ..runtime.cost import Cost
from .codec import Codec
from .config import PathModelConfig

SHARES = tuple(k / 10 for k in range(1, 10))
LEAST = 1e-12


def entropy(maps: Tensor) -> Tensor:
    """Of attributions [B, ...], [B] float64 in nats: 0 for one feature, log D for D alike."""
    sizes = maps.double().abs().flatten(1)
    shares = sizes / sizes.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    return -(shares * (shares + LEAST).log()).sum(1)


@torch.no_grad()
def faithfulness(
    model: Callable[[Tensor], Tensor],
    inputs: Tensor,
    baselines: Tensor | float,
    maps: Tensor,
    target: Tensor,
    preprocessing: Preprocessing | None = None,
) -> Tensor:
    """Of attributions, [B] float64 from -1 to 1.

    Args:
        model: pictures [R, C, H, W] or rows [R, D] to logits [R, n].
        inputs: [B, ...]; baselines: a number, or [1, ...] or [B, ...].
        maps: attributions shaped as the inputs; those of a pixel's channels are added up.
        target: the explained class of each, [B].
        preprocessing: from pixels to model inputs.
    """
    ranked = maps.sum(1, keepdim=True) if maps.dim() == 4 else maps
    ranks = ops.ranks_of(ranked)
    count = ranked[:1].numel()
    steps = torch.tensor([round(share * count) for share in SHARES], device=inputs.device)
    base = torch.as_tensor(baselines, dtype=inputs.dtype, device=inputs.device)
    base = base.expand(inputs.shape)
    affine: dict[str, Any] = {}
    if preprocessing is not None:
        affine = {
            "scale": preprocessing.scale.to(inputs.device),
            "shift": preprocessing.shift.to(inputs.device),
        }
    classes = target.to(inputs.device)

    def confidence(start: Tensor, other: Tensor) -> Tensor:
        found = torch.zeros(len(steps), len(inputs), dtype=torch.float64, device=inputs.device)

        def ask(chunk: Chunk) -> None:
            some, shares = chunk.examples, chunk.steps
            rows = ops.rank_mask(start[some], other[some], ranks[some], steps[shares], **affine)
            chosen = classes[some].repeat(length(shares))[:, None]
            told = model(rows).double().softmax(1).gather(1, chosen)
            found[shares, some] = told.reshape(length(shares), -1)

        work = Chunk(slice(0, len(inputs)), slice(0, len(steps)))
        run_chunks(work, ChunkPlanner(owner_of(model), (inputs,), None, "ranked"), ask, Cost())
        return found.mean(0)

    return confidence(base, inputs) - confidence(inputs, base)


def label_paths(
    model: Callable[[Tensor], Tensor],
    inputs: Tensor,
    baselines: Tensor | float,
    tokens: Tensor,
    config: PathModelConfig,
    codec: Codec,
    *,
    target: Tensor,
    output: str = "logit",
    preprocessing: Preprocessing | None = None,
) -> Tensor:
    """Faithfulness and entropy of the attributions along one path for each input, [B, 2] float32.

    Args:
        tokens: of the paths, [B, T, P].
        output: what is explained, as for IntegratedGradients; faithfulness is of probabilities.
    """
    method = IntegratedGradients(
        model,
        path=GivenPaths(tokens[None], config, codec),
        output=output,
        preprocessing=preprocessing,
    )
    maps = method.attribute(inputs, baselines, target=target, n_steps=config.points)
    faithful = faithfulness(model, inputs, baselines, maps, target, preprocessing)
    return torch.stack([faithful, entropy(maps)], 1).float()
