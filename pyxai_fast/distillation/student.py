"""The student: learns from masked queries what the black box answers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import ops
from .mask_generator import alike

BATCH_NORM_EPS, BATCH_NORM_MOMENTUM = 1e-5, 0.1


class Student(nn.Module):
    """E networks of two layers, each with its own weights: what is masked, to a number in [0, 1].

    A hidden layer with a leaky ReLU, batch normalisation and dropout; a sigmoid at the end. The
    first layer holds nearly all of the weights. While it trains, its gradient is not made: going
    back through it takes its step of SGD with Nesterov's momentum (`ops.linear_step`).

    Args:
        count: E.
        features: D, of what it sees.
        width: of the hidden layer.
        dropout: share of it.
        normalised: whether the hidden layer is normalised over a batch.
    """

    weight: Tensor
    velocity: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(
        self, count: int, features: int, width: int, dropout: float, normalised: bool = True
    ) -> None:
        super().__init__()
        self.dropout, self.normalised = dropout, normalised
        first, last = nn.Linear(features, width), nn.Linear(width, 1)

        # [E, width, D]; buffers, because no optimiser is to step them.
        self.register_buffer("weight", alike(first.weight, count).detach())
        self.register_buffer("velocity", torch.zeros_like(self.weight))
        self.bias = alike(first.bias, count)
        self.gain = nn.Parameter(torch.ones(count, width))
        self.offset = nn.Parameter(torch.zeros(count, width))
        self.last, self.last_bias = alike(last.weight, count), alike(last.bias, count)
        self.register_buffer("mean", torch.zeros(count, width))
        self.register_buffer("variance", torch.ones(count, width))
        self.step: tuple[float, float] | None = None  # learning rate and momentum

    def finish(self) -> None:
        """Nothing is kept that only training needs."""
        self.eval()
        self.step, self.velocity = None, self.velocity.new_zeros(0)

    def forward(self, seen: Tensor, halves: int = 1) -> Tensor:
        """From [E, halves * R, D] to [E, halves * R].

        While it trains, each half has the batch statistics of its own, and adds to the running
        ones, one after the other: as if they had come by themselves.
        """
        if self.training and self.step is not None:
            hidden = _StepLinear.apply(seen, self.weight, self.velocity, self.step)
        else:
            hidden = seen @ self.weight.mT
        hidden = functional.leaky_relu(hidden + self.bias[:, None])
        hidden = hidden.unflatten(1, (halves, -1))  # [E, halves, R, width]
        if not self.normalised:
            return self._answer(hidden)
        if self.training:
            mean, variance = hidden.mean(2), hidden.var(2, correction=0)
            self._remember(mean, variance, hidden.shape[2])
            mean, variance = mean[:, :, None], variance[:, :, None]
        else:
            mean, variance = self.mean[:, None, None], self.variance[:, None, None]
        normal = (hidden - mean) / (variance + BATCH_NORM_EPS).sqrt()
        normal = normal * self.gain[:, None, None] + self.offset[:, None, None]
        return self._answer(normal)

    def _answer(self, hidden: Tensor) -> Tensor:
        """From [E, halves, R, width]."""
        hidden = hidden * self._dropped(hidden)
        answer: Tensor = (hidden * self.last[:, None]).sum(3) + self.last_bias[:, None]
        return answer.sigmoid().flatten(1)

    def _dropped(self, normal: Tensor) -> Tensor | float:
        """What is left of [E, halves, R, width]: the same for all networks, so that what one learns
        does not depend on those beside it."""
        if not self.training or not self.dropout:
            return 1.0
        kept: Tensor = functional.dropout(torch.ones_like(normal[0]), self.dropout)
        return kept

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, rows: int) -> None:
        unbiased = variance * (rows / max(rows - 1, 1))
        for half in range(mean.shape[1]):
            self.mean.lerp_(mean[:, half], BATCH_NORM_MOMENTUM)
            self.variance.lerp_(unbiased[:, half], BATCH_NORM_MOMENTUM)


class _StepLinear(torch.autograd.Function):
    """seen @ weight^T; going back, the weight takes its step."""

    @staticmethod
    def forward(
        ctx: Any, seen: Tensor, weight: Tensor, velocity: Tensor, step: tuple[float, float]
    ) -> Tensor:
        ctx.save_for_backward(seen)
        # Changed in place on the way back, on purpose: not among the tensors that autograd guards.
        ctx.weight, ctx.velocity, ctx.step = weight, velocity, step
        return seen @ weight.mT

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (seen,) = ctx.saved_tensors
        learning_rate, momentum = ctx.step
        back = ops.linear_step(
            seen,
            grad.contiguous(),
            ctx.weight,
            ctx.velocity,
            lr=learning_rate,
            momentum=momentum,
            need_grad_inputs=ctx.needs_input_grad[0],
        )
        return (back if ctx.needs_input_grad[0] else None), None, None, None
