"""A model that only answers: a function, a file, a server."""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ArgumentError
from .answer_cache import as_answer_cache, distinct
from .answer_source import AnswerSource, FunctionSource, has_rows, take_rows
from .outputs import output_tensor
from .query_budget import QueryBudget
from .query_error import BudgetExceeded, QueryError

TINY = float(torch.finfo(torch.float32).tiny)
"""The smallest probability that is told from zero: 2^-126, whose logarithm is -87.3."""

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_NAMES = {str(dtype).removeprefix("torch."): dtype for dtype in (*_INTEGERS, *_FLOATS)}
_OUTSIDE = 1e-4  # what rounding, in float16 at worst, takes a probability out of [0, 1]
_OFF_ONE = 2e-2  # and the sum of many of them from one


class BlackBox:
    """A model without gradients, called with tensors like any other.

    No graph is recorded, whatever the caller asks for. What it answers is checked: as many rows as
    were asked, the same shape every time, finite numbers.

    Args:
        fn: called as fn(*inputs) on rows [R, ...], and returns scores [R, ...]: a tensor, an array,
            a list, or what models.outputs understands. What is not a tensor with R rows is passed
            on as it is.
        takes: "torch" (contiguous tensors, on the device they come on) or "numpy" (contiguous
            arrays).
        answers: "logits", or "probabilities". Of class probabilities p [R, n >= 2, ...] the logits
            are log max(p, 2^-126), so that the explained outputs "logit" and "logprob" are log p,
            "prob" is p again, and "margin" is the log-odds against the best rival. A model that is
            sure of itself answers zeros, whose logarithm is a cliff at -87.3: explain "prob" there.
            A binary classifier that answers one probability, [R] or [R, 1], gets its log-odds
            log(p / (1 - p)) in that shape: one output without classes, whose "logit" is explained.
        dtype: of the floating-point inputs as fn takes them; None leaves them as they come (but
            bfloat16, which NumPy lacks, becomes float32). To a type of integers they are rounded,
            and values beyond its range become the nearest in it: inputs of a "uint8" model are in
            0..255 (Preprocessing(std=(1 / 255,)) makes them of pixels).
        max_rows: the most rows of one call of fn.
        budget: the most rows that may be sent; never exceeded, repetitions included.
        cache: True keeps answers in memory, the name of a file keeps them on disk, an AnswerCache
            says more. Cached rows are not sent and cost no query, nor does a row that comes twice
            in a call.

    Raises:
        ValueError, TypeError: naming the argument, what it must be and what it is.

    Example:
        >>> import torch
        >>> box = BlackBox(lambda x: x.sum(1, keepdim=True) * torch.ones(3), budget=100)
        >>> box(torch.rand(4, 2)).shape, box.queries, box.remaining
        (torch.Size([4, 3]), 4, 96)
    """

    def __init__(
        self,
        fn: Callable[..., Any] | AnswerSource,
        *,
        takes: str = "torch",
        answers: str = "logits",
        dtype: Any = None,
        max_rows: int | None = None,
        budget: int | None = None,
        cache: Any = None,
    ) -> None:
        if takes not in ("torch", "numpy"):
            raise ArgumentError(f"BlackBox: takes must be torch or numpy, got {takes!r}")
        check_answers(answers)
        if max_rows is not None and (not isinstance(max_rows, int) or max_rows < 1):
            raise ArgumentError(f"BlackBox: max_rows must be at least 1, got {max_rows!r}")
        if isinstance(fn, AnswerSource):
            if max_rows is not None or budget is not None:
                raise ArgumentError(
                    f"BlackBox: max_rows and budget must be given to the {type(fn).__name__} itself"
                )
            self._source = fn
            takes = "numpy"  # as all sources but functions do
        elif callable(fn):
            self._source = FunctionSource(fn, max_rows, QueryBudget(budget))
        else:
            raise TypeError(f"BlackBox: fn must be a function, got {type(fn).__name__}")
        self.takes = takes
        self.answers = answers
        self.dtype = as_dtype(dtype)
        if takes == "numpy" and self.dtype == torch.bfloat16:
            raise ArgumentError("BlackBox: dtype must be one that NumPy has, got bfloat16")
        identity = "" if cache is None else self._source.identity
        self.cache = as_answer_cache(cache, identity)
        # Functions without a name share no answers, unless the cache has a name for them.
        named = identity or (self.cache is not None and self.cache.model)
        self._identity = identity if named else uuid.uuid4().hex
        self._shape: tuple[int, ...] | None = None
        self._warned: set[str] = set()

    @classmethod
    def from_sklearn(cls, estimator: Any, *, frame: Any = None, **options: Any) -> BlackBox:
        """A fitted scikit-learn classifier: the probabilities of float64 rows [R, D].

        Args:
            estimator: with predict_proba.
            frame: a pandas frame: the estimator is given frames with its columns, float64, in place
                of arrays. One that was fitted on a frame is by default, where pandas is imported.
            options: max_rows, budget and cache of the constructor.

        Raises:
            TypeError: the estimator gives no probabilities; the message says what to do.
        """
        from .from_sklearn import probabilities_of

        options = {"answers": "probabilities", "dtype": "float64", **options}
        return cls(probabilities_of(estimator, frame), takes="numpy", **options)

    @classmethod
    def from_onnx(
        cls,
        path: str | os.PathLike[str],
        *,
        providers: list[Any] | None = None,
        threads: int | None = None,
        select_output: str | None = None,
        answers: str = "logits",
        dtype: Any = None,
        max_rows: int | None = None,
        budget: int | None = None,
        cache: Any = None,
    ) -> BlackBox:
        """An .onnx file, run by ONNX Runtime (pip install pyxai-fast[onnx]).

        Args:
            path: the file.
            providers: of ONNX Runtime, in order of preference; None takes CUDA where there is a
                build with it, else the CPU.
            threads: that one operator may use; None leaves it to ONNX Runtime.
            select_output: the name of the explained output; None takes the first.
            dtype: None takes the type of the file's first input.
            answers, max_rows, budget, cache: of the constructor.

        Raises:
            MissingDependency: onnxruntime is not installed.
            ModelNotFound, ModelSpecError: there is no such file, or it cannot be used.
        """
        from .from_onnx import OnnxModel

        model = OnnxModel(path, providers=providers, threads=threads, select_output=select_output)
        return cls(
            model,
            takes="numpy",
            answers=answers,
            dtype=model.input_dtype if dtype is None else dtype,
            max_rows=max_rows,
            budget=budget,
            cache=cache,
        )

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        answers: str = "logits",
        dtype: Any = None,
        budget: int | None = None,
        cache: Any = None,
        **options: Any,
    ) -> BlackBox:
        """A model behind HTTP: KServe v1 or Open Inference v2 (pip install pyxai-fast[http]).

        Args:
            url: .../v1/models/NAME:predict or .../v2/models/NAME/infer; the path says which.
            dtype: None takes what the server says of its first input, float32 where it says
                nothing.
            options: of models.endpoint.Endpoint: rows_per_request, concurrency, timeout, retries,
                backoff, headers, encoding, input_names, select_output.
            answers, budget, cache: of the constructor.

        Raises:
            MissingDependency: httpx is not installed.
            ValueError, TypeError: the address or an option makes no sense.
            QueryError: the server could not be asked about the model.
        """
        from .endpoint import Endpoint

        check_answers(answers)
        endpoint = Endpoint(url, budget=budget, answers=answers, **options)
        try:
            return cls(
                endpoint,
                takes="numpy",
                answers=answers,
                dtype=endpoint.input_dtype if dtype is None else dtype,
                cache=cache,
            )
        except BaseException:
            endpoint.close()
            raise

    # ---------------------------------------------------------------- what it has cost

    @property
    def queries(self) -> int:
        """Rows asked of the model so far, answered or not; it only grows."""
        return self._source.budget.spent

    @property
    def budget(self) -> int | None:
        """The most rows that may be sent, or None."""
        return self._source.budget.limit

    @property
    def remaining(self) -> int | None:
        """What is left of the budget, or None without one."""
        return self._source.budget.remaining

    @property
    def grey_level(self) -> float | None:
        """The smallest step of the inputs that the model can see: 1.0 where they are rounded."""
        return 1.0 if self.dtype in _INTEGERS else None

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self._source.where

    # ---------------------------------------------------------------- asking

    @torch.no_grad()
    def __call__(self, *inputs: Any) -> Tensor:
        """Logits [R, ...] of rows of inputs [R, ...], on their device; float32, or float64.

        Raises:
            QueryError: the model could not answer, or its answer cannot be used.
            BudgetExceeded: the rows are more than the budget has left; none was sent.
        """
        if not inputs or not isinstance(inputs[0], Tensor) or inputs[0].dim() == 0:
            given = type(inputs[0]).__name__ if inputs else "nothing"
            raise TypeError(f"{self.name}: the first input must be a tensor [R, ...], got {given}")
        rows, device = inputs[0].shape[0], inputs[0].device
        if rows == 0:
            return torch.empty((0, *(self._shape or ())), device=device)
        prepared = tuple(self._prepared(value, rows) for value in inputs)
        if self.cache is None:
            raw = self._ask(prepared, rows, range(rows), {})
        else:
            raw = self._ask_once(prepared, rows)
        logits = raw if self.answers == "logits" else self._log(raw)
        if device.type == "mps":  # has no float64
            logits = logits.float()
        return logits.to(device)

    def _prepared(self, value: Any, rows: int) -> Any:
        """One input as the function takes it."""
        if not isinstance(value, Tensor):
            return value
        value = value.detach()
        if self.dtype is not None and value.is_floating_point() and has_rows(value, rows):
            value = self._rounded(value) if self.dtype in _INTEGERS else value.to(self.dtype)
        value = value.contiguous()
        if self.takes == "torch":
            return value
        if value.dtype == torch.bfloat16:
            value = value.float()
        return value.cpu().numpy()

    def _rounded(self, value: Tensor) -> Tensor:
        assert self.dtype is not None
        if not bool(torch.isfinite(value).all()):
            raise ArgumentError(
                f"{self.name}: inputs must be finite to be rounded to {self.dtype}, got nan or inf"
            )
        if (
            self.dtype == torch.uint8
            and 0 < value.max() <= 1
            and value.min() >= 0
            and bool((value != value.round()).any())
        ):
            self._warn(
                "inputs in [0, 1] are rounded to 0 and 1 for a uint8 model, which takes 0..255; "
                "give preprocessing=Preprocessing(std=(1 / 255,))"
            )
        limits = torch.iinfo(self.dtype)
        # float64 holds the limits of all but int64; 2^53 is where it stops to tell integers apart.
        low, high = max(limits.min, -(2**53)), min(limits.max, 2**53)
        wide = value if limits.bits <= 8 else value.double()
        return wide.round().clamp_(low, high).to(self.dtype)

    def _ask_once(self, prepared: tuple[Any, ...], rows: int) -> Tensor:
        """Answers of distinct rows that the cache does not know yet, and of all from there."""
        assert self.cache is not None
        keys = self.cache.keys(prepared, rows, self._identity)
        positions = distinct(keys)
        known = self.cache.find(list(positions))
        new = {key: where[0] for key, where in positions.items() if key not in known}
        answers = {key: torch.from_numpy(np.array(answer)) for key, answer in known.items()}
        if new:
            which = list(new.values())
            asked = take_rows(prepared, rows, which)
            raw = self._ask(asked, len(which), which, dict(enumerate(new))).cpu()
            answers.update(zip(new, raw, strict=True))
        if len({answer.shape for answer in answers.values()}) > 1:
            raise ArgumentError(
                f"{self.name}: the cache {self.cache!r} holds answers of another shape; it belongs "
                "to another model"
            )
        return torch.stack([answers[key] for key in keys])

    def _ask(
        self, inputs: tuple[Any, ...], rows: int, positions: Any, keys: dict[int, bytes]
    ) -> Tensor:
        """Checked answers [rows, ...] of the source; cached as they arrive where keys are given.

        `positions` are those of the rows among the caller's, for messages.
        """
        answers: Tensor | None = None
        unusable: _Unusable | None = None
        # Closed first: what is still on its way when an answer is refused is counted, too.
        with closing(self._source.ask(inputs, rows)) as blocks:
            for block, answer in blocks:
                try:
                    checked = self._checked(answer, block, positions)
                except _Unusable as error:
                    unusable = error
                    break
                if answers is None:
                    answers = checked.new_empty((rows, *checked.shape[1:]))
                answers[block] = checked
                if keys:
                    assert self.cache is not None
                    array = checked.cpu().numpy()
                    named = range(block.start, block.stop)
                    self.cache.keep({keys[i]: array[i - block.start].copy() for i in named})
        if unusable is not None:
            raise QueryError(self.name, unusable.reason, spent=self.queries, advice=unusable.advice)
        assert answers is not None
        return answers

    def _checked(self, answer: Any, block: slice, positions: Any) -> Tensor:
        """An answer as a floating-point tensor [R, ...] with finite numbers."""
        tensor = self._as_tensor(answer)
        rows = block.stop - block.start
        if tensor.dim() == 0 or tensor.shape[0] != rows:
            raise _Unusable(
                f"{rows} rows were asked, and the answer has the shape {list(tensor.shape)}",
                f"it must answer [{rows}, ...]",
            )
        self._check_shape(tensor.shape[1:])
        if not bool(torch.isfinite(tensor).all()):
            bad = ~torch.isfinite(tensor.reshape(rows, -1)).all(1)
            row = int(bad.nonzero()[0])
            value = next(v for v in tensor[row].reshape(-1).tolist() if not np.isfinite(v))
            raise _Unusable(
                f"the answer to row {positions[block.start + row]} holds {value}",
                "scores must be finite: ask the model for that input alone",
            )
        return tensor

    def _check_shape(self, shape: Any) -> None:
        if self._shape is None:
            self._shape = tuple(shape)
        if tuple(shape) != self._shape:
            raise _Unusable(
                f"a row was answered with the shape {list(shape)}, and with {list(self._shape)} "
                "before",
                "a model must answer every row in one shape",
            )

    def _as_tensor(self, answer: Any) -> Tensor:
        if not isinstance(answer, Tensor) and not hasattr(answer, "logits"):
            if isinstance(answer, np.generic) or (
                isinstance(answer, (list, tuple))
                and not any(isinstance(part, Tensor) for part in answer)
            ):
                answer = _array(answer)
            if isinstance(answer, np.ndarray):
                if answer.dtype.kind not in "biuf":
                    raise TypeError(
                        f"{self.name}: the answer must be numbers, got {answer.dtype} "
                        f"{list(answer.shape)}"
                    )
                wide = answer.dtype.itemsize > 4 or (
                    answer.dtype.kind in "iu" and answer.dtype.itemsize > 2
                )
                return torch.from_numpy(np.array(answer, np.float64 if wide else np.float32))
        tensor = output_tensor(answer).detach()
        return tensor if tensor.dtype == torch.float64 else tensor.float()

    # ---------------------------------------------------------------- probabilities

    def _log(self, p: Tensor) -> Tensor:
        """Logits of probabilities."""
        low, high = float(p.min()), float(p.max())
        if low < -_OUTSIDE or high > 1 + _OUTSIDE:
            worst = low if low < -_OUTSIDE else high
            raise QueryError(
                self.name,
                f"the answers must be probabilities, and {worst:.6g} is not in [0, 1]",
                spent=self.queries,
                advice="give answers='logits'",
            )
        if p.dim() == 1 or p.shape[1] == 1:
            p = p.clamp(0, 1)
            return (p.double().clamp_min(TINY).log() - (1 - p.double()).clamp_min(TINY).log()).to(
                p.dtype
            )
        sums = p.sum(1).reshape(-1)
        furthest = float(sums[(sums - 1).abs().argmax()])
        if abs(furthest - 1) > _OFF_ONE:
            self._warn(
                f"the probabilities of a row add up to {furthest:.3g}; 'prob', 'logprob' and "
                "'margin' take classes for exclusive, 'logit' (log p) does not"
            )
        return p.clamp_min(TINY).log()

    def _warn(self, text: str) -> None:
        if text[:20] not in self._warned:
            self._warned.add(text[:20])
            warnings.warn(f"{self.name}: {text}", stacklevel=4)

    # ---------------------------------------------------------------- life

    def close(self) -> None:
        """Closes connections and the cache's file; asking again opens them again."""
        self._source.close()
        if self.cache is not None:
            self.cache.close()

    def __enter__(self) -> BlackBox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        name = self.name if self.name.startswith("BlackBox") else f"BlackBox {self.name}"
        parts = [name, f"takes={self.takes}", f"answers={self.answers}"]
        if self.dtype is not None:
            parts.append(f"dtype={str(self.dtype).removeprefix('torch.')}")
        parts.append(f"queries={self.queries}")
        if self.budget is not None:
            parts.append(f"budget={self.budget}")
        if self.cache is not None:
            parts.append(f"cache={self.cache.path or 'memory'}")
        return f"<{', '.join(parts)}>"


