"""The answer to "what would have to change": inputs that the model takes for another class."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .explanation import save_tensors
from .runtime.cost import Cost

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(repr=False)
class Counterfactuals:
    """What `Counterfactual.generate` returns, in the caller's units.

    Attributes:
        inputs: what was changed, [B, ...].
        target: [B], the class that was asked for.
        mean: [B, ...], the mean of the last particles: smooth, where they differ blurred.
        best: [B, ...], one of them: of those that the model takes for the target the nearest to the
            input (mean absolute difference), or where there is none, the one with the highest
            probability of the target.
        particles: [B, K, ...], all of them; None where they were not kept.
        outputs, mean_outputs, best_outputs: [B, n], the model's logits at each.
        confidence: [B, S], the mean probability of the target over the particles' clean estimates
            at each of the n_steps steps, the last of which are the result; with coupling
            "diagonal", whose last step moves them once more, S = n_steps + 1.
        spread: [B, S], their root mean variance, in the prior's units.
        trajectory: [B, S, ...], the mean of these estimates; None where not kept.
        levels: [n_steps], of the prior's schedule, falling.
        cost: what it took, the prior and the model apart (`cost.parts`).
        settings: the options of the call, fit for JSON.
        class_names: of the outputs, where they are known.
    """

    inputs: Tensor
    target: Tensor
    mean: Tensor
    best: Tensor
    particles: Tensor | None
    outputs: Tensor
    mean_outputs: Tensor
    best_outputs: Tensor
    confidence: Tensor
    spread: Tensor
    trajectory: Tensor | None
    levels: Tensor
    cost: Cost
    settings: dict[str, Any] = field(default_factory=dict)
    class_names: list[str] | None = None

    def __repr__(self) -> str:
        taken = f"{int(self.flipped.sum())} of {len(self.inputs)} taken for the target"
        spent = f"{self.cost.queries} queries, {self.cost.seconds:.2g} s"
        return f"Counterfactuals({list(self.inputs.shape)}, {taken}, {spent})"

    @property
    def mean_flipped(self) -> Tensor:
        """[B] bool: the model takes the mean for the target."""
        return self.mean_outputs.argmax(1) == self.target

    @property
    def flipped(self) -> Tensor:
        """[B] bool: the model takes the best particle for the target."""
        return self.best_outputs.argmax(1) == self.target

    def example(self, position: int) -> Counterfactuals:
        """That of one input, as a batch of one."""
        one = slice(position, position + 1)

        def of(value: Any) -> Any:
            return value[one] if isinstance(value, Tensor) else value

        changed = {f.name: of(getattr(self, f.name)) for f in fields(self) if f.name != "levels"}
        return replace(self, **changed)

    def probability(self, outputs: Tensor) -> Tensor:
        """[B], of the target, from outputs [B, n]."""
        return outputs.softmax(1).gather(1, self.target[:, None])[:, 0]

    def distance(self, changed: Tensor) -> Tensor:
        """[B], the mean absolute difference of some [B, ...] from the inputs."""
        return (changed - self.inputs).abs().flatten(1).mean(1)

    def plot(self, path: str | Path | None = None) -> Figure:
        """A picture: inputs, counterfactuals, what was added and taken away, and the way there.

        Written to `path` when given. Needs matplotlib (pip install pyxai-fast[plot]).
        """
        from .counterfactual_plots import counterfactual_figure
        from .plots import save_figure

        figure = counterfactual_figure(self)
        if path is not None:
            save_figure(figure, path)
        return figure

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name, on the CPU."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, value in named.items()
            if isinstance(value, Tensor)
        }

    def save(self, path: str | Path) -> Path:
        """Writes all tensors and the settings to one .safetensors or .npz file."""
        about = json.dumps({"settings": self.settings, "cost": self.cost.as_dict()})
        return save_tensors(self.tensors(), about, path)
