"""KServe v1, which is TensorFlow Serving's REST: {"instances": rows} -> {"predictions": rows}."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from ...errors import ArgumentError
from .answers import BadAnswer, as_numbers, check_rows, parse_json
from .protocol import Arrays, Describe, Protocol, Request, check_finite

_KNOWN = ("logits", "probabilities", "scores")


class KServeV1(Protocol):
    """Rows as JSON; the server describes nothing.

    Args:
        input_names: one input is sent as it is, or by its name where one is given; several need
            their names.
        select_output: the key of the scores in predictions that are dicts (known are logits,
            probabilities and scores), or a function of one prediction.
        answers: what the scores are taken for.
    """

    def __init__(
        self,
        input_names: Sequence[str] | None,
        select_output: str | Callable[[Any], Any] | None,
        answers: str,
    ) -> None:
        self.input_names = input_names
        self.select_output = select_output
        self.answers = answers

    async def learn(self, describe: Describe) -> None:
        """Nothing: the protocol has no description of a model."""

    def check(self, inputs: Arrays) -> Arrays:
        if len(inputs) != len(self.input_names or inputs[:1]):
            raise ArgumentError(
                f"endpoint: input_names must name the {len(inputs)} inputs, got {self.input_names}"
            )
        for name, array in zip(self.input_names or ("x",), inputs, strict=True):
            check_finite(name, array)
        return inputs

    def encode(self, inputs: Arrays) -> Request:
        if self.input_names is None:
            instances = inputs[0].tolist()
        else:
            columns = zip(*(array.tolist() for array in inputs), strict=True)
            instances = [dict(zip(self.input_names, row, strict=True)) for row in columns]
        body = json.dumps({"instances": instances}, separators=(",", ":"), allow_nan=False)
        return Request(body.encode(), {"Content-Type": "application/json"})

    def decode(self, body: bytes, headers: Mapping[str, str], rows: int) -> NDArray[Any]:
        answer = parse_json(body)
        if not isinstance(answer, Mapping) or "predictions" not in answer:
            found = ", ".join(answer) if isinstance(answer, Mapping) else type(answer).__name__
            raise BadAnswer(f"the answer must have 'predictions', and has {found or 'nothing'}")
        predictions = answer["predictions"]
        if isinstance(predictions, Mapping):  # a list for each output, in place of a row
            predictions = self._scores(predictions)
        elif isinstance(predictions, list):
            predictions = [self._scores(row) for row in predictions]
        return check_rows(as_numbers(predictions, "the predictions"), rows)

    def _scores(self, prediction: Any) -> Any:
        if callable(self.select_output):
            return self.select_output(prediction)
        if not isinstance(prediction, Mapping):
            return prediction
        keys = _KNOWN if self.select_output is None else (self.select_output,)
        for key in keys:
            if key in prediction:
                if key == "probabilities" and self.answers == "logits":
                    warnings.warn(
                        "endpoint: predictions of 'probabilities' are explained as if they were "
                        "logits; give answers='probabilities'",
                        stacklevel=2,
                    )
                return prediction[key]
        raise BadAnswer(
            f"a prediction must have {' or '.join(keys)}, and has "
            f"{', '.join(map(str, prediction)) or 'nothing'} (select_output= names another)"
        )
