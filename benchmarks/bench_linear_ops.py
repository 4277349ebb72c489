"""The linear op against products of matrices and torch's optimisers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from contest import (
    DTYPES,
    Op,
    Result,
    Rival,
    Setting,
    compiled,
    compiled_in,
    nbytes,
    over_threads,
)
from linear_cases import LARGE
from torch import Tensor

from pyxai_fast import ops

STUDENT = "student"
# For a GPU: eight layers of 100 MB.
MANY = replace(LARGE[-1], name="students_of_eight", layers=8)
CASES = {case.name: case for case in (*LARGE, MANY)}
LR, MOMENTUM = 1e-3, 0.9


@dataclass(frozen=True)
class Data:
    """The tensors of a setting; `weight`, `velocity` and `grad_inputs` are every contender's."""

    inputs: Tensor
    grads: Tensor
    weight: Tensor
    velocity: Tensor
    start: tuple[Tensor, Tensor]
    grad_inputs: Tensor

    @property
    def result(self) -> Result:
        return self.grad_inputs, self.weight, self.velocity


@functools.lru_cache(maxsize=1)
def data(setting: Setting) -> Data:
    made = CASES[setting.case].tensors(DTYPES[setting.dtype], setting.device)
    start = made["weight"].clone(), made["velocity"].clone()
    return Data(**made, start=start, grad_inputs=torch.empty_like(made["inputs"]))


def reset(d: Data) -> None:
    for tensor, start in zip((d.weight, d.velocity), d.start, strict=True):
        tensor.copy_(start)


# --- contenders: each takes the data and returns what is timed -----------------------------------


def step_of_ours(d: Data) -> Callable[[], Result]:
    def run() -> Result:
        ops.linear_step(
            d.inputs, d.grads, d.weight, d.velocity, lr=LR, momentum=MOMENTUM, out=d.grad_inputs
        )
        return d.result

    return run


def with_optimizer(d: Data, **kind: bool) -> Callable[[], Result]:
    """Both products into buffers that stay, and torch's optimiser."""
    parameter = torch.nn.Parameter(d.weight)
    parameter.grad = torch.empty_like(d.weight)
    gradient = parameter.grad
    optimizer = torch.optim.SGD([parameter], lr=LR, momentum=MOMENTUM, nesterov=True, **kind)
    optimizer.state[parameter]["momentum_buffer"] = d.velocity

    def run() -> Result:
        torch.matmul(d.grads, d.weight, out=d.grad_inputs)
        torch.matmul(d.grads.mT, d.inputs, out=gradient)
        optimizer.step()
        return d.result

    return run


def by_autograd(d: Data, **kind: bool) -> Callable[[], Result]:
    """torch's backward pass, which makes a gradient anew, and its optimiser."""
    # `data`, since autograd would notice that the optimiser changes what the graph has kept.
    inputs, weight = d.inputs.data.requires_grad_(), d.weight.data.requires_grad_()
    parameter = torch.nn.Parameter(d.weight)
    optimizer = torch.optim.SGD([parameter], lr=LR, momentum=MOMENTUM, nesterov=True, **kind)
    optimizer.state[parameter]["momentum_buffer"] = d.velocity
    with torch.enable_grad():
        outputs = inputs @ weight.mT

    def run() -> Result:
        inputs.grad = weight.grad = None
        outputs.backward(d.grads, retain_graph=True)
        parameter.grad = weight.grad
        optimizer.step()
        assert inputs.grad is not None
        return inputs.grad, d.weight, d.velocity

    return run


def add_products(
    total: Tensor, one: Tensor, other: Tensor, beta: float = 1.0, alpha: float = 1.0
) -> None:
    """total = beta * total + alpha * one @ other"""
    (total.addmm_ if total.dim() == 2 else total.baddbmm_)(one, other, beta=beta, alpha=alpha)


def into_velocity(d: Data) -> Callable[[], Result]:
    """No gradient either: gradient + m * new velocity = (1 + m) * new velocity - m * old."""

    def run() -> Result:
        torch.matmul(d.grads, d.weight, out=d.grad_inputs)
        d.weight.add_(d.velocity, alpha=LR * MOMENTUM)
        add_products(d.velocity, d.grads.mT, d.inputs, beta=MOMENTUM)
        d.weight.add_(d.velocity, alpha=-LR * (1 + MOMENTUM))
        return d.result

    return run


