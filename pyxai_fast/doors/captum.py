"""captum draws our explanations.

Nothing else of captum needs a door: methods have its call, so that its `NoiseTunnel` and its
metrics take them as they are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError
from ..explanation import Explanation
from ..plots import pixel_image


def picture(
    explanation: Explanation, row: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """One picture of an explanation, as captum's `visualize_image_attr` takes it.

    Args:
        explanation: of pictures [B, C, H, W], C = 1 or 3, and one target.
        row: which of them.

    Returns:
        attributions: [H, W, C] float32.
        pixels: [H, W, 3] uint8; inputs that are not in [0, 1] are stretched to it.

    Raises:
        TypeError: what is no explanation.
        ValueError: an explanation of anything else, or a row that it does not have.

    Example:
        >>> from captum.attr import visualization  # doctest: +SKIP
        >>> visualization.visualize_image_attr(  # doctest: +SKIP
        ...     *picture(explanation), "blended_heat_map"
        ... )
    """
    if not isinstance(explanation, Explanation):
        raise TypeError(
            f"picture: explanation must be an Explanation, got {type(explanation).__name__}"
        )
    maps, inputs = explanation.attributions, explanation.inputs
    if explanation.n_targets is not None:
        raise ArgumentError(
            f"picture: an explanation must have one target, got {explanation.n_targets}; pick one: "
            "explanation.for_target(0)"
        )
    if isinstance(maps, tuple) or isinstance(inputs, tuple):
        raise ArgumentError("picture: inputs must be one tensor [B, C, H, W], got a tuple")
    if inputs.dim() != 4 or inputs.shape[1] not in (1, 3):
        raise ArgumentError(f"picture: inputs must be [B, 1 or 3, H, W], got {list(inputs.shape)}")
    if isinstance(row, bool) or not isinstance(row, int) or not 0 <= row < len(inputs):
        raise ArgumentError(f"picture: row must be in [0, {len(inputs)}), got {row!r}")
    attributions = maps[row].detach().float().movedim(0, -1).cpu().numpy()
    return np.ascontiguousarray(attributions), pixel_image(inputs[row])
