"""Explanations and predictions as JSON."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyxai_fast.serving.service import PictureExplanation, class_name, finite

INLINE_BYTES = 2**16
"""Answers of so many bytes are encoded in less time than another thread takes to wake."""

# Characters that each takes at most: base64 of four bytes, a colour's three in a PNG that cannot be
# made smaller, a float32 as Python writes it, with its comma and a bracket on either side.
_PER_NUMBER = {"float32_b64": 16 / 3, "npy_b64": 16 / 3, "array": 26.0}
_PER_PIXEL = {"png": 4.1, "picture": 4.1}
_PER_CLASS, _PER_TOP, _PER_PICTURE = 26, 256, 2048


def largest_body(
    pictures: int, area: int, channels: int, formats: Sequence[str], top: int, classes: int
) -> int:
    """Bytes that an answer may have, about: known before it is.

    Args:
        area: pixels of all the pictures.
        formats, top: asked for; see `explained`.
        classes: of the model, 0 where they are not known.
    """
    each = _PER_PICTURE + _PER_TOP * top + _PER_CLASS * classes
    pixel = sum(_PER_PIXEL.get(f, channels * _PER_NUMBER.get(f, 0.0)) for f in set(formats))
    return pictures * each + math.ceil(area * pixel)


def predictions_body(rows: Sequence[NDArray[np.float32]]) -> bytes:
    """{"predictions": [[probabilities]...]}."""
    return json_bytes({"predictions": [_numbers(row) for row in rows]})


def explanations_body(
    rows: Sequence[PictureExplanation],
    class_names: Sequence[str] | None,
    formats: Sequence[str],
    top: int,
) -> bytes:
    """{"predictions": [[probabilities]...], "explanations": [{...}...]}; see `explained`."""
    return json_bytes(
        {
            "predictions": [_numbers(row.prediction) for row in rows],
            "explanations": [explained(row, class_names, formats, top) for row in rows],
        }
    )


def explained(
    row: PictureExplanation, class_names: Sequence[str] | None, formats: Sequence[str], top: int
) -> dict[str, Any]:
    """One explanation.

    Of the formats, "float32_b64" gives attributions as little-endian float32 in base64, channels
    first; "npy_b64" as a .npy file in base64; "array" as nested lists, null where a number is not
    finite; "png" gives the overlay, and "picture" what the model saw, as PNG in base64.
    """
    answer: dict[str, Any] = {
        "method": row.method,
        "target": row.target,
        "class_name": row.class_name,
        "probability": row.probability,
        "delta": row.delta,
    }
    maps = row.attributions
    if "float32_b64" in formats:
        data = np.ascontiguousarray(maps, dtype="<f4").tobytes()
        answer["attributions"] = {
            "b64": _base64(data), "dtype": "float32", "shape": list(maps.shape)
        }  # fmt: skip
    if "npy_b64" in formats:
        file = io.BytesIO()
        np.save(file, np.ascontiguousarray(maps, dtype="<f4"), allow_pickle=False)
        answer["attributions_npy"] = {"b64": _base64(file.getvalue())}
    if "array" in formats:
        answer["attributions_array"] = _numbers(maps)
    if "png" in formats:
        from pyxai_fast.plots import overlay

        answer["overlay"] = {"b64": _base64(_png(overlay(row.pixels, maps)))}
    if "picture" in formats:
        from pyxai_fast.plots import pixel_image

        answer["picture"] = {"b64": _base64(_png(pixel_image(row.pixels)))}
    if top and row.probabilities is not None:
        order = np.argsort(-row.probabilities, kind="stable")[:top].tolist()
        answer["top"] = [
            {
                "target": i,
                "class_name": class_name(class_names, i),
                "probability": finite(float(row.probabilities[i])),
            }
            for i in order
        ]
    answer["cost"] = {
        "gradients": row.gradients,
        "queries": row.queries,
        "milliseconds": round(1000.0 * row.seconds, 3),
        "batch": row.batch,
    }
    return answer


def is_small(rows: Sequence[PictureExplanation], formats: Sequence[str]) -> bool:
    """Whether the answer takes less time than another thread takes to wake."""
    drawn = any(each in ("png", "picture", "array", "npy_b64") for each in formats)
    maps = sum(row.attributions.nbytes for row in rows)
    return not drawn and maps <= INLINE_BYTES and are_few([row.prediction for row in rows])


def are_few(predictions: Sequence[NDArray[np.float32]]) -> bool:
    """The same of predictions, whose numbers are written out."""
    return sum(row.nbytes for row in predictions) <= INLINE_BYTES // 16


def json_bytes(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _numbers(array: NDArray[np.float32]) -> Any:
    """Nested lists, with null for what is not finite."""
    if np.isfinite(array).all():
        return array.tolist()
    known = array.astype(object)
    known[~np.isfinite(array)] = None
    return known.tolist()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _png(array: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(file, "PNG")
    return file.getvalue()
