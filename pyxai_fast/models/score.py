"""The explained scalar: a model, which of its outputs, for which target."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArgumentError
from ..runtime.cost import Cost
from ..runtime.linear_layers import linear_layers
from ..runtime.memory import is_out_of_memory
from ..runtime.prepared import Prepared
from .outputs import check_batched, convert_output, output_tensor
from .preprocessing import Affine
from .target import Targets, check_target, normalise_target, select_target

ForwardFunc = Callable[..., Any]
TargetRows = tuple[int, ...] | Tensor


class Score:
    """s(x): one number for each row of model inputs, or n of them for n `Targets`.

    Args:
        forward: called as forward(*inputs, *additional_forward_args) on rows [R, ...].
        batch: number of explained examples B. Rows are made from examples; `rows` says how.
        device: of the inputs, to which targets are moved.
        target: any form of models.target, or Targets.
        additional_forward_args: tensors [B, ...] are repeated with their examples; everything else
            is passed on as it is.
        output: "logit" (the output as it is), "prob", "logprob" or "margin".
        select_output: picks the tensor from what the model returns.
        cost: where every row that the model answers is counted, as a gradient where autograd
            records and as a query where it does not.
        affines: for each tensor of inputs, what turns the caller's units into the model's, or None.
        max_rows: rows sent through the model at once, at most; None leaves it to the planner.
        answered: told the number of rows whenever the model has answered.
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
        affines: tuple[Affine | None, ...] = (),
        max_rows: int | None = None,
    ) -> None:
        self.forward = forward
        self.cost = Cost() if cost is None else cost
        self.batch = batch
        self.several = isinstance(target, Targets)
        self.targets = tuple(
            normalise_target(each, batch) for each in (target if self.several else (target,))
        )
        self.targets = tuple(t.to(device) if isinstance(t, Tensor) else t for t in self.targets)
        if additional_forward_args is None:
            additional_forward_args = ()
        elif not isinstance(additional_forward_args, tuple):
            additional_forward_args = (additional_forward_args,)
        self.additional_forward_args = additional_forward_args
        # Told here, where the batch is whole: one of some examples may be as long by chance.
        self._by_example = tuple(
            isinstance(arg, Tensor) and arg.dim() > 0 and arg.shape[0] == batch
            for arg in additional_forward_args
        )
        self.output = output
        self.select_output = select_output
        self.affines = affines
        self.max_rows = max_rows
        self.answered: Callable[[int], object] = lambda rows: None
        # Whether slopes are going to be differentiated, with respect to weights too.
        self.keeps_graph = False
        # Of the examples, by which random gradients tell them apart.
        self.numbers = torch.arange(batch, device=device)
        self._device = device
        self._checked = False

    @property
    def n_targets(self) -> int:
        return len(self.targets)

    def rows(self, examples: slice, steps: slice = slice(0, 1), n_steps: int = 1) -> RowScore:
        """The score of rows at some of the n_steps steps of some examples, steps outermost."""
        first, last, _ = examples.indices(self.batch)
        begin, end, _ = steps.indices(n_steps)
        example = torch.arange(first, last, device=self._device)
        step = torch.arange(begin, end, device=self._device)
        return RowScore(
            self,
            example.repeat(end - begin),
            # Counted by example first: they are the same for every size of the batch.
            (self.numbers[example][None] * n_steps + step[:, None]).flatten(),
        )

    def of_examples(self, examples: Tensor) -> Score:
        """The score of some of the examples, [A] of their numbers; its cost is counted here."""
        part = copy.copy(self)
        part.batch = len(examples)
        part.numbers = self.numbers[examples.to(self._device)]
        part.targets = tuple(
            t[examples.to(t.device)] if isinstance(t, Tensor) else t for t in self.targets
        )
        part.additional_forward_args = self.args_of(examples)
        return part

    def takes(self, inputs: Tensor) -> torch.dtype:
        """The type that points of such inputs may as well be written in; see Prepared."""
        return self.forward.takes(inputs) if isinstance(self.forward, Prepared) else inputs.dtype

    @property
    def slope_scale(self) -> float:
        """What is multiplied by it before slopes are taken; see Prepared."""
        return self.forward.slope_scale if isinstance(self.forward, Prepared) else 1.0

    @property
    def slope_of_copy(self) -> bool:
        """Whether it is not the model's own weights that answer."""
        return isinstance(self.forward, Prepared) and self.forward.precision != "fp32"

    @property
    def static(self) -> bool:
        """Whether the model is compiled for certain numbers of rows; see Prepared."""
        return isinstance(self.forward, Prepared) and self.forward.compiled

    def exact(self) -> Score:
        """The score of the model as it was given, where its network was prepared."""
        if not isinstance(self.forward, Prepared):
            return self
        whole = copy.copy(self)
        whole.forward = self.forward.exact
        return whole

    def args_of(self, examples: Tensor) -> tuple[Any, ...]:
        """The additional arguments, with a row for each of these examples where they have rows."""
        return tuple(
            arg[examples.to(arg.device)] if by_example else arg
            for arg, by_example in zip(self.additional_forward_args, self._by_example, strict=True)
        )

    def outputs(self, inputs: tuple[Tensor, ...], args: tuple[Any, ...]) -> Tensor:
        """The model's (converted) outputs [R, ...] for rows of inputs."""
        try:
            answer = self._answer(inputs, args)
        except RuntimeError as error:
            wanted = model_dtype(self.forward)
            narrows = isinstance(self.forward, Prepared) or is_out_of_memory(error)
            if wanted is not None and wanted != inputs[0].dtype and not narrows:
                raise TypeError(
                    f"model: inputs must have the dtype of the model's weights, {wanted}, got "
                    f"{inputs[0].dtype} ({error})"
                ) from error
            raise
        output = output_tensor(answer, self.select_output)
        if isinstance(self.forward, Prepared) and output.dtype in (torch.bfloat16, torch.float16):
            output = output.float()
        rows = inputs[0].shape[0]
        check_batched(output, rows)
        if torch.is_grad_enabled():
            self.cost.gradients += rows
        else:
            self.cost.queries += rows
        self.cost.rows_per_chunk = max(rows, self.cost.rows_per_chunk)
        self.answered(rows)
        return convert_output(output, self.output)

    def _answer(self, inputs: tuple[Tensor, ...], args: tuple[Any, ...]) -> Any:
        if isinstance(self.forward, Prepared):
            return self.forward.ask(inputs, args, self._by_example)
        if self.keeps_graph:
            return self.forward(*inputs, *args)
        with linear_layers(module_of(self.forward), inputs[0]):
            return self.forward(*inputs, *args)

    def select(
        self, outputs: Tensor, targets: tuple[TargetRows | None, ...] | None = None
    ) -> Tensor:
        """The explained elements of each row, [R, ...] -> [R], or [R, n] for Targets.

        `targets` are given where rows are not examples.
        """
        if not self._checked:
            for target in self.targets:
                check_target(target, outputs)
            self._checked = True
        chosen = [self._select(outputs, t) for t in (self.targets if targets is None else targets)]
        return torch.stack(chosen, 1) if self.several else chosen[0]

    @staticmethod
    def _select(outputs: Tensor, target: TargetRows | None) -> Tensor:
        selected = select_target(outputs, target)
        if selected.dim() > 1 and len(selected) and selected[0].numel() != 1:
            raise ArgumentError(
                "target: target must select one element for each example, got "
                f"{list(selected.shape)} of an output {list(outputs.shape)}"
            )
        return selected.reshape(selected.shape[0])


