"""Gradients asked for inside torch.inference_mode()."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def outside_inference_mode(function: Callable[P, R]) -> Callable[P, R]:
    """Lets a function that needs autograd be called inside torch.inference_mode().

    It leaves the mode for the call and copies inference tensors among the arguments, which autograd
    cannot record. Weights made inside inference mode cannot be saved by anybody: for those the
    error says what to do.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.inference_mode(False):
            try:
                # Also outside the mode: inference tensors live on after it.
                return function(*_ordinary(args), **_ordinary(kwargs))
            except RuntimeError as error:
                if "Inference tensors cannot be saved for backward" in str(error):
                    raise RuntimeError(
                        "model: its weights must be ordinary tensors to take gradients, got "
                        "weights made inside torch.inference_mode(). Build or load it outside."
                    ) from error
                raise

    return call


def _ordinary(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value
    if type(value) in (tuple, list):
        return type(value)(_ordinary(item) for item in value)
    if type(value) is dict:
        return {key: _ordinary(item) for key, item in value.items()}
    return value
