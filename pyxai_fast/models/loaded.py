"""What every kind of model spec is turned into."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from pyxai_fast.models.black_box import BlackBox
from pyxai_fast.models.preprocessing import Preprocessing


@dataclass(frozen=True)
class LoadedModel:
    """A classifier ready to be explained.

    Attributes:
        module: In eval mode, or a model that only answers; takes [B, C, H, W] normalised inputs
            (or rows [B, D]), returns logits [B, n_classes].
        preprocessing: From pixels in [0, 1] to what ``module`` takes.
        class_names: One name per output, or None if the model does not come with names.
        spec: The text it was loaded from, without what may be secret in an address.
        note: What had to be assumed about it, in one line; None where nothing had.
        feature_names: Of the columns that a model of tables takes, where it knows them.
        output: What of it is explained where nothing else is asked for; None for what suits the
            method.
    """

    module: nn.Module | BlackBox
    preprocessing: Preprocessing
    class_names: list[str] | None
    spec: str
    note: str | None = None
    feature_names: list[str] | None = None
    output: str | None = None
