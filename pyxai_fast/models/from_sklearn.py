"""Models of tables: whatever has scikit-learn's ``predict_proba``, or ``predict``.

scikit-learn itself is never imported, and pandas only used where the caller has imported it:
Pipelines, and the estimators of xgboost and lightgbm, are known by what they can do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from ..errors import ArgumentError
from .black_box import BlackBox


def is_estimator(value: Any) -> bool:
    """Whether a value is no function or module, but an object that predicts."""
    if isinstance(value, (type, nn.Module, BlackBox)):
        return False
    predicts = callable(getattr(value, "predict", None)) and not callable(value)
    return predicts or callable(getattr(value, "predict_proba", None))


def is_classifier(estimator: Any) -> bool:
    """Whether it answers classes, with probabilities or without."""
    gives = callable(getattr(estimator, "predict_proba", None))
    return gives or getattr(estimator, "classes_", None) is not None


def estimator_box(estimator: Any, *, frame: Any = None, **options: Any) -> BlackBox:
    """A fitted classifier or regressor as a model that only answers; see `classifier_box` and
    `regressor_box`."""
    box = classifier_box if is_classifier(estimator) else regressor_box
    return box(estimator, frame=frame, **options)


def classifier_box(estimator: Any, *, frame: Any = None, **options: Any) -> BlackBox:
    """A fitted classifier: its probabilities; see BlackBox.from_sklearn."""
    return BlackBox.from_sklearn(estimator, frame=frame, **options)


def regressor_box(estimator: Any, *, frame: Any = None, **options: Any) -> BlackBox:
    """A fitted regressor: what it predicts for float64 rows [R, D], as it is.

    The arguments are those of BlackBox.from_sklearn, for an estimator with predict.
    """
    if not callable(getattr(estimator, "predict", None)):
        raise TypeError(f"regressor: {type(estimator).__name__} must have predict")
    options = {"dtype": "float64", **options}
    return BlackBox(_Answers(estimator, "predict", frame), takes="numpy", **options)


def probabilities_of(estimator: Any, frame: Any = None) -> Callable[..., Any]:
    """predict_proba of an estimator, as a function of arrays that BlackBox asks.

    Raises:
        TypeError: it has none; the message says what to do.
    """
    if callable(getattr(estimator, "predict_proba", None)):
        return _Answers(estimator, "predict_proba", frame)
    wanted = f"classifier: {type(estimator).__name__} must have predict_proba"
    for method in ("decision_function", "predict"):
        if callable(getattr(estimator, method, None)):
            raise TypeError(
                f"{wanted}; to explain its {method}, give BlackBox(estimator.{method}, "
                "takes='numpy', dtype='float64')"
            )
    raise TypeError(f"{wanted}; wrap whatever gives its scores in BlackBox(fn)")


def class_names_of(estimator: Any) -> list[str] | None:
    """Of its classes_: texts as they are, numbers with "class" before them."""
    classes = getattr(estimator, "classes_", None)
    if classes is None or any(getattr(one, "ndim", 0) for one in classes):
        return None
    return [str(one) if isinstance(one, str) else f"class {one}" for one in classes]


def feature_names_of(estimator: Any) -> list[str] | None:
    """The columns of the frame that it was fitted on."""
    names = getattr(estimator, "feature_names_in_", None)
    return None if names is None else [str(name) for name in names]


class _Answers:
    """A method of an estimator, with a name and an identity."""

    def __init__(self, estimator: Any, method: str, frame: Any) -> None:
        self.estimator, self.method = estimator, method
        self.where = f"BlackBox({type(estimator).__name__})"
        if frame is None:
            names, pandas = feature_names_of(estimator), sys.modules.get("pandas")
            frame = None if names is None or pandas is None else pandas.DataFrame(columns=names)
        self._empty = None if frame is None else frame.iloc[:0]

    @property
    def identity(self) -> str:
        """Of the fitted estimator: one that was fitted anew is another model."""
        import hashlib
        import pickle

        digest = hashlib.blake2b(pickle.dumps(self.estimator), digest_size=16).hexdigest()
        return f"sklearn {type(self.estimator).__name__} {digest}"

    def __call__(self, table: Any, *args: Any) -> Any:
        if table.ndim != 2:
            raise ArgumentError(
                f"{self.where}: inputs must be rows of features [R, D], got {list(table.shape)}"
            )
        if self._empty is not None and table.shape[1] == len(self._empty.columns):
            table = type(self._empty)(table, columns=self._empty.columns)
        answer = getattr(self.estimator, self.method)(table, *args)
        if isinstance(answer, list):
            raise ArgumentError(
                f"{self.where}: the estimator must have one target, got {len(answer)}; wrap one of "
                "them in BlackBox(fn, answers='probabilities')"
            )
        return answer
