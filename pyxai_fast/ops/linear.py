"""The linear op: a step of training of linear layers that never writes the weights' gradient.

A layer of 49152 inputs and 512 outputs has a gradient of 100 MB, made of 6 MB of inputs and the
gradients of a few outputs. Here it is made where the optimiser needs it, weight by weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import reference
from .batching import mapped_first
from .checks import check_floating, check_same_device
from .registry import define, fake_nothing


def linear_step(
    inputs: Tensor,
    grads: Tensor,
    weight: Tensor,
    velocity: Tensor,
    *,
    lr: float,
    momentum: float,
    need_grad_inputs: bool = True,
    out: Tensor | None = None,
) -> Tensor:
    """The backward pass of linear layers and their optimiser's step, in one pass over the weights.

    For each layer n of its own, ``outputs = inputs @ weight.mT``:

    ``grad_inputs = grads @ weight``, with the weight as it was;
    ``gradient = grads.mT @ inputs``;
    ``velocity = momentum * velocity + gradient``;
    ``weight -= lr * (gradient + momentum * velocity)``.

    The last two are ``torch.optim.SGD(nesterov=True)``, its momentum buffer started at zero:
    Nesterov's momentum in the form of Sutskever, Martens, Dahl and Hinton, "On the importance of
    initialization and momentum in deep learning" (2013). Weight and velocity are updated in place.

    Sums add one product after the other, each rounded to the type: those of `grad_inputs` in the
    order of the outputs, those of the gradient in the order of the rows. So the result does not
    depend on threads, and a layer's not on the layers beside it.

    Not differentiable: call it where a backward pass is, or within torch.no_grad().

    Args:
        inputs: [N, R, D], or [R, D] for one layer: what the layers were given, any strides.
        grads: [N, R, O] or [R, O]: the loss by the layers' outputs, any strides.
        weight: [N, O, D] or, as torch.nn.Linear has it, [O, D]; float32 or float64, which all
            others share, and contiguous. Updated.
        velocity: like the weight, contiguous; zeros at first. Updated.
        lr: the learning rate, at least 0.
        momentum: at least 0; 0 is plain gradient descent.
        need_grad_inputs: False leaves `grad_inputs` out, which nobody needs of a first layer.
        out: [N, R, D] or [R, D], contiguous: where to write `grad_inputs`.

    Returns:
        grad_inputs, like the inputs and contiguous; `out` where it is given; without
        need_grad_inputs a tensor of no rows.

    Raises:
        TypeError: an argument that is no floating-point tensor, a weight of another type than
            float32 or float64, or an lr or momentum that is no number.
        ValueError: a shape, type, device or stride that does not fit; an lr or momentum below 0;
            `out` without need_grad_inputs; or an argument that requires grad in grad mode.
            Messages name the argument, what it must be, and what was got.
    """
    op = "linear_step"
    check_floating(op, "weight", weight)
    if weight.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{op}: weight must be float32 or float64, got {weight.dtype}")
    if weight.dim() not in (2, 3):
        raise ValueError(
            f"{op}: weight must have shape [O, D] or [N, O, D], got {list(weight.shape)}"
        )
    check_floating(op, "inputs", inputs)
    if inputs.dim() != weight.dim():
        raise ValueError(
            f"{op}: inputs must have {weight.dim()} dimensions as the weight {list(weight.shape)} "
            f"has, got {list(inputs.shape)}"
        )
    *layers, outputs, features = weight.shape
    rows = inputs.shape[-2]
    _check_matrices(op, "inputs", inputs, weight, (*layers, rows, features))
    _check_matrices(op, "grads", grads, weight, (*layers, rows, outputs))
    _check_matrices(op, "velocity", velocity, weight, weight.shape)
    if out is not None:
        if not need_grad_inputs:
            raise ValueError(f"{op}: out must be None without need_grad_inputs, got a tensor")
        _check_matrices(op, "out", out, weight, inputs.shape)
    for name, tensor in (("weight", weight), ("velocity", velocity), ("out", out)):
        if tensor is not None and not tensor.is_contiguous():
            raise ValueError(f"{op}: {name} must be contiguous, got strides {tensor.stride()}")
    if torch.is_grad_enabled():
        _check_no_grad(op, inputs=inputs, grads=grads, weight=weight, velocity=velocity, out=out)
    lr, momentum = _number(op, "lr", lr), _number(op, "momentum", momentum)
    if out is not None:
        torch.ops.pyxai_fast.linear_step.out(inputs, grads, weight, velocity, lr, momentum, out=out)
        return out
    grad_inputs: Tensor = torch.ops.pyxai_fast.linear_step.default(
        inputs, grads, weight, velocity, lr, momentum, need_grad_inputs
    )
    return grad_inputs


def _check_matrices(
    op: str, name: str, tensor: Tensor, weight: Tensor, shape: Sequence[int]
) -> None:
    check_floating(op, name, tensor)
    check_same_device(op, name, tensor, weight)
    if tensor.dtype != weight.dtype or tensor.shape != shape:
        raise ValueError(
            f"{op}: {name} must be {weight.dtype} {list(shape)} for the weight "
            f"{list(weight.shape)}, got {tensor.dtype} {list(tensor.shape)}"
        )


def _check_no_grad(op: str, **tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        if tensor is not None and tensor.requires_grad:
            raise ValueError(
                f"{op}: {name} must not require grad in grad mode, got a tensor that does: the op "
                "is not differentiable; call it within torch.no_grad()"
            )


def _number(op: str, name: str, value: float) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{op}: {name} must be a number, got {type(value).__name__}")
    if not value >= 0:
        raise ValueError(f"{op}: {name} must be at least 0, got {value}")
    return float(value)


# --- declarations --------------------------------------------------------------------------------


def _fake_step(
    inputs: Tensor,
    grads: Tensor,
    weight: Tensor,
    velocity: Tensor,
    lr: float,
    momentum: float,
    need_grad_inputs: bool = True,
) -> Tensor:
    *layers, rows, features = inputs.shape
    return inputs.new_empty(*layers, rows if need_grad_inputs else 0, features)


def _vmap_step(
    info: Any,
    in_dims: tuple[int | None, ...],
    inputs: Tensor,
    grads: Tensor,
    weight: Tensor,
    velocity: Tensor,
    *options: Any,
) -> tuple[Tensor, int]:
    """Examples are layers."""
    given = (inputs, grads, weight, velocity)
    x, g, w, v = (
        mapped_first(tensor, dim, info.batch_size)
        for tensor, dim in zip(given, in_dims, strict=False)
    )
    layers = x.shape[:-2]
    x, g = (tensor.flatten(0, -3) for tensor in (x, g))
    # Views and no copies, since they are written.
    w, v = (tensor.view(x.shape[0], *tensor.shape[-2:]) for tensor in (w, v))
    grad_inputs = torch.ops.pyxai_fast.linear_step.default(x, g, w, v, *options)
    return grad_inputs.view(*layers, *grad_inputs.shape[-2:]), 0


define(
    "linear_step(Tensor inputs, Tensor grads, Tensor(a!) weight, Tensor(b!) velocity, float lr, "
    "float momentum, bool need_grad_inputs=True) -> Tensor",
    reference=reference.linear_step,
    fake=_fake_step,
    vmap=_vmap_step,
)
define(
    "linear_step.out(Tensor inputs, Tensor grads, Tensor(a!) weight, Tensor(b!) velocity, "
    "float lr, float momentum, *, Tensor(c!) out) -> ()",
    reference=reference.linear_step_out,
    fake=fake_nothing,
)
