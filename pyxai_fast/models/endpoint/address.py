"""What an address says: which server, which model, which protocol."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from ...errors import ArgumentError

_V1 = re.compile(
    r"(?P<root>.*)(?P<model>/v1/models/[^/:]+(/(versions|labels)/[^/:]+)?)(:predict)?/?"
)
_V2 = re.compile(r"(?P<root>.*)(?P<model>/v2/models/[^/]+(/versions/[^/]+)?)(/infer)?/?")
FORMS = "http://HOST/v1/models/NAME:predict or http://HOST/v2/models/NAME/infer"


@dataclass(frozen=True)
class Address:
    """Where a model is asked, and where it is described.

    Attributes:
        protocol: "v1" or "v2".
        ask: where rows are sent.
        model: where a v2 server describes the model.
        server: where a v2 server describes itself.
        shown: for messages and records, without a password and without a query.
    """

    protocol: str
    ask: str
    model: str
    server: str
    shown: str


def parse_address(url: str) -> Address:
    """The parts of the address of a model.

    Raises:
        ValueError: it is no address of a model; the message shows the two forms.
    """
    if not isinstance(url, str):
        raise TypeError(f"endpoint: url must be a text, got {type(url).__name__}")
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        raise ArgumentError(f"endpoint: url must be {FORMS} ({error})") from error
    if parts.scheme not in ("http", "https") or not host:
        raise ArgumentError(f"endpoint: url must be {FORMS}, got {shown_address(url)!r}")
    for protocol, form, suffix in (("v1", _V1, ":predict"), ("v2", _V2, "/infer")):
        match = form.fullmatch(parts.path)
        if match is not None:
            model = match["root"] + match["model"]

            def at(path: str) -> str:
                return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))

            return Address(
                protocol=protocol,
                ask=at(model + suffix),
                model=at(model),
                server=at(match["root"] + "/v2"),
                shown=shown_address(at(model + suffix)),
            )
    raise ArgumentError(
        f"endpoint: the path of the url must name the model and the protocol, {FORMS}, got "
        f"{shown_address(url)!r}"
    )


def shown_address(url: str) -> str:
    """An address without what may be secret: user, password, query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url.split("?")[0].rpartition("@")[2]
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
