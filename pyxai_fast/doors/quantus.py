"""Quantus evaluates our methods: an `explain_func` for its metrics and `quantus.evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import ArgumentError
from ..front_door import explain
from ..models.score import model_dtype

_CHANNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "signed_sum": lambda maps: maps.sum(1, keepdim=True),
    "abs_sum": lambda maps: maps.abs().sum(1, keepdim=True),
    "max_abs": lambda maps: maps.abs().amax(1, keepdim=True),
}


def quantus_explain(
    model: Any,
    inputs: Any,
    targets: Any,
    *,
    method: str = "integrated_gradients",
    device: Any = None,
    channels: str | None = None,
    **options: Any,
) -> NDArray[Any]:
    """Attributions as Quantus asks for them: ``explain_func(model, inputs, targets, **kwargs)``.

    Its metrics pass `explain_func_kwargs` on as the keyword arguments, with the device that they
    were given. `quantus.evaluate` passes the name of each of its `xai_methods` as `method`, and the
    same other arguments to all; ``functools.partial(quantus_explain, n_steps=20)`` has its own.

    Args:
        model: as for `pyxai_fast.explain`. A module is put into eval mode, as Quantus does itself.
        inputs: [B, ...], channels first, in any type of numbers: the model gets that of its
            weights.
        targets: [B] classes, one for all, or None for those that the model predicts.
        method: as for `pyxai_fast.explain`.
        device: where the model is moved to; None leaves it where it is.
        channels: "signed_sum", "abs_sum" or "max_abs" make one channel of all, as maps for pictures
            have; None leaves them.
        options: of `pyxai_fast.explain` and of the method; arrays become tensors.

    Returns:
        Shaped as the inputs, [B, 1, ...] where channels are reduced; float32, or float64 for a
        float64 model.

    Raises:
        TypeError, ValueError: naming the argument, what it must be and what it is.

    Example:
        >>> import quantus  # doctest: +SKIP
        >>> quantus.MaxSensitivity()(  # doctest: +SKIP
        ...     model=model, x_batch=x, y_batch=y, a_batch=None, explain_func=quantus_explain,
        ...     explain_func_kwargs={"method": "saliency", "channels": "abs_sum"},
        ... )
    """
    if channels is not None and channels not in _CHANNELS:
        raise ArgumentError(
            f"quantus_explain: channels must be None or one of {', '.join(_CHANNELS)}, got "
            f"{channels!r}"
        )
    if isinstance(model, nn.Module):
        model.eval()
        if device is not None:
            model.to(device)
    rows = _tensor(inputs, model)
    if targets is not None:
        targets = torch.as_tensor(targets).long()
    options = {
        name: _tensor(value, model) if isinstance(value, np.ndarray) else value
        for name, value in options.items()
    }
    maps = explain(model, rows, method=method, target=targets, **options).attributions
    assert isinstance(maps, Tensor)  # of a tensor
    if maps.dtype != torch.float64:
        maps = maps.float()
    if channels is not None:
        if maps.dim() < 3:
            raise ArgumentError(
                "quantus_explain: channels must be None for inputs without channels, got "
                f"{channels!r} for {list(rows.shape)}"
            )
        maps = _CHANNELS[channels](maps)
    return maps.detach().cpu().numpy()


def _tensor(values: Any, model: Any) -> Tensor:
    """A tensor; numbers that are not whole in the type of the model's weights."""
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    if not tensor.is_floating_point():
        return tensor
    return tensor.to(model_dtype(model) or tensor.dtype)
