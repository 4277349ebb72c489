"""``onnx:FILE``: models in ONNX files, run by ONNX Runtime."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyxai_fast.errors import ArgumentError
from pyxai_fast.models.errors import MissingDependency, ModelNotFound, ModelSpecError
from pyxai_fast.models.loaded import LoadedModel
from pyxai_fast.models.preprocessing_file import assumed_preprocessing, read_preprocessing

# What NumPy has; other types of input cannot be given.
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


def load_onnx(
    name: str,
    *,
    device: torch.device,
    providers: list[Any] | str | None = None,
    threads: int | None = None,
    select_output: str | None = None,
    answers: str = "logits",
    dtype: Any = None,
    max_rows: int | None = None,
    budget: int | None = None,
    cache: Any = None,
) -> LoadedModel:
    """Load an ONNX file, with what the Hugging Face files beside it say of pictures and classes.

    Those are preprocessor_config.json and config.json, in its folder or, if that is called onnx,
    in the folder above. Without them the size of pictures is the graph's, and pixels are taken to
    be in [0, 1], or in 0..255 where the model takes uint8.

    Args:
        name: the file.
        device: on the CPU, only ONNX Runtime's CPU provider is used.
        providers: a list, or names separated by commas.
        threads, select_output, answers, dtype, max_rows, budget, cache: of BlackBox.from_onnx.
    """
    from pyxai_fast.models.black_box import BlackBox

    spec = f"onnx:{name}"
    if isinstance(providers, str):
        providers = [provider.strip() for provider in providers.split(",")]
    if providers is None and device.type == "cpu":
        providers = ["CPUExecutionProvider"]
    model = OnnxModel(name, providers=providers, threads=threads, select_output=select_output)
    box = BlackBox(
        model,
        takes="numpy",
        answers=answers,
        dtype=model.input_dtype if dtype is None else dtype,
        max_rows=max_rows,
        budget=budget,
        cache=cache,
    )
    rounded = box.grey_level is not None
    preprocessing, note = assumed_preprocessing(model.input_shape, rounded, spec)
    folders = [Path(model.path).parent]
    if folders[0].name == "onnx":
        folders.append(folders[0].parent)
    for folder in folders:
        if (folder / "preprocessor_config.json").is_file():
            preprocessing = read_preprocessing(
                folder / "preprocessor_config.json", channels=preprocessing.channels
            )
            return LoadedModel(box, preprocessing, _class_names(folder), spec)
    return LoadedModel(box, preprocessing, _class_names(folders[0]), spec, note)


def _class_names(folder: Path) -> list[str] | None:
    """Those of a Hugging Face config.json, where there is one."""
    try:
        labels = json.loads((folder / "config.json").read_text(encoding="utf-8"))["id2label"]
        names = {int(number): str(label) for number, label in labels.items()}
    # Names are a courtesy.
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not names or sorted(names) != list(range(len(names))):
        return None
    return [names[i] for i in range(len(names))]


class OnnxModel:
    """An ONNX file as a function of arrays [R, ...], one for each of its inputs.

    The session is made once. Inputs take the file's types. Where the file fixes the size of the
    batch to N, rows are sent N at a time, and the last piece is filled up with its last row.

    Attributes:
        input_names, input_dtypes: of the file, in its order.
        input_shape: of the first input, None where a size is free: [batch, C, H, W] for images.
        batch: rows of a call where the file fixes them, else None.

    Raises:
        MissingDependency: onnxruntime is not installed.
        ModelNotFound, ModelSpecError: there is no such file, or it cannot be used.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        providers: list[Any] | None = None,
        threads: int | None = None,
        select_output: str | None = None,
    ) -> None:
        self.path = os.path.abspath(os.path.expanduser(path))
        self.where = f"onnx:{path}"
        if threads is not None and (not isinstance(threads, int) or threads < 1):
            raise ArgumentError(f"{self.where}: threads must be at least 1, got {threads!r}")
        self.providers, self.threads, self.select_output = providers, threads, select_output
        self._start()

    def _start(self) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependency(
                f"{self.where}: onnxruntime is needed; run: pip install pyxai-fast[onnx]"
            ) from error
        if not os.path.isfile(self.path):
            raise ModelNotFound(f"{self.where}: there is no file {self.path}")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; what it warns of are its own optimisations
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        providers = self.providers
        if providers is None:
            available = onnxruntime.get_available_providers()
            wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
            providers = [name for name in wanted if name in available]
        try:
            self._session = onnxruntime.InferenceSession(self.path, options, providers=providers)
            self._read_signature()
        except ModelSpecError:
            raise
        except Exception as error:  # its errors share no class but this
            raise ModelSpecError(f"{self.where}: cannot be run: {_first_line(error)}") from error

    def _read_signature(self) -> None:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self.input_names = [node.name for node in inputs]
        self._shapes = [_free_sizes(node.shape) for node in inputs]
        unknown = [node for node in inputs if node.type not in _DTYPES]
        if not inputs or unknown:
            given = f"{unknown[0].name} {unknown[0].type}" if unknown else "none"
            raise ModelSpecError(
                f"{self.where}: inputs must be of the types {', '.join(_DTYPES.values())}, "
                f"got {given}"
            )
        self.input_dtypes = [_DTYPES[node.type] for node in inputs]
        self.input_shape = self._shapes[0]
        names = [node.name for node in outputs]
        if self.select_output is not None and self.select_output not in names:
            raise ModelSpecError(
                f"{self.where}: select_output must be one of {', '.join(names)}, "
                f"got {self.select_output!r}"
            )
        self._output = self.select_output or names[0]
        fixed = {shape[0] for shape in self._shapes if shape and shape[0] is not None}
        self.batch = next(iter(fixed)) if len(fixed) == 1 else None

    @property
    def input_dtype(self) -> str | None:
        """Of the first input, where it is one that pixels can have."""
        return None if self.input_dtypes[0] == "bool" else self.input_dtypes[0]

    @property
    def identity(self) -> str:
        """The bytes of the file, and of those beside it that hold its weights."""
        graph = Path(self.path).read_bytes()
        digest = hashlib.blake2b(graph, digest_size=16)
        for name in sorted(_external_files(graph)):
            with (
                contextlib.suppress(OSError, ValueError),
                (Path(self.path).parent / name).open("rb") as part,
            ):
                while chunk := part.read(1 << 20):
                    digest.update(chunk)
        return f"onnx {digest.hexdigest()} {self._output}"

    def __call__(self, *inputs: Any) -> NDArray[Any]:
        """The selected output [R, ...] of arrays [R, ...].

        Raises:
            ValueError: the inputs are not what the file takes.
            RuntimeError: ONNX Runtime failed.
        """
        feeds = self._feeds(inputs)
        rows = len(inputs[0])
        if self.batch is None:
            return self._run(feeds)
        pieces = []
        for first in range(0, rows, self.batch):
            # The rows after the last are the last again.
            which = np.minimum(np.arange(first, first + self.batch), rows - 1)
            answer = self._run(
                {name: value[which] if value.ndim else value for name, value in feeds.items()}
            )
            if answer.ndim == 0 or len(answer) != self.batch:
                raise ModelSpecError(
                    f"{self.where}: the output {self._output} must have the {self.batch} rows of "
                    f"the inputs, got {list(answer.shape)}; choose another with select_output"
                )
            pieces.append(answer[: rows - first])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _feeds(self, inputs: tuple[Any, ...]) -> dict[str, NDArray[Any]]:
        if len(inputs) != len(self.input_names):
            raise ArgumentError(
                f"{self.where}: inputs must be {', '.join(self.input_names)}, got {len(inputs)}"
            )
        feeds = {}
        for name, dtype, shape, value in zip(
            self.input_names, self.input_dtypes, self._shapes, inputs, strict=True
        ):
            array = np.asarray(value, dtype=dtype, order="C")
            if shape is not None and (
                array.ndim != len(shape)
                or any(s not in (None, n) for s, n in zip(shape[1:], array.shape[1:], strict=True))
            ):
                wanted = ", ".join("any" if size is None else str(size) for size in shape[1:])
                raise ArgumentError(
                    f"{self.where}: input {name} must have the shape [batch, {wanted}], got "
                    f"{list(array.shape)}"
                )
            feeds[name] = array
        return feeds

    def _run(self, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
        try:
            (answer,) = self._session.run([self._output], feeds)
        except Exception as error:  # its errors share no class but this
            raise RuntimeError(f"{self.where}: failed: {_first_line(error)}") from error
        return np.asarray(answer)

    def __getstate__(self) -> dict[str, Any]:
        kept = ("path", "where", "providers", "threads", "select_output")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()


def _external_files(graph: bytes) -> set[str]:
    """Where the graph says that weights are: its texts {key: "location", value: ...}."""
    # In the bytes of a protocol buffer: field 1 of 8 bytes, then field 2 with its length.
    found = re.finditer(rb"\x0a\x08location\x12(.)", graph, re.DOTALL)
    names = {graph[match.end() : match.end() + match[1][0]] for match in found}
    return {name.decode("utf8", "replace").replace("\0", "") for name in names}


def _free_sizes(shape: Any) -> tuple[int | None, ...] | None:
    """Sizes of a node, None where one is free; None for a node that does not say."""
    if shape is None:
        return None
    return tuple(size if isinstance(size, int) and size > 0 else None for size in shape)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
