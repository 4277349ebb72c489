"""``http://...`` and ``https://...``: models behind HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyxai_fast.models.endpoint.address import shown_address
from pyxai_fast.models.endpoint.secrets import read_headers
from pyxai_fast.models.loaded import LoadedModel
from pyxai_fast.models.preprocessing_file import assumed_preprocessing


def load_url(
    scheme: str,
    rest: str,
    *,
    answers: str = "logits",
    dtype: Any = None,
    budget: int | None = None,
    cache: Any = None,
    rows_per_request: int = 32,
    concurrency: int = 4,
    timeout: float = 30.0,
    retries: int = 5,
    backoff: float = 0.5,
    encoding: str = "auto",
    input_names: Sequence[str] | str | None = None,
    select_output: str | None = None,
    token_env: str | None = None,
    headers_file: str | None = None,
) -> LoadedModel:
    """The model at an address, with the size of pictures that its server tells of.

    Pixels are taken to be in [0, 1], or in 0..255 where the model takes uint8.

    Args:
        scheme, rest: the two parts of the address around its first colon.
        token_env: the environment variable with the token to send.
        headers_file: a file with headers to send.
        others: of BlackBox.from_url.
    """
    from pyxai_fast.models.black_box import BlackBox
    from pyxai_fast.models.endpoint import Endpoint

    url = f"{scheme}:{rest}"
    endpoint = Endpoint(
        url,
        budget=budget,
        answers=answers,
        rows_per_request=rows_per_request,
        concurrency=concurrency,
        timeout=timeout,
        retries=retries,
        backoff=backoff,
        headers=read_headers(token_env, headers_file),
        encoding=encoding,
        input_names=input_names,
        select_output=select_output,
    )
    try:
        box = BlackBox(
            endpoint,
            takes="numpy",
            answers=answers,
            dtype=endpoint.input_dtype if dtype is None else dtype,
            cache=cache,
        )
        preprocessing, note = assumed_preprocessing(
            endpoint.input_shape, box.grey_level is not None, shown_address(url)
        )
    except BaseException:
        endpoint.close()
        raise
    return LoadedModel(box, preprocessing, None, shown_address(url), note)


def shown_spec(spec: str) -> str:
    """The text that names a model, without what may be secret in an address."""
    return shown_address(spec) if spec.startswith(("http:", "https:")) else spec
