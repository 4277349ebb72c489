"""From the bytes of a request to checked pictures, targets and options."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from torch import Tensor

from pyxai_fast.errors import near
from pyxai_fast.serving.answers import largest_body
from pyxai_fast.serving.limits import OPTION_BOUNDS, Limits
from pyxai_fast.serving.pictures import Sent, check_fields, decode, look
from pyxai_fast.serving.refusal import Refusal, invalid
from pyxai_fast.serving.service import Service

ANSWER_FORMATS = ("float32_b64", "npy_b64", "array", "png", "picture")

_PARAMETERS = ("target", "method", "format", "top", *OPTION_BOUNDS)
_FIELDS = ("instances", "parameters", "signature_name")

# What JSON is sent as, by clients that say nothing in particular too.
_JSON_TYPES = (
    "",
    "application/json",
    "text/json",
    "text/plain",
    "application/x-www-form-urlencoded",
)

_MOST_TOP = 100


@dataclass(frozen=True)
class Question:
    """What a client asks.

    Attributes:
        pixels: pictures [C, H, W], all of one size.
        targets: a class for each, or None for the predicted one.
        method, options: of the service.
        formats: of the answer, some of ANSWER_FORMATS.
        top: how many of the likeliest classes are told.
        answer: bytes that the answer may have, about.
    """

    pixels: list[Tensor]
    targets: list[int | None]
    method: str
    options: Mapping[str, int]
    formats: tuple[str, ...]
    top: int
    answer: int


def read_question(
    service: Service,
    limits: Limits,
    body: bytes,
    content_type: str,
    query: str,
    *,
    explain: bool,
    given_up: Callable[[], bool] = lambda: False,
) -> Question:
    """Reads a request: JSON with instances and parameters, or the bytes of a picture with its
    parameters in the address.

    Args:
        given_up: whether nobody waits for it any more.

    Raises:
        Refusal: of status 400, naming the field.
    """
    if _is_picture(content_type):
        instances: list[Any] = [body]
        parameters: Any = _of_query(query)
        names = ["the picture"]
    else:
        request = _parsed(body, limits)
        if query:
            raise invalid("the query", "be empty beside JSON, which has parameters", query)
        instances, parameters = _instances(request, limits), request.get("parameters")
        if not isinstance(parameters, Mapping | None):
            raise invalid("parameters", "be an object", parameters)
        names = [f"instances[{i}]" for i in range(len(instances))]
    given = {name: value for name, value in (parameters or {}).items() if value is not None}
    check_fields("parameters", given, _PARAMETERS if explain else ())
    method, options, formats, top = _asked(service, given) if explain else ("", {}, (), 0)
    targets = _targets(service, given, instances, names) if explain else []
    if explain:
        _check_work(service, limits, method, options, len(instances))
    sent = look(instances, names, service.preprocessing, limits, strict=explain)
    answer = _size_of_answer(service, limits, sent, formats, top)
    pixels = decode(sent, service.preprocessing, given_up)
    for name, each in zip(names, pixels, strict=True):
        if each.shape != pixels[0].shape:
            raise Refusal(
                400,
                f"{name}: must have the size of {names[0]}, {_size(pixels[0])}, got {_size(each)}",
            )
    return Question(pixels, targets, method, options, formats, top, answer)


def _is_picture(content_type: str) -> bool:
    """Whether a body is a picture, or JSON, as far as its head says."""
    kind = content_type.split(";")[0].strip().lower()
    if kind.startswith("image/"):
        return True
    if kind not in _JSON_TYPES and not kind.endswith("+json"):
        raise Refusal(
            415,
            "content-type: must be application/json, or image/png and the like for the bytes of a "
            f"picture, got {kind[:80]!r}",
        )
    return False


# ---------------------------------------------------------------- JSON


def _parsed(body: bytes, limits: Limits) -> Mapping[str, Any]:
    # Counted before anything is made of them: each takes fifty bytes, and time of all threads.
    if sum(map(body.count, (b",", b"[", b"{"))) > limits.numbers:
        raise Refusal(
            413,
            f"the body: must have at most {limits.numbers:,} numbers; send pictures in base64",
            "too_large",
        )
    try:
        request = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Refusal(400, f"the body: must be JSON, got {reason[:200]}") from None
    if not isinstance(request, dict):
        raise invalid("the body", "be an object with instances", request)
    for name in request:
        if name in _PARAMETERS:
            raise Refusal(400, f"{name}: must be in parameters, got it beside instances")
    check_fields("the body", request, _FIELDS)
    return request


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is no JSON")


def _instances(request: Mapping[str, Any], limits: Limits) -> list[Any]:
    if "instances" not in request:
        raise Refusal(400, "instances: must be given")
    instances = request["instances"]
    if not isinstance(instances, list):
        raise invalid("instances", "be a list", instances)
    if not 1 <= len(instances) <= limits.instances:
        raise Refusal(
            400, f"instances: must be 1 to {limits.instances} pictures, got {len(instances)}"
        )
    return instances


def _of_query(query: str) -> dict[str, Any]:
    """Parameters in an address: their values are text."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=20)
    except ValueError:
        raise Refusal(400, "the query: must have at most 20 fields") from None
    parameters: dict[str, Any] = {}
    for name, text in pairs:
        whole = name == "top" or name in OPTION_BOUNDS
        parameters[name] = int(text) if whole and _is_whole(text) else text
    if "format" in parameters:
        parameters["format"] = parameters["format"].split(",")
    return parameters


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 9


