"""From whatever a model returns to the tensor that is explained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

OUTPUT_KINDS = ("logit", "prob", "logprob", "margin")


def output_tensor(output: Any, select_output: Callable[[Any], Tensor] | None = None) -> Tensor:
    """The tensor [B, ...] in a model's answer.

    Understood are a tensor, an object with `.logits` (Hugging Face), a mapping with "logits" or
    "out", and a tuple or list whose first element is a tensor. For anything else give
    `select_output`, a function of the answer.
    """
    if select_output is not None:
        output = select_output(output)
    elif not isinstance(output, Tensor):
        if isinstance(getattr(output, "logits", None), Tensor):
            output = output.logits
        elif isinstance(output, Mapping):
            output = output.get("logits", output.get("out", output))
        elif isinstance(output, (tuple, list)) and output:
            output = output[0]
    if not isinstance(output, Tensor):
        raise TypeError(
            "model: the output must be a tensor, have .logits, or be a dict, tuple or list holding "
            f"one (or give select_output=, a function that picks it), got {type(output).__name__}"
        )
    return output


def check_batched(output: Tensor, rows: int) -> None:
    if output.dim() == 0 or output.shape[0] != rows:
        raise ValueError(
            f"model: the output must have shape [batch, ...] with batch {rows} as in the inputs, "
            f"got {list(output.shape)}"
        )


def convert_output(output: Tensor, kind: str) -> Tensor:
    """Logits [R, n] as the kind of output to explain, over dimension 1.

    "prob" and "logprob" are the softmax and its logarithm; "margin" is each logit less the largest
    of the others; "logit" leaves the output as it is.
    """
    if kind == "logit":
        return output
    if kind not in OUTPUT_KINDS:
        raise ValueError(f"model: output must be one of {', '.join(OUTPUT_KINDS)}, got {kind!r}")
    if output.dim() < 2 or output.shape[1] < 2:
        raise ValueError(
            f"model: output={kind!r} must be asked of class scores [B, n >= 2], got "
            f"{list(output.shape)}"
        )
    if kind == "prob":
        return output.softmax(1)
    if kind == "logprob":
        return output.log_softmax(1)
    best = output.topk(2, dim=1)
    is_best = best.indices.narrow(1, 0, 1) == _arange_dim1(output)
    rival = torch.where(is_best, best.values.narrow(1, 1, 1), best.values.narrow(1, 0, 1))
    return output - rival


def _arange_dim1(output: Tensor) -> Tensor:
    shape = [1] * output.dim()
    shape[1] = -1
    return torch.arange(output.shape[1], device=output.device).reshape(shape)