class _Unusable(Exception):
    """An answer that cannot be used: why, and what to do."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(reason)
        self.reason, self.advice = reason, advice


def check_answers(answers: str) -> None:
    if answers not in ("logits", "probabilities"):
        raise ArgumentError(f"BlackBox: answers must be logits or probabilities, got {answers!r}")


def query_error_of(error: Exception, forward: Any) -> QueryError | None:
    """What a model that only answers failed with, or None for an error that is not its own.

    Whatever a function raises, what it has answered was paid for; wrong arguments are the caller's.
    """
    if isinstance(error, QueryError):
        return error
    if not isinstance(forward, BlackBox) or isinstance(error, (ValueError, TypeError)):
        return None
    failed = QueryError(forward.name, f"{type(error).__name__}: {error}", spent=forward.queries)
    failed.__cause__ = error
    return failed


def check_remaining(forward: Any, needed: int, detail: str, advice: str) -> None:
    """Refuses what a model with a budget could not answer in full, before it is asked.

    Where answers may come from a cache, nobody knows what is needed.

    Raises:
        BudgetExceeded: it is not enough.
    """
    remaining = getattr(forward, "remaining", None)
    if remaining is None or getattr(forward, "cache", None) or needed <= remaining:
        return
    raise BudgetExceeded(
        getattr(forward, "name", "model"),
        f"{needed} queries are needed ({detail}), and the budget has {remaining} left",
        spent=getattr(forward, "queries", 0),
        advice=f"raise the budget, or ask for fewer {advice}",
    )


def as_dtype(dtype: Any) -> torch.dtype | None:
    """A torch type from any way to write one: its name, torch's or NumPy's."""
    if dtype is None or isinstance(dtype, torch.dtype):
        found = dtype
    elif isinstance(dtype, str):
        found = _NAMES.get(dtype.removeprefix("torch."))
    else:
        try:
            found = _NAMES.get(np.dtype(dtype).name)
        except TypeError:
            found = None
    if dtype is not None and found not in _NAMES.values():
        raise ArgumentError(f"BlackBox: dtype must be one of {', '.join(_NAMES)}, got {dtype!r}")
    return found


def _array(answer: Any) -> Any:
    try:
        return np.asarray(answer)
    except ValueError as error:  # rows of different lengths
        raise TypeError(f"BlackBox: the answer must be a regular array ({error})") from error
