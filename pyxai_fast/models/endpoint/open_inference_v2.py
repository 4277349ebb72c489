"""Open Inference v2: named tensors with types and shapes, as JSON or as the bytes themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ArgumentError
from ..query_error import QueryError
from .answers import BadAnswer, as_numbers, check_rows, parse_json
from .protocol import Arrays, Describe, Protocol, Request, check_finite

# The protocol's name of a type: NumPy's name of it (for BF16: of what it is computed with).
_DATATYPES = {
    "FP16": "float16",
    "BF16": "float32",
    "FP32": "float32",
    "FP64": "float64",
    "UINT8": "uint8",
    "INT8": "int8",
    "UINT16": "uint16",
    "INT16": "int16",
    "UINT32": "uint32",
    "INT32": "int32",
    "UINT64": "uint64",
    "INT64": "int64",
    "BOOL": "bool",
}
_FOR_MODELS = {"FP16", "BF16", "FP32", "FP64", "UINT8", "INT8", "INT16", "INT32", "INT64"}
_BINARY = "binary_tensor_data"
_JSON_LENGTH = "Inference-Header-Content-Length"


class OpenInferenceV2(Protocol):
    """The inputs, types and shapes that the server describes.

    Args:
        address: of the model's and of the server's description.
        encoding: "auto" sends bytes where the server says that it takes them, else JSON.
        input_names: None takes those of the description; where there is none, they are FP32.
        select_output: the name of the explained output, or a function of {name: array}; None takes
            the first.
    """

    def __init__(
        self,
        model: str,
        server: str,
        encoding: str,
        input_names: Sequence[str] | None,
        select_output: str | Callable[[Any], Any] | None,
    ) -> None:
        self.model, self.server = model, server
        self.binary = encoding == "binary"
        self.ask_for_binary = encoding == "auto"
        self.input_names = list(input_names or ())
        self.datatypes: list[str] = ["FP32"] * len(self.input_names)
        self.shapes: list[Any] = [None] * len(self.input_names)
        self.select_output = select_output
        self.wanted = select_output if isinstance(select_output, str) else None

    async def learn(self, describe: Describe) -> None:
        """The model's inputs and outputs, and whether the server takes bytes.

        Raises:
            QueryError: the server does not describe the model, and no input_names were given.
        """
        try:
            self._read(await describe(self.model))
        except QueryError as error:
            if not self.input_names:
                raise QueryError(
                    error.where,
                    f"the model's description was asked for, and {error.reason}",
                    spent=error.spent,
                    advice=error.advice or "give input_names= if the server describes no models",
                ) from error
        if self.ask_for_binary:
            try:
                server = await describe(self.server)
            except QueryError:  # describing itself is not what it is here for
                server = {}
            extensions = server.get("extensions") if isinstance(server, Mapping) else None
            self.binary = isinstance(extensions, list) and _BINARY in extensions

    def _read(self, described: Any) -> None:
        """Takes over a model's description, where it has something to say."""
        try:
            inputs = {str(tensor["name"]): tensor for tensor in described.get("inputs") or ()}
            outputs = [str(tensor["name"]) for tensor in described.get("outputs") or ()]
            versions = described.get("versions")
            datatypes = {name: str(tensor["datatype"]) for name, tensor in inputs.items()}
            shapes = {
                name: tuple(None if int(n) < 0 else int(n) for n in tensor["shape"])
                for name, tensor in inputs.items()
                if tensor.get("shape")
            }
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ArgumentError(
                "endpoint: the server's description of the model must list inputs with name, "
                f"datatype and shape ({type(error).__name__}: {error})"
            ) from error
        self.input_names = self.input_names or list(inputs)
        unknown = [name for name in self.input_names if inputs and name not in inputs]
        if not self.input_names or unknown:
            raise ArgumentError(
                f"endpoint: input_names must be among those of the model, {', '.join(inputs)}, got "
                f"{', '.join(unknown) or 'none'}"
            )
        self.datatypes = [datatypes.get(name, "FP32") for name in self.input_names]
        self.shapes = [shapes.get(name) for name in self.input_names]
        for name, datatype in zip(self.input_names, self.datatypes, strict=True):
            if datatype not in _DATATYPES:
                raise ArgumentError(
                    f"endpoint: input {name} must be one of {', '.join(_DATATYPES)}, got {datatype}"
                )
        if self.wanted is not None and outputs and self.wanted not in outputs:
            raise ArgumentError(
                f"endpoint: select_output must be among the model's outputs, {', '.join(outputs)}, "
                f"got {self.wanted!r}"
            )
        if self.wanted is None and self.select_output is None and outputs:
            self.wanted = outputs[0]
        first = self.datatypes[0]
        self.input_dtype = _DATATYPES[first] if inputs and first in _FOR_MODELS else None
        self.input_shape = self.shapes[0]
        self.versions = ",".join(map(str, versions or ()))

    def batch(self, inputs: Arrays) -> int | None:
        """The first size, where the description has the batch in it, and fixed."""
        described = zip(self.shapes, inputs, strict=True)
        sizes = {shape[0] for shape, array in described if shape and len(shape) == array.ndim}
        return sizes.pop() if len(sizes) == 1 else None

    def check(self, inputs: Arrays) -> Arrays:
        if len(inputs) != len(self.input_names):
            raise ArgumentError(
                f"endpoint: inputs must be {', '.join(self.input_names)}, got {len(inputs)}"
            )
        described = zip(self.input_names, self.datatypes, self.shapes, inputs, strict=True)
        return tuple(self._check_one(*each) for each in described)

    def _check_one(self, name: str, datatype: str, shape: Any, array: NDArray[Any]) -> NDArray[Any]:
        # Some servers describe a row, others the batch with it.
        row = array.shape[1:]
        if shape and not any(
            len(sizes) == len(row) and all(a in (None, b) for a, b in zip(sizes, row, strict=True))
            for sizes in (shape, shape[1:])
        ):
            raise ArgumentError(
                f"endpoint: input {name} must have the shape "
                f"{[-1 if size is None else size for size in shape]}, got {list(array.shape)}"
            )
        wanted = np.dtype(_DATATYPES[datatype])
        if array.dtype.kind == "f" and wanted.kind in "biu":
            cast = array.astype(wanted)
            if not np.array_equal(cast, array):
                raise ArgumentError(
                    f"endpoint: input {name} must hold whole numbers for {datatype}; give dtype="
                    f"{wanted.name!r} to round them"
                )
            array = cast
        if not self.binary:
            check_finite(name, array)
        return np.ascontiguousarray(array, dtype=wanted)

    def encode(self, inputs: Arrays) -> Request:
        tensors: list[dict[str, Any]] = []
        parts: list[bytes] = []
        for name, datatype, array in zip(self.input_names, self.datatypes, inputs, strict=True):
            tensor: dict[str, Any] = {
                "name": name,
                "shape": list(array.shape),
                "datatype": datatype,
            }
            if self.binary:
                parts.append(_to_bytes(array, datatype))
                tensor["parameters"] = {"binary_data_size": len(parts[-1])}
            else:
                tensor["data"] = array.reshape(-1).tolist()
            tensors.append(tensor)
        message: dict[str, Any] = {"inputs": tensors}
        if self.wanted is not None:
            message["outputs"] = [{"name": self.wanted}]
            if self.binary:
                message["outputs"][0]["parameters"] = {"binary_data": True}
        elif self.binary:
            message["parameters"] = {"binary_data_output": True}
        head = json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
        if not self.binary:
            return Request(head, {"Content-Type": "application/json"})
        headers = {"Content-Type": "application/octet-stream", _JSON_LENGTH: str(len(head))}
        return Request(b"".join([head, *parts]), headers)

    def decode(self, body: bytes, headers: Mapping[str, str], rows: int) -> NDArray[Any]:
        length = headers.get(_JSON_LENGTH.lower())
        head, rest = body, b""
        if length is not None:
            if not length.isdecimal() or int(length) > len(body):
                raise BadAnswer(f"the header {_JSON_LENGTH} must be a length, and is {length!r}")
            head, rest = body[: int(length)], body[int(length) :]
        answer = parse_json(head)
        outputs = answer.get("outputs") if isinstance(answer, Mapping) else None
        if not isinstance(outputs, list) or not outputs:
            found = ", ".join(answer) if isinstance(answer, Mapping) else type(answer).__name__
            raise BadAnswer(f"the answer must have 'outputs', and has {found or 'nothing'}")
        arrays: dict[str, NDArray[Any]] = {}
        for tensor in outputs:
            name, array, rest = _tensor(tensor, rest)
            arrays[name] = array
        if callable(self.select_output):
            return check_rows(np.asarray(self.select_output(arrays)), rows)
        wanted = self.wanted or next(iter(arrays))
        if wanted not in arrays:
            raise BadAnswer(
                f"the answer must have the output {wanted}, and has {', '.join(arrays)}"
            )
        return check_rows(arrays[wanted], rows)


