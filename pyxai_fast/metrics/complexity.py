"""How few features a map is about: the entropy of the shares of its sizes, and their Gini index."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import check_bool
from .maps import check_maps


def complexity(attributions: Tensor, *, normalised: bool = False) -> Tensor:
    """The entropy of attributions: small where few features have most of their size.

    ``- sum_i p_i log p_i`` with ``p_i = |A_i| / sum_j |A_j|``: Bhatt, Weller and Moura, "Evaluating
    and Aggregating Feature-based Model Explanations" (2020).

    Args:
        attributions: floating-point [B, ...], finite.
        normalised: divide by the entropy of equal sizes, log D.

    Returns:
        float64 [B], in nats: 0 for one feature (and for a map of zeros), log D for D alike; from 0
        to 1 where it is normalised.

    Raises:
        TypeError, ValueError: naming the argument, what it must be and what it is.
    """
    check_bool("complexity", "normalised", normalised)
    sizes = _sizes("complexity", attributions)
    shares = sizes / sizes.sum(1, keepdim=True).clamp(min=torch.finfo(sizes.dtype).tiny)
    nats: Tensor = torch.special.entr(shares).sum(1)
    return nats / math.log(max(2, sizes.shape[1])) if normalised else nats


def sparseness(attributions: Tensor) -> Tensor:
    """The Gini index of the sizes of attributions: large where few features have most of it.

    ``sum_k (2 k - D - 1) |A|_(k) / (D sum_j |A_j|)`` over the D sizes in ascending order: Chalasani
    et al., "Concise Explanations of Neural Networks using Adversarial Training" (2020).

    Args:
        attributions: floating-point [B, ...], finite.

    Returns:
        float64 [B]: 0 where all sizes are alike (zeros too), 1 - 1 / D where one is not 0.

    Raises:
        TypeError, ValueError: naming the argument, what it must be and what it is.
    """
    sizes = _sizes("sparseness", attributions)
    features = sizes.shape[1]
    weights = torch.arange(1 - features, features, 2, dtype=torch.float64, device=sizes.device)
    total = sizes.sum(1).clamp(min=torch.finfo(sizes.dtype).tiny)
    return (sizes.sort(1).values * weights).sum(1) / (features * total)


def _sizes(op: str, attributions: Tensor) -> Tensor:
    """float64 [B, D]."""
    check_maps(op, attributions)
    return attributions.detach().double().abs().flatten(1)