def into_both(d: Data) -> Callable[[], Result]:
    """Products added to the weight too, which saves a pass over it, and costs their work again."""

    def run() -> Result:
        torch.matmul(d.grads, d.weight, out=d.grad_inputs)
        add_products(d.velocity, d.grads.mT, d.inputs, beta=MOMENTUM)
        add_products(d.weight, d.grads.mT, d.inputs, alpha=-LR)
        d.weight.add_(d.velocity, alpha=-LR * MOMENTUM)
        return d.result

    return run


def by_outputs(d: Data, count: int) -> Callable[[], Result]:
    """Some outputs at a time, whose weights stay in a cache."""
    parts = [
        (d.grads[..., o : o + count], d.weight[..., o : o + count, :],
         d.velocity[..., o : o + count, :])
        for o in range(0, d.weight.shape[-2], count)
    ]  # fmt: skip

    def run() -> Result:
        for number, (grads, weight, velocity) in enumerate(parts):
            add_products(d.grad_inputs, grads, weight, beta=float(number > 0))
            weight.add_(velocity, alpha=LR * MOMENTUM)
            add_products(velocity, grads.mT, d.inputs, beta=MOMENTUM)
            weight.add_(velocity, alpha=-LR * (1 + MOMENTUM))
        return d.result

    return run


def by_features(d: Data, count: int) -> Callable[[], Result]:
    """The same with some features of all outputs."""
    parts = [
        tuple(x[..., f : f + count] for x in (d.inputs, d.weight, d.velocity, d.grad_inputs))
        for f in range(0, d.weight.shape[-1], count)
    ]

    def run() -> Result:
        for inputs, weight, velocity, grad_inputs in parts:
            torch.matmul(d.grads, weight, out=grad_inputs)
            weight.add_(velocity, alpha=LR * MOMENTUM)
            add_products(velocity, d.grads.mT, inputs, beta=MOMENTUM)
            weight.add_(velocity, alpha=-LR * (1 + MOMENTUM))
        return d.result

    return run


def step_compiled(d: Data) -> Callable[[], Result]:
    def expression(
        inputs: Tensor, grads: Tensor, weight: Tensor, velocity: Tensor, grad_inputs: Tensor
    ) -> None:
        grad_inputs.copy_(grads @ weight)
        gradient = grads.mT @ inputs
        velocity.mul_(MOMENTUM).add_(gradient)
        weight.sub_(LR * (gradient + MOMENTUM * velocity))

    fused = compiled(expression)

    def run() -> Result:
        fused(d.inputs, d.grads, d.weight, d.velocity, d.grad_inputs)
        return d.result

    return run


def is_large(setting: Setting) -> bool:
    return STUDENT in setting.case


OPS = [
    Op(
        "linear",
        "linear_step",
        "Backward pass of linear layers and a step of SGD with Nesterov's momentum, in place.",
        data,
        step_of_ours,
        {
            "backward, SGD(fused)": Rival(functools.partial(by_autograd, fused=True)),
            "backward, SGD(foreach)": Rival(functools.partial(by_autograd, foreach=True)),
            "matmul, SGD(fused)": Rival(functools.partial(with_optimizer, fused=True)),
            "matmul, SGD(foreach)": Rival(functools.partial(with_optimizer, foreach=True)),
            "addmm_ into velocity": Rival(into_velocity),
            "addmm_ into both": Rival(into_both),
            "the same, 16 outputs": Rival(functools.partial(by_outputs, count=16), when=is_large),
            "the same, 2048 features": Rival(
                functools.partial(by_features, count=2048), when=is_large
            ),
            "torch.compile": Rival(
                step_compiled, "compile", compiled_in(STUDENT, "digits", large=MANY.name)
            ),
        },
        list(over_threads(*(Setting("linear_step", case.name) for case in LARGE))),
        moved=lambda d: nbytes(
            d.inputs, d.grads, d.weight, d.weight, d.velocity, d.velocity, d.grad_inputs
        ),
        memory_bound=lambda setting: setting.on_cuda,
        reset=reset,
        large=[Setting("linear_step", MANY.name, threads=2)],
    ),
]
