"""Models whose weights are noisy, and the maps that explain them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..errors import ArgumentError
from ..front_door import explain as explain_by_name
from ..methods import Saliency
from .asked import check_select_output, classes_of, random_key
from .maps import check_tensor

# Called as explain(model, inputs, target), the target int64 [B]; returns attributions [B, ...].
Explain = Callable[[nn.Module, Tensor, Tensor], Any]


def copy_of(op: str, model: Any) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{op}: model must be a torch module, got {type(model).__name__}")
    # What a hook computed from weights, as spectral_norm and weight_norm do, has a graph, of which
    # torch makes no copy. The copy's hooks compute their own.
    computed: dict[int, Any] = {
        id(held): held.detach().clone()
        for module in model.modules()
        for held in vars(module).values()
        if isinstance(held, Tensor) and not held.is_leaf
    }
    try:
        return copy.deepcopy(model, computed)
    except RuntimeError as error:
        raise ArgumentError(
            f"{op}: model must be one that copy.deepcopy copies, got {error}"
        ) from error


class PerturbedModel:
    """A copy of a model whose weights are drawn anew around the model's own.

    The model itself is only read: its weights, buffers, mode and flags stay whatever happens to the
    copy. Noise is drawn from the counter-based random numbers of `ops.perturb`: that of a draw is a
    function of the seed, the number of the draw, and the place of the weight among the model's,
    the same on every device.

    Attributes:
        model: the copy.
    """

    def __init__(self, op: str, model: nn.Module, seed: int) -> None:
        self.model = copy_of(op, model)
        self._original = model
        self._op, self._seed = op, seed

    def draw(self, number: int, spread: float, *, proportional: bool) -> None:
        """Sets the copy's weights: of every tensor, w + spread * size * N(0, 1).

        Args:
            number: of the draw: its directions are the same for every spread.
            spread: 0 gives the model's own weights.
            proportional: the size is each weight's own, w; else their standard deviation within the
                tensor, which is 0 for a tensor of equal weights.
        """
        own, drawn = self._original.parameters(), self.model.parameters()
        with torch.no_grad():
            for stream, (w, moved) in enumerate(zip(own, drawn, strict=True)):
                if w.is_floating_point() and w.numel():
                    moved.copy_(self._noisy(w, stream, number, spread, proportional))
            # Running statistics are not perturbed, nor kept from an earlier draw.
            own_buffers, buffers = self._original.buffers(), self.model.buffers()
            for kept, buffer in zip(own_buffers, buffers, strict=True):
                buffer.copy_(kept)

    def _noisy(
        self, w: Tensor, stream: int, number: int, spread: float, proportional: bool
    ) -> Tensor:
        flat = w.detach().flatten()[None]
        size = 1.0 if proportional else float(flat.double().std(correction=0))
        return ops.perturb(
            flat,
            1,
            spread * size,
            random_key(self._op, self._seed, stream, w.device),
            first_sample=number,
            mask=flat if proportional else None,
        ).view(w.shape)


class Explained:
    """Maps and outputs of models, for the same inputs and the same classes.

    Attributes:
        target: int64 [B], the classes that are explained.
    """

    def __init__(
        self,
        op: str,
        model: nn.Module,
        explain: Explain | str,
        inputs: Tensor,
        target: Any,
        select_output: Callable[[Any], Tensor] | None,
        options: dict[str, Any],
    ) -> None:
        check_tensor(op, "inputs", inputs)
        if inputs.dim() < 2 or not len(inputs):
            raise ArgumentError(
                f"{op}: inputs must be a tensor [B, ...] with B >= 1, got {list(inputs.shape)}"
            )
        check_select_output(op, select_output)
        if not isinstance(explain, str):
            if not callable(explain):
                kind = type(explain).__name__
                raise TypeError(f"{op}: explain must be callable or a method's name, got {kind}")
            if options:
                raise TypeError(
                    f"{op}: options must be given to explain itself where it is a callable, got "
                    f"{', '.join(options)}"
                )
        self._op, self._explain, self._options = op, explain, options
        self._inputs, self._select_output = inputs, select_output
        outputs = self.outputs(model)
        if outputs.dim() != 2:
            raise ArgumentError(
                f"{op}: model must return [B, n], a score for each class, got {list(outputs.shape)}"
            )
        self.target = classes_of(op, target, outputs)

    def outputs(self, model: nn.Module) -> Tensor:
        """[B, n], in chunks, without gradients."""
        return Saliency(model, select_output=self._select_output).outputs(self._inputs)

    def maps(self, model: nn.Module) -> Tensor:
        """Attributions [B, ...], detached."""
        if isinstance(self._explain, str):
            found = explain_by_name(
                model,
                self._inputs,
                method=self._explain,
                target=self.target,
                select_output=self._select_output,
                **self._options,
            ).attributions
        else:
            found = self._explain(model, self._inputs, self.target)
        return returned_maps(self._op, found, len(self._inputs))


def returned_maps(op: str, made: Any, batch: int) -> Tensor:
    """What a function of the user's returned, a tensor, an array or a tuple of one: [B, ...],
    detached."""
    if isinstance(made, tuple) and len(made) == 1:
        made = made[0]
    try:
        maps = torch.as_tensor(made).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{op}: explain must return a tensor or an array, got {type(made).__name__}"
        ) from error
    if maps.dim() < 2 or len(maps) != batch:
        raise ArgumentError(
            f"{op}: explain must return [{batch}, ...], an attribution for each input, got "
            f"{list(maps.shape)}"
        )
    return maps
