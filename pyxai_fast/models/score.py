"""The explained scalar: a model, which of its outputs, for which target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArgumentError
from ..runtime.cost import Cost
from .outputs import check_batched, convert_output, output_tensor
from .target import check_target, normalise_target, select_target

ForwardFunc = Callable[..., Any]
TargetRows = tuple[int, ...] | Tensor


class Score:
    """s(x): one number for each row of model inputs.

    Args:
        forward: called as forward(*inputs, *additional_forward_args) on rows [R, ...].
        batch: number of explained examples B. Rows are made from examples; `rows` says how.
        device: of the inputs, to which targets are moved.
        target: any form of models.target.
        additional_forward_args: tensors [B, ...] are repeated with their examples; everything else
            is passed on as it is.
        output: "logit" (the output as it is), "prob", "logprob" or "margin".
        select_output: picks the tensor from what the model returns.
        cost: where every row that the model answers is counted, as a gradient where autograd
            records and as a query where it does not.
    """

    def __init__(
        self,
        forward: ForwardFunc,
        batch: int,
        device: torch.device,
        target: Any = None,
        additional_forward_args: Any = None,
        output: str = "logit",
        select_output: Callable[[Any], Tensor] | None = None,
        cost: Cost | None = None,
    ) -> None:
        self.forward = forward
        self.cost = Cost() if cost is None else cost
        self.batch = batch
        target = normalise_target(target, batch)
        self.target = target.to(device) if isinstance(target, Tensor) else target
        if additional_forward_args is None:
            additional_forward_args = ()
        elif not isinstance(additional_forward_args, tuple):
            additional_forward_args = (additional_forward_args,)
        self.additional_forward_args = additional_forward_args
        self.output = output
        self.select_output = select_output
        self._checked = False

    def rows(self, examples: slice, copies: int) -> RowScore:
        """The score of `copies` rows of each of the examples, copies outermost."""
        return RowScore(self, examples, copies)

    def outputs(self, inputs: tuple[Tensor, ...], args: tuple[Any, ...]) -> Tensor:
        """The model's (converted) outputs [R, ...] for rows of inputs."""
        try:
            answer = self.forward(*inputs, *args)
        except RuntimeError as error:
            wanted = model_dtype(self.forward)
            if wanted is not None and wanted != inputs[0].dtype:
                raise TypeError(
                    f"model: inputs must have the dtype of the model's weights, {wanted}, got "
                    f"{inputs[0].dtype} ({error})"
                ) from error
            raise
        output = output_tensor(answer, self.select_output)
        rows = inputs[0].shape[0]
        check_batched(output, rows)
        if torch.is_grad_enabled():
            self.cost.gradients += rows
        else:
            self.cost.queries += rows
        return convert_output(output, self.output)

    def select(self, outputs: Tensor, target: TargetRows | None = None) -> Tensor:
        """The explained element of each row, [R, ...] -> [R].

        `target` is given where rows are not examples.
        """
        if not self._checked:
            check_target(self.target, outputs)
            self._checked = True
        selected = select_target(outputs, self.target if target is None else target)
        if selected.dim() > 1 and selected[0].numel() != 1:
            raise ArgumentError(
                "target: target must select one element for each example, got "
                f"{list(selected.shape)} of an output {list(outputs.shape)}"
            )
        return selected.reshape(selected.shape[0])


class RowScore:
    """A score bound to rows: `copies` of each of some examples, copies outermost."""

    def __init__(self, score: Score, examples: slice, copies: int) -> None:
        self.score = score
        first, last, _ = examples.indices(score.batch)
        target = score.target
        if isinstance(target, Tensor):
            target = target[first:last].repeat(copies, 1)
        self.target = target
        self.args = tuple(
            self._expand(arg, first, last, copies) for arg in score.additional_forward_args
        )

    def _expand(self, arg: Any, first: int, last: int, copies: int) -> Any:
        if not isinstance(arg, Tensor) or arg.dim() == 0 or arg.shape[0] != self.score.batch:
            return arg
        arg = arg[first:last]
        return arg.repeat(copies, *[1] * (arg.dim() - 1)) if copies > 1 else arg

    def outputs(self, inputs: tuple[Tensor, ...]) -> Tensor:
        return self.score.outputs(inputs, self.args)

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        return self.score.select(self.outputs(inputs), self.target)


def module_of(forward: ForwardFunc) -> nn.Module | None:
    """The module behind a forward function, where there is one."""
    owner = getattr(forward, "__self__", forward)
    return owner if isinstance(owner, nn.Module) else None


def owner_of(forward: ForwardFunc) -> Any:
    """What measurements of a forward function are remembered by: its module, or itself."""
    module = module_of(forward)
    return forward if module is None else module


def model_dtype(forward: ForwardFunc) -> torch.dtype | None:
    """The type of the model's first floating-point weight, where there is one."""
    module = module_of(forward)
    weights = () if module is None else module.parameters()
    return next((w.dtype for w in weights if w.is_floating_point()), None)


def model_device(forward: ForwardFunc) -> torch.device | None:
    """Where the model's weights are; None without weights, or with weights on several devices."""
    module = module_of(forward)
    if module is None:
        return None
    devices = {parameter.device for parameter in module.parameters()}
    return devices.pop() if len(devices) == 1 else None