class RowScore:
    """A score bound to rows, each of which belongs to an example.

    Attributes:
        score: what is asked.
        example: [R], the example of each row.
        numbers: [R], a number for each row's place (example and step), by which random gradients
            tell rows apart whatever the chunks are.
    """

    def __init__(self, score: Score, example: Tensor, numbers: Tensor) -> None:
        self.score = score
        self.example = example
        self.numbers = numbers
        self.targets = tuple(t[example] if isinstance(t, Tensor) else t for t in score.targets)
        self.args = score.args_of(example)

    def __len__(self) -> int:
        return self.example.shape[0]

    def take(self, rows: slice | Tensor, copies: int = 1) -> RowScore:
        """Some of the rows, `copies` of each, copies outermost."""
        return RowScore(
            self.score, self.example[rows].repeat(copies), self.numbers[rows].repeat(copies)
        )

    def outputs(self, inputs: tuple[Tensor, ...]) -> Tensor:
        return self.score.outputs(inputs, self.args)

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        return self.score.select(self.outputs(inputs), self.targets)


def module_of(forward: ForwardFunc) -> nn.Module | None:
    """The module behind a forward function, where there is one."""
    owner = getattr(forward, "__self__", forward)
    if isinstance(owner, Prepared):
        owner = owner.module
    return owner if isinstance(owner, nn.Module) else None


def owner_of(forward: ForwardFunc) -> Any:
    """What measurements of a forward function are remembered by: its module, or itself."""
    module = module_of(forward)
    if module is None:
        return forward.exact if isinstance(forward, Prepared) else forward
    return module


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