# ---------------------------------------------------------------- parameters


def _asked(
    service: Service, parameters: Mapping[str, Any]
) -> tuple[str, dict[str, int], tuple[str, ...], int]:
    """Method, options, formats and top."""
    method = parameters.get("method", service.explainer.method)
    if not isinstance(method, str) or method not in service.methods:
        raise invalid("method", f"be one of {', '.join(service.methods)}", method)
    options = {}
    choices = service.choices(method)
    for name, (least, most) in OPTION_BOUNDS.items():
        if name not in parameters:
            continue
        if name not in choices:
            takes = ", ".join(choices) or "none"
            raise Refusal(400, f"options of {method}: must be among {takes}, got {name!r}")
        options[name] = _whole(name, parameters[name], least, most)
    try:
        service.check(method, options)
    except (ValueError, TypeError) as error:
        raise Refusal(400, str(error).removeprefix("explain: ")) from error
    formats = parameters.get("format", ["float32_b64"])
    formats = [formats] if isinstance(formats, str) else formats
    if not isinstance(formats, list) or not all(each in ANSWER_FORMATS for each in formats):
        raise invalid("format", f"be among {', '.join(ANSWER_FORMATS)}", formats)
    top = _whole("top", parameters.get("top", 0), 0, _MOST_TOP)
    return method, options, tuple(formats), top


def _whole(name: str, value: Any, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        quoted = isinstance(value, str) and _is_whole(value)
        hint = ", without quotes" if quoted else ""
        raise invalid(name, f"be a whole number from {least} to {most}{hint}", value)
    return value


def _check_work(
    service: Service, limits: Limits, method: str, options: Mapping[str, int], pictures: int
) -> None:
    each = service.work_of(method, options)
    if pictures * each > limits.work:
        times = " x ".join(service.choices(method)) or "1"
        raise Refusal(
            400,
            f"instances: pictures x {times} must be at most {limits.work:,}, "
            f"got {pictures} x {each:,}",
        )


def _targets(
    service: Service, parameters: Mapping[str, Any], instances: Sequence[Any], names: Sequence[str]
) -> list[int | None]:
    """One for all, or a list, or with each instance, in ascending order of what counts."""
    given = parameters.get("target")
    if isinstance(given, list):
        if len(given) != len(instances):
            raise Refusal(
                400,
                f"target: must have an entry for each of the {len(instances)} instances, "
                f"got {len(given)}",
            )
        targets = [_target(service, f"target[{i}]", value) for i, value in enumerate(given)]
    else:
        targets = [_target(service, "target", given)] * len(instances)
    for i, instance in enumerate(instances):
        if isinstance(instance, dict) and instance.get("target") is not None:
            targets[i] = _target(service, f"{names[i]}.target", instance["target"])
    return targets


def _target(service: Service, field: str, value: Any) -> int | None:
    """The number of a class that is given by its number or its name."""
    if value is None or value == "":
        return None
    if service.classes == 1:
        raise invalid(field, "not be given for a model with one output", value)
    classes = service.classes
    if isinstance(value, str):
        found = _by_name(service.class_names or [], value)
        if found is not None:
            return found
        if not _is_whole(value):
            hint = near(value[:80], service.class_names or ())
            raise invalid(field, f"be the number or the name of a class{hint}", value)
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise invalid(field, "be the number or the name of a class", value)
    if value > 2**31 or (classes is not None and value >= classes):
        raise invalid(field, f"be a class from 0 to {(classes or 2**31) - 1}", value)
    return value


def _by_name(names: Sequence[str], name: str) -> int | None:
    """Of names that list synonyms, the first will do, if it is the only one."""
    if name in names:
        return names.index(name)
    wanted = name.strip().casefold()
    found = [i for i, each in enumerate(names) if each.split(",")[0].strip().casefold() == wanted]
    return found[0] if len(found) == 1 else None


# ---------------------------------------------------------------- the answer


def _size_of_answer(
    service: Service, limits: Limits, sent: Sequence[Sent], formats: Sequence[str], top: int
) -> int:
    """Bytes, before anything is computed; of a prediction, which has no formats, few."""
    channels, area = service.preprocessing.channels, sum(each.area for each in sent)
    if "array" in formats and channels * area > limits.numbers:
        raise invalid(
            "format",
            f"be another than array for more than {limits.numbers:,} numbers",
            list(formats),
        )
    size = largest_body(len(sent), area, channels, formats, top, service.classes or 0)
    if size > limits.answer:
        raise Refusal(
            400,
            f"instances: must have an answer of at most {limits.answer:,} bytes, got one of "
            f"{size:,}; ask for fewer pictures, or fewer formats",
        )
    return size


def _size(pixels: Tensor) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[2]}"
