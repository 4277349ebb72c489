"""The answer: attributions, and everything needed to read and repeat them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .errors import ArgumentError
from .runtime.cost import Cost
from .weights_file import save_weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Attributions = Tensor | tuple[Tensor, ...]


@dataclass(repr=False)
class Explanation:
    """What `explain` returns.

    Attributes:
        attributions: shaped as the inputs, [B, ...]; a tuple for a tuple of inputs. [B, n, ...] for
            n Targets.
        inputs: what was explained, in the caller's units.
        target: [B], the explained class of each example; None for a model with one output; [B, n]
            for n Targets.
        outputs: [B, n] the model's outputs at the inputs, of the kind that was explained.
        delta: [B], completeness gap sum(attributions) - (s(inputs) - s(baselines)); None for a
            method that promises no completeness; [B, n] for n Targets.
        standard_error: shaped as the attributions; None where they are no estimates.
        cost: model evaluations, seconds and the plan that was used.
        method: its name.
        settings: the options of the call, fit for JSON.
        class_names: of the outputs, where they are known.
        feature_names: of the columns of tables, where they are known.
    """

    attributions: Attributions
    inputs: Attributions
    target: Tensor | None
    outputs: Tensor
    delta: Tensor | None
    cost: Cost
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    class_names: list[str] | None = None
    standard_error: Attributions | None = None
    n_targets: int | None = None
    feature_names: list[str] | None = None

    def __repr__(self) -> str:
        maps = self.attributions if isinstance(self.attributions, tuple) else (self.attributions,)
        shapes = ", ".join(str(list(m.shape)) for m in maps)
        told = [self.method, f"attributions {shapes}"]
        if self.target is not None and self.target.dim() == 1:
            shown = self.target[:6].tolist()
            told.append(f"target {shown}"[:-1] + (", ...]" if len(self.target) > 6 else "]"))
        if self.delta is not None and self.delta.numel():
            told.append(f"completeness gap {float(self.delta.abs().max()):.1e}")
        asked = {"gradients": self.cost.gradients, "queries": self.cost.queries}
        told += [f"{count} {name}" for name, count in asked.items() if count]
        return f"Explanation({', '.join(told)}, {self.cost.seconds:.2g} s)"

    def for_target(self, position: int) -> Explanation:
        """The explanation of one of several Targets, as if it had been explained alone."""
        if self.n_targets is None or not 0 <= position < self.n_targets:
            raise ArgumentError(
                "Explanation.for_target: position must be among the Targets of this explanation, "
                f"{self.n_targets or 0}, got {position}"
            )

        def one(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(one, value))
            return None if value is None else value[:, position]

        return replace(
            self,
            attributions=one(self.attributions),
            target=one(self.target),
            delta=one(self.delta),
            standard_error=one(self.standard_error),
            n_targets=None,
        )

    def plot(self, path: str | Path | None = None) -> Figure:
        """A picture of images [B, C, H, W] with their attributions, or bars for tables [B, D].

        Written to `path` when given. Needs matplotlib (pip install pyxai-fast[plot]). Several
        Targets are drawn one at a time: `explanation.for_target(0).plot(...)`.
        """
        if self.n_targets is not None:
            raise ArgumentError(
                "Explanation.plot: an explanation must have one target, got "
                f"{self.n_targets}; pick one: explanation.for_target(0).plot(...)"
            )
        from .plots import explanation_figure, save_figure

        figure = explanation_figure(self)
        if path is not None:
            save_figure(figure, path)
        return figure

    def to_shap(self) -> Any:
        """The same as a `shap.Explanation`, for shap's plots (pip install shap).

        Base values are there where attributions add up to the explained outputs. Of tables values
        are [B, D], or [B, D, n] of n Targets; of pictures [B, H, W, C, n], n = 1 for one target.

        >>> shap.plots.waterfall(explanation.to_shap()[0])  # doctest: +SKIP
        """
        from .doors.shap import shap_explanation

        return shap_explanation(self)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name; those of a tuple are numbered."""
        named: dict[str, Tensor] = {}
        for name, value in (
            ("attributions", self.attributions),
            ("standard_error", self.standard_error),
            ("inputs", self.inputs),
        ):
            if value is None:
                continue
            if isinstance(value, Tensor):
                named[name] = value
            else:
                named.update({f"{name}.{i}": part for i, part in enumerate(value)})
        named["outputs"] = self.outputs
        if self.target is not None:
            named["target"] = self.target
        if self.delta is not None:
            named["delta"] = self.delta
        # Copies: formats do not take tensors that share memory, as inputs and outputs may.
        return {
            k: v.detach().cpu().clone(memory_format=torch.contiguous_format)
            for k, v in named.items()
        }

    def save(self, path: str | Path) -> Path:
        """Writes all tensors and the settings to one .safetensors or .npz file."""
        about: dict[str, Any] = {
            "method": self.method, "settings": self.settings, "cost": self.cost.as_dict()
        }  # fmt: skip
        if self.feature_names is not None:
            about["feature_names"] = self.feature_names
        return save_tensors(self.tensors(), json.dumps(about), path)


def save_tensors(tensors: dict[str, Tensor], about: str, path: str | Path) -> Path:
    """Writes tensors by name, and text about them, to a .safetensors or .npz file."""
    path = Path(path)
    if path.suffix == ".safetensors":
        try:
            save_weights(tensors, path, {"pyxai_fast": about})
        except ImportError as error:
            raise ImportError(
                "save: safetensors must be installed to write .safetensors files: "
                "pip install pyxai-fast[image], or save as .npz"
            ) from error
    elif path.suffix == ".npz":
        import numpy as np

        arrays: dict[str, Any] = {
            k: (v.float() if v.dtype == torch.bfloat16 else v).numpy() for k, v in tensors.items()
        }
        np.savez_compressed(path, about=np.array(about), **arrays)
    else:
        raise ValueError(f"save: path must end in .safetensors or .npz, got {path.name!r}")
    return path
