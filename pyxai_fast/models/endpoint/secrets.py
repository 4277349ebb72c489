"""Headers that authorise, from where they are not seen."""

from __future__ import annotations

import json
import os

from ...errors import ArgumentError


def read_headers(token_env: str | None = None, headers_file: str | None = None) -> dict[str, str]:
    """Headers from the environment and from a file; a command line is seen by others.

    Args:
        token_env: the environment variable that holds a token, sent as "Authorization: Bearer".
        headers_file: a file with a JSON object, or with a line "Name: value" for each header.

    Raises:
        ValueError: there is no such variable or file, or it holds no headers.
    """
    headers: dict[str, str] = {}
    if headers_file is not None:
        try:
            with open(os.path.expanduser(headers_file), encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise ArgumentError(f"endpoint: headers_file {headers_file}: {error}") from error
        headers.update(_parse(text, headers_file))
    if token_env is not None:
        token = os.environ.get(token_env, "").strip()
        if not token:
            raise ArgumentError(
                f"endpoint: token_env must name an environment variable that is set, got "
                f"{token_env!r}"
            )
        headers["Authorization"] = f"Bearer {token}"
    return headers


def _parse(text: str, name: str) -> dict[str, str]:
    wrong = ArgumentError(
        f"endpoint: headers_file must hold a JSON object of texts, or lines 'Name: value', and "
        f"{name} does not"
    )
    if text.lstrip().startswith("{"):
        try:
            values = json.loads(text)
        except ValueError:
            raise wrong from None  # the file's contents stay out of tracebacks
        if not all(isinstance(value, str) for value in values.values()):
            raise wrong
        return dict(values)
    headers = {}
    for line in text.splitlines():
        if line.strip():
            key, colon, value = line.partition(":")
            if not colon or not key.strip():
                raise wrong
            headers[key.strip()] = value.strip()
    return headers
