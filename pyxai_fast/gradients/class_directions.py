"""Which way of the outputs explains a class."""

from __future__ import annotations

import torch
from torch import Tensor

CLASS_TARGETS = ("logprob", "logit", "logit_diff")


def class_directions(outputs: Tensor, classes: Tensor, target: str) -> Tensor:
    """What changes of the logits are multiplied by, [R, outputs, n], float64.

    - "logprob": e_c - p, the gradient of log p_c with respect to the logits;
    - "logit": e_c;
    - "logit_diff": e_c - e_o, o the likeliest class but c.

    Args:
        outputs: logits [R, outputs], float64.
        classes: c, [R, n].
        target: one of these names.
    """
    one_hot = torch.nn.functional.one_hot(classes, outputs.shape[1]).double()  # [R, n, outputs]
    if target == "logit":
        return one_hot.transpose(1, 2)
    if target == "logprob":
        away = outputs.softmax(1)[:, None].expand_as(one_hot)
    else:
        others = outputs[:, None].masked_fill(one_hot.bool(), -torch.inf)
        away = torch.nn.functional.one_hot(others.argmax(2), outputs.shape[1]).double()
    return (one_hot - away).transpose(1, 2)
