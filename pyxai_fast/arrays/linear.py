"""A step of training of linear layers, in one pass over the weights."""

from __future__ import annotations

from .checks import Array, check_written, readable, thread_count
from .native_module import native


def linear_step(
    inputs: Array,
    grads: Array,
    weight: Array,
    velocity: Array,
    *,
    lr: float,
    momentum: float,
    need_grad_inputs: bool = True,
    out: Array | None = None,
    n_threads: int = 1,
) -> Array:
    """Updates weight and velocity [N, O, D] or [O, D] in place: see `pyxai_fast.ops.linear_step`.

    Returns:
        The gradient by the inputs, like the inputs; `out` when it is given; without
        need_grad_inputs an array of no rows.

    Raises:
        TypeError: an argument that is no floating-point array, or no number.
        ValueError: a shape, type or layout that does not fit, or arrays that overlap.
    """
    op = "linear_step"
    for name, rate in (("lr", lr), ("momentum", momentum)):
        if not isinstance(rate, (int, float)) or isinstance(rate, bool):
            raise TypeError(f"{op}: {name} must be a number, got {type(rate).__name__}")
        if not rate >= 0:
            raise ValueError(f"{op}: {name} must be at least 0, got {rate}")
    for name, written in (("weight", weight), ("velocity", velocity), ("out", out)):
        if written is not None:
            check_written(op, name, written)
    args = (
        thread_count(op, n_threads), readable(op, "inputs", inputs), readable(op, "grads", grads),
        weight, velocity, float(lr), float(momentum),
    )  # fmt: skip
    if out is None:
        grad_inputs: Array = native.ops.linear_step(*args, need_grad_inputs)
        return grad_inputs
    if not need_grad_inputs:
        raise ValueError(f"{op}: out must be None without need_grad_inputs, got an array")
    native.ops.linear_step_out(*args, out)
    return out
