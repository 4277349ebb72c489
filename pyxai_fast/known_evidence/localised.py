"""How well maps find known evidence, and what maps find that know nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from ..metrics.centre import centre_maps
from ..metrics.localisation import best_iou, energy_inside, iou_area, pointing_game
from .controls import uniform_maps
from .examples import Examples
from .maps import MAPS, Budget, maps_of, names_of, one_channel

METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "pointing": pointing_game,
    "energy": energy_inside,
    "best_iou": best_iou,
    "iou_area": iou_area,
}
CONTROLS = ("random", "centre")


def judged(values: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """Every metric of maps shaped as the masks: float64 [B] each, from 0 to 1; large is good."""
    return {name: metric(values, masks) for name, metric in METRICS.items()}


def values_of(net: nn.Module, examples: Examples, name: str, budget: Budget) -> Tensor:
    """A map or a control by name, shaped as the masks: as signed as the map is in MAPS."""
    if name == "random":
        return uniform_maps(examples.masks.shape, budget.seed)
    if name == "centre":
        return centre_maps(examples.masks.shape)
    found = maps_of(net, examples, name, budget).attributions
    assert isinstance(found, Tensor)
    return one_channel(found, signed=MAPS[name].signed)


def controls_of(examples: Examples) -> tuple[str, ...]:
    """Tables have no centre."""
    return CONTROLS if examples.masks.dim() == 4 else CONTROLS[:1]


def localisation(
    net: nn.Module, examples: Examples, budget: Budget
) -> Mapping[str, dict[str, Tensor]]:
    """The metrics of all maps and controls that there are for inputs of this kind."""
    return {
        name: judged(values_of(net, examples, name, budget), examples.masks)
        for name in (*names_of(budget), *controls_of(examples))
    }
