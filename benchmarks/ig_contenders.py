"""Integrated Gradients as ours and as captum's, each in the forms that are compared."""

from __future__ import annotations

from collections.abc import Callable

import captum.attr
import torch
from torch import Tensor, nn

from pyxai_fast.methods import IntegratedGradients

THREADS = 2
OURS = "ours"
CONTIGUOUS = "ours, contiguous"
REFERENCE = "ours, reference ops"
CAPTUM_DEFAULT = "captum, default"
# Steps that captum sends through the model at once: internal_batch_size / batch.
CAPTUM_STEPS = (1, 2, 4, 8, 16)
MODEL_BATCH = "model, one forward and backward of the batch"


def captum_chunk(rows: int) -> str:
    return f"captum, internal_batch_size={rows}"


def contenders(batch: int, n_steps: int) -> list[str]:
    rows = [captum_chunk(batch * steps) for steps in CAPTUM_STEPS if steps < n_steps]
    return [OURS, CONTIGUOUS, REFERENCE, *rows, CAPTUM_DEFAULT]


def made(
    name: str, model: nn.Module, inputs: Tensor, target: Tensor, n_steps: int
) -> Callable[[], Tensor]:
    """The call to be measured, with an object of its method made once."""
    if name == MODEL_BATCH:
        return lambda: forward_backward(model, inputs, target)
    if name in (OURS, CONTIGUOUS, REFERENCE):
        memory_format = "contiguous" if name == CONTIGUOUS else "auto"
        ours = IntegratedGradients(model, memory_format=memory_format)
        return lambda: ours.attribute(inputs, target=target, n_steps=n_steps)
    rows = None if name == CAPTUM_DEFAULT else int(name.rpartition("=")[2])
    theirs = captum.attr.IntegratedGradients(model)
    return lambda: theirs.attribute(
        inputs, target=target, n_steps=n_steps, internal_batch_size=rows
    )


def forward_backward(model: nn.Module, rows: Tensor, target: Tensor) -> Tensor:
    """What every method has the model do: the gradient of each row's score."""
    rows = rows.detach().requires_grad_()
    scores = model(rows).gather(1, target[:, None]).squeeze(1)
    (grads,) = torch.autograd.grad(scores, rows, torch.ones_like(scores))
    return grads