def _tensor(tensor: Any, rest: bytes) -> tuple[str, NDArray[Any], bytes]:
    """One output: its name, its values, and the bytes after its own."""
    try:
        name, datatype = str(tensor["name"]), str(tensor["datatype"])
        shape = tuple(int(size) for size in tensor["shape"])
        size = (tensor.get("parameters") or {}).get("binary_data_size")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadAnswer("an output must have name, shape and datatype, and has not") from error
    if datatype not in _DATATYPES:
        # An output that nobody asked for may hold text.
        empty = np.empty(shape[:1] if size is None else (0,), np.float32)
        return name, empty, rest[int(size or 0) :]
    if size is None:
        if "data" not in tensor:
            raise BadAnswer(f"the output {name} has neither data nor binary data")
        array = as_numbers(tensor["data"], f"the data of {name}")
        if datatype.startswith(("FP", "BF")):
            array = array.astype(_DATATYPES[datatype])
    else:
        if not isinstance(size, int) or not 0 <= size <= len(rest):
            raise BadAnswer(f"the output {name} must have {size} bytes, and has {len(rest)}")
        array, rest = _from_bytes(rest[:size], datatype), rest[size:]
    if array.size != int(np.prod(shape)):
        raise BadAnswer(
            f"the output {name} must have the shape {list(shape)}, and has {array.size} values"
        )
    return name, array.reshape(shape), rest


def _to_bytes(array: NDArray[Any], datatype: str) -> bytes:
    """Little-endian, row after row."""
    if datatype == "BF16":  # the upper half of a float32, rounded to even
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
        odd = (bits >> 16) & 1
        rounded = np.where(np.isnan(array), bits | 0x400000, bits + 0x7FFF + odd)
        return (rounded >> 16).astype("<u2").tobytes()
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _from_bytes(data: bytes, datatype: str) -> NDArray[Any]:
    try:
        if datatype == "BF16":
            bits = np.frombuffer(data, "<u2").astype(np.uint32) << 16
            return bits.view(np.float32)
        little = np.dtype(_DATATYPES[datatype]).newbyteorder("<")
        return np.frombuffer(data, little).astype(_DATATYPES[datatype])
    except ValueError as error:
        raise BadAnswer(f"{len(data)} bytes are no values of {datatype}") from error
