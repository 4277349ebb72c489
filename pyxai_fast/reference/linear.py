"""The backward pass of linear layers and the step of their optimiser."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_step(
    inputs: Tensor,
    grads: Tensor,
    weight: Tensor,
    velocity: Tensor,
    lr: float,
    momentum: float,
    need_grad_inputs: bool = True,
) -> Tensor:
    grad_inputs = torch.zeros_like(inputs, memory_format=torch.contiguous_format)
    if need_grad_inputs:
        for output in range(weight.shape[-2]):  # one product is added after the other
            grad_inputs += grads[..., output, None] * weight[..., output, None, :]
    else:
        grad_inputs = grad_inputs[..., :0, :].clone()
    gradient = torch.zeros_like(weight)
    for row in range(inputs.shape[-2]):
        gradient += grads[..., row, :, None] * inputs[..., row, None, :]
    velocity.mul_(momentum).add_(gradient)
    weight.sub_((gradient + velocity * momentum) * lr)
    return grad_inputs


def linear_step_out(
    inputs: Tensor,
    grads: Tensor,
    weight: Tensor,
    velocity: Tensor,
    lr: float,
    momentum: float,
    *,
    out: Tensor,
) -> None:
    out.copy_(linear_step(inputs, grads, weight, velocity, lr, momentum))
