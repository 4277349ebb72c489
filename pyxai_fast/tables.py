"""Tables: frames, arrays and estimators in, and out what methods take: rows and models that answer.

pandas is never imported: where it is not, nobody can have given a frame.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .errors import ArgumentError
from .models.black_box import BlackBox
from .models.from_sklearn import (
    class_names_of,
    estimator_box,
    feature_names_of,
    is_classifier,
    is_estimator,
)
from .models.score import model_dtype

# Of arrays and columns that hold numbers: booleans, integers and floating point.
NUMBERS = "biuf"


class TableCall(NamedTuple):
    """A model, inputs and baselines as the methods take them.

    Attributes:
        model: an estimator has become a BlackBox.
        inputs: a frame or an array has become a tensor.
        baselines: of rows [B, D], [R, D] where they were given as anything but a number.
        feature_names: of the columns, where they are known.
        class_names: of an estimator that has them.
        output: what of an estimator is explained if nothing else is asked for.
        is_table: whether there was a frame or an estimator.
    """

    model: Any
    inputs: Any
    baselines: Any
    feature_names: list[str] | None = None
    class_names: list[str] | None = None
    output: str | None = None
    is_table: bool = False


def as_table_call(
    model: Any, inputs: Any, baselines: Any, feature_names: Sequence[str] | None = None
) -> TableCall:
    """Estimators, frames and arrays made into what methods take; all else stays as it is.

    Args:
        model: of any kind; what has predict_proba or predict and is no module is an estimator.
        inputs: a frame; for a model that only answers an array too; anything else is left alone.
        baselines: as `table_baselines` takes them, for rows [B, D].
        feature_names: in place of the frame's or the estimator's.

    Raises:
        TypeError, ValueError: naming the argument, or the column, and what it must be.
    """
    if feature_names is not None and not _are_names(feature_names):
        raise TypeError(
            "explain: feature_names must be a sequence of names, got "
            f"{type(feature_names).__name__}"
        )
    frame = inputs if is_frame(inputs) else None
    if is_series(inputs):
        raise TypeError(
            "inputs: inputs must be a frame, also for one row: frame.iloc[[0]]; got a Series"
        )
    labels: list[Any] | None = None
    class_names = output = None
    estimator = is_estimator(model)
    if estimator:
        labels, class_names = feature_names_of(model), class_names_of(model)
        output = "prob" if is_classifier(model) else "logit"
        model = estimator_box(model, frame=frame)
    if frame is not None:
        labels = list(frame.columns)
        inputs = rows_of_frame(frame, "inputs").to(_row_dtype(model))
    elif isinstance(inputs, np.ndarray) and isinstance(model, BlackBox):
        inputs = rows_of_array(inputs, "inputs")
    names = None if labels is None else [str(label) for label in labels]
    if isinstance(inputs, Tensor) and inputs.dim() == 2:
        width = inputs.shape[1]
        if feature_names is not None and len(feature_names) != width:
            raise ArgumentError(
                f"explain: feature_names must have {width} names, one for each feature, got "
                f"{len(feature_names)}"
            )
        if names is not None and len(names) != width:
            labels = names = None  # the model says what it misses
        baselines = table_baselines(baselines, inputs, labels)
    if feature_names is not None:
        names = [str(name) for name in feature_names]
    is_table = estimator or frame is not None
    return TableCall(model, inputs, baselines, names, class_names, output, is_table)


def table_baselines(baselines: Any, rows: Tensor, labels: Sequence[Any] | None = None) -> Any:
    """Baselines for rows of a table.

    Args:
        baselines: a Series (such as train.mean()) or a frame, whose entries are found by the
            columns' names where these are known; an array, a list or a tensor [D], [1, D] or
            [R, D]; "mean", of the rows themselves, missing values left out; anything else is
            returned as it is.
        rows: [B, D].
        labels: of the columns, D.

    Returns:
        [R, D] in the rows' type, or what was given.
    """
    if isinstance(baselines, str):
        if baselines != "mean":
            return baselines
        if len(rows) < 2:
            raise ArgumentError(
                "baselines: 'mean' must be of two rows or more, because a row by itself is its own "
                f"mean, got {len(rows)}; give the mean of training data: baselines=train.mean()"
            )
        return rows.nanmean(0, keepdim=True)
    if is_frame(baselines) or is_series(baselines):
        picked = _by_label(baselines, labels)
        if is_frame(picked):
            return rows_of_frame(picked, "baselines").to(rows)
        baselines = picked.to_numpy()
    if isinstance(baselines, (np.ndarray, list)):
        try:
            array = np.asarray(baselines)
        except ValueError as error:
            raise ArgumentError(
                "baselines: baselines must have rows of one length, got rows of several"
            ) from error
        baselines = rows_of_array(array, "baselines").to(rows)
    if isinstance(baselines, Tensor) and baselines.shape == rows.shape[1:]:
        return baselines[None]
    return baselines


def _are_names(value: Any) -> bool:
    """Whether a value is a sequence of names: a list, an array, letters, an index of a frame."""
    return hasattr(value, "__len__") and hasattr(value, "__iter__")


def warn_of_zeros(rows: Tensor, names: Sequence[str] | None) -> None:
    """Says for which columns 0, which stands for what is hidden, is no value that a row is near."""
    if not len(rows):
        return
    known = rows.isfinite()
    low = torch.where(known, rows, torch.inf).amin(0)
    high = torch.where(known, rows, -torch.inf).amax(0)
    far = (known.any(0) & ((low > 0) | (high < 0))).nonzero().flatten().tolist()
    if far:
        shown = [f"feature {i}" if names is None else names[i] for i in far[:3]]
        more = f" and {len(far) - 3} more" if len(far) > 3 else ""
        warnings.warn(
            f"explain: 0 stands for what is hidden, and no row has values around 0 of "
            f"{', '.join(shown)}{more}; give baselines: a mean of training data, such as "
            'train.mean(), or "mean" of these rows, or 0.0 if it is meant',
            stacklevel=4,
        )


def is_frame(value: Any) -> bool:
    """Whether a value is a pandas DataFrame."""
    return _is_a("DataFrame", value)


def is_series(value: Any) -> bool:
    """Whether a value is a pandas Series."""
    return _is_a("Series", value)


def _is_a(name: str, value: Any) -> bool:
    # A module that another thread is importing has nothing yet.
    kind = getattr(sys.modules.get("pandas"), name, None)
    return kind is not None and isinstance(value, kind)


def rows_of_frame(frame: Any, name: str) -> Tensor:
    """The numbers of a frame, float64 [B, D]; what is missing is NaN.

    Raises:
        ArgumentError: a column holds something else; it is named.
    """
    kinds = zip(frame.columns, frame.dtypes, strict=True)
    other = [(column, kind) for column, kind in kinds if kind.kind not in NUMBERS]
    if other:
        column, kind = other[0]
        more = f", and {len(other) - 1} more columns like it" if len(other) > 1 else ""
        raise ArgumentError(
            f"{name}: all columns must hold numbers, got {kind} in {column!r}{more}; encode it, or "
            f"leave it out: frame.drop(columns=[{column!r}])"
        )
    return torch.from_numpy(np.array(frame.to_numpy(dtype="float64", na_value=np.nan)))


def rows_of_array(array: Any, name: str) -> Tensor:
    """An array of numbers as a tensor; booleans and integers as float64."""
    if array.dtype.kind not in NUMBERS:
        raise ArgumentError(f"{name}: the array must hold numbers, got {array.dtype}")
    return torch.from_numpy(np.array(array, None if array.dtype.kind == "f" else np.float64))


def _by_label(values: Any, labels: Sequence[Any] | None) -> Any:
    """Entries of a Series, or columns of a frame, in the order of the labels."""
    if labels is None:
        return values
    frame = is_frame(values)
    there = values.columns if frame else values.index
    missing = [label for label in labels if label not in there]
    if missing:
        raise ArgumentError(
            f"baselines: baselines must have an entry for each column, and have none for "
            f"{', '.join(map(repr, missing[:3]))}{' and more' if len(missing) > 3 else ''}"
        )
    return values[list(labels)] if frame else values.loc[list(labels)]


def _row_dtype(model: Any) -> torch.dtype:
    """Numbers of frames are exact for a model that only answers, and else as its weights are."""
    if isinstance(model, BlackBox):
        return torch.float64
    return model_dtype(model) or torch.get_default_dtype()
