"""Do maps depend on what was learnt? Layers forget it one by one, and maps are compared."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ..errors import ArgumentError, is_one_of, near
from ..runtime.inference import outside_inference_mode
from ..runtime.random_state import seeded
from ..runtime.training import seed_of
from .asked import check_count
from .perturbed_model import Explain, Explained, copy_of
from .similarity import Compared, FloatArray, check_similarities

ORDERS = ("top_down", "bottom_up", "independent")
# What layers have that can be begun anew; the second is that of nn.MultiheadAttention.
RESETS = ("reset_parameters", "_reset_parameters")


@dataclass(frozen=True)
class ModelRandomisation:
    """Similarities to the maps of the model itself, after each of L layers, of each of B inputs.

    Attributes:
        layers: names of the layers, in the order in which they were re-initialised.
        order: "top_down", "bottom_up" or "independent".
        similarity: of each name that was asked for and applies, float64 [L, B]. NaN where one of
            two unequal maps is constant.
        kept: names of the parameters that no layer's `reset_parameters` touches: they stay as they
            were learnt.
    """

    layers: tuple[str, ...]
    order: str
    similarity: dict[str, FloatArray]
    kept: tuple[str, ...]

    @property
    def curves(self) -> dict[str, FloatArray]:
        """Means over the inputs, [L] each."""
        return {name: values.mean(1) for name, values in self.similarity.items()}

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draws similarities over the layers."""
        from ..plots import curves_figure, save_figure

        places = np.arange(len(self.layers))
        figure = curves_figure(places, self.curves, "re-initialised")
        (axes,) = figure.axes
        axes.set_position((0.09, 0.34, 0.64, 0.6))
        axes.set_xticks(places, self.layers, rotation=45, ha="right")
        save_figure(figure, path)


@outside_inference_mode
def mprt(
    model: nn.Module,
    explain: Explain | str,
    inputs: Tensor,
    target: Any = None,
    *,
    order: str = "top_down",
    seed: int = 0,
    similarities: str | Sequence[str] = ("spearman",),
    select_output: Callable[[Any], Tensor] | None = None,
    **options: Any,
) -> ModelRandomisation:
    """How maps change as layers forget what they learnt: a map that stays does not tell of it.

    The model parameter randomisation test of Adebayo et al., "Sanity Checks for Saliency Maps"
    (2018), section 3. Layers are re-initialised by their own `reset_parameters`, on a copy; the
    model is not touched, and neither is torch's random state. What a layer becomes depends on the
    seed and its name alone, whatever the order. In the copy weights that are computed from others,
    by spectral or weight normalisation or any other parametrization, are weights as they are: what
    is forgotten is all of them.

    Args:
        model: a torch module, in eval mode, which copy.deepcopy copies; returns [B, n].
        explain: called as explain(model, inputs, target) with the target int64 [B], it returns
            attributions [B, ...] as a tensor or an array, drawing no numbers that differ from call
            to call; or the name of a method of `pyxai_fast.explain`, which gets the options.
        inputs: [B, ...], with at least one input.
        target: a class, or [B] of them; None explains what the model itself predicts, whatever its
            layers have forgotten.
        order: "top_down" re-initialises the last layer, then the one before it too, and so on;
            "bottom_up" begins with the first; "independent" only one at a time. Layers come in the
            order of `named_modules`.
        seed: of the new weights.
        similarities: one or some of "spearman", "ssim" and "hog", of the sizes of attributions, as
            in `model_perturbation`; the last two need scikit-image.
        select_output: picks the output tensor from what the model returns.
        options: of the method that `explain` names.

    Raises:
        TypeError, ValueError: naming the argument, what it must be and what it is.
        ImportError: scikit-image is needed, and is not installed.

    Example:
        >>> import torch
        >>> from pyxai_fast.metrics import mprt
        >>> net = torch.nn.Sequential(torch.nn.Linear(12, 8), torch.nn.Linear(8, 3)).eval()
        >>> found = mprt(net, "saliency", torch.rand(2, 12))
        >>> found.layers, found.similarity["spearman"].shape
        (('1', '0'), (2, 2))
    """
    op = "mprt"
    if not is_one_of(order, ORDERS):
        raise ArgumentError(
            f"{op}: order must be one of {', '.join(ORDERS)}, got {order!r}"
            f"{near(str(order), ORDERS)}"
        )
    check_count(op, "seed", seed, 0)
    similarities = check_similarities(op, similarities)
    forgetful = _with_plain_weights(copy_of(op, model))
    layers = _layers(forgetful)
    if not layers:
        raise ArgumentError(
            f"{op}: model must have layers with reset_parameters, got {type(model).__name__} "
            "without any"
        )
    explained = Explained(op, forgetful, explain, inputs, target, select_output, options)
    own = Compared(explained.maps(forgetful), similarities)
    found: dict[str, list[FloatArray]] = {name: [] for name in own.names}
    names = list(layers)[::-1] if order == "top_down" else list(layers)
    learnt = copy_of(op, forgetful) if order == "independent" else forgetful
    forgotten: set[int] = set()
    for name in names:
        if order == "independent":
            _restore(forgetful, learnt)
        forgotten |= _forget(layers[name], seed_of(seed, name))
        for similarity, values in own.with_maps(explained.maps(forgetful)).items():
            found[similarity].append(values)
    return ModelRandomisation(
        tuple(names),
        order,
        {name: np.stack(values).astype(np.float64) for name, values in found.items()},
        tuple(name for name, w in forgetful.named_parameters() if id(w) not in forgotten),
    )


def _with_plain_weights(model: nn.Module) -> nn.Module:
    """The model, in which `reset_parameters` writes on weights that the forward pass reads."""
    for module in list(model.modules()):
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
            elif isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
        if parametrize.is_parametrized(module):
            # `remove_parametrizations` would take them from the original's class too.
            parts = module.get_submodule("parametrizations")
            made = {name: getattr(module, name) for name, _ in parts.named_children()}
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module.parametrizations
            for name, w in made.items():
                module.register_parameter(name, nn.Parameter(w.detach().clone(), w.requires_grad))
    return model


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """Those with weights or statistics of their own that they can begin anew, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if _reset_of(module) is not None
        and (
            any(True for _ in module.parameters(False)) or any(True for _ in module.buffers(False))
        )
    }


def _reset_of(module: nn.Module) -> Callable[[], object] | None:
    found = (getattr(module, name, None) for name in RESETS)
    return next((reset for reset in found if callable(reset)), None)


def _forget(layer: nn.Module, seed: int) -> set[int]:
    """Begins a layer anew; the ids of its parameters that this wrote on."""
    reset = _reset_of(layer)
    assert reset is not None
    devices = {held.device for held in (*layer.parameters(), *layer.buffers())}
    learnt = {
        name: w.detach().clone()
        for name, w in layer.named_parameters(recurse=False)
        if w.is_floating_point()
    }
    written = set()
    with torch.no_grad(), seeded(seed, *devices):
        # What is still NaN afterwards was not written on. A constant may be what there was before.
        for name in learnt:
            layer.get_parameter(name).fill_(torch.nan)
        reset()
        for name, w in layer.named_parameters(recurse=False):
            left = w.isnan()
            if not bool(left.all()):
                written.add(id(w))
            if name in learnt and bool(left.any()):
                w.copy_(torch.where(left, learnt[name], w))
    return written


def _restore(changed: nn.Module, model: nn.Module) -> None:
    pairs = (
        *zip(changed.parameters(), model.parameters(), strict=True),
        *zip(changed.buffers(), model.buffers(), strict=True),
    )
    with torch.no_grad():
        for one, own in pairs:
            one.copy_(own)
