"""``pyxai-fast explain``: image files in, a picture and an attribution file per image out."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyxai_fast import plots
from pyxai_fast.cli_explainer import MethodRequest, check_request, picture_explainer
from pyxai_fast.cli_images import (
    asked,
    check_free,
    check_packages,
    choose_device,
    output_names,
    print_table,
    read_batch,
    save_arrays,
    shorten,
    surroundings,
)
from pyxai_fast.cli_kinds import IMAGE, check_kind
from pyxai_fast.explanation import Explanation
from pyxai_fast.front_door import explain
from pyxai_fast.methods.unfinished import Unfinished
from pyxai_fast.models.black_box import BlackBox
from pyxai_fast.models.from_url import shown_spec
from pyxai_fast.models.query_error import QueryError
from pyxai_fast.models.score import ForwardFunc
from pyxai_fast.models.spec import LoadedModel


@dataclass(frozen=True, kw_only=True)
class Request(MethodRequest):
    """What was asked for, of which files; the fields are the options of the command line.

    Where the files hold something else than pictures, what explains them says what the fields mean.
    """

    images: Sequence[str]
    out: str
    batch_size: int = 16
    file_format: str = "safetensors"
    progress: bool = True
    overwrite: bool = False
    sample_rate: int | None = None
    rows: str | None = None
    columns: str | None = None
    drop: str | None = None


@dataclass(frozen=True)
class Result:
    """One explained file, as it is written to run.json; the last fields are files."""

    file: str
    target: int | None
    class_name: str | None
    probability: float | None
    delta: float | None
    error: float | None
    picture: str
    attributions: str

    @property
    def files(self) -> tuple[str, ...]:
        return self.picture, self.attributions


class Run:
    """Items that are explained, batch after batch: what was done, what failed, and the record.

    As a context it writes run.json when it ends, however it ends, if there is anything to say.

    Args:
        request: what was asked for.
        model, device: of the run.
        about: what else results depend on, for run.json.
        noun: what the files are.
        items: what is explained, by name; the files by default.
    """

    def __init__(
        self,
        request: Request,
        model: LoadedModel,
        device: torch.device,
        about: Mapping[str, Any],
        noun: str = IMAGE,
        items: Sequence[str] | None = None,
    ) -> None:
        self.request, self.model, self.device = request, model, device
        self.about, self.noun = about, noun
        self.out = Path(request.out)
        self.results: list[Any] = []
        self.failures: list[tuple[str, str]] = []
        self.costs: list[dict[str, Any]] = []
        self.used: dict[str, Any] = {}
        self.items = request.images if items is None else items
        self._left = dict(enumerate(self.items))
        self._stopped = False
        self._started = time.perf_counter()

    def batches(self, size: int) -> Iterator[list[int]]:
        """Positions of the items, until a model that only answers could not."""
        for first in range(0, len(self.items), size):
            if self._stopped:
                return
            yield list(range(first, min(first + size, len(self.items))))

    def unreadable(self, position: int, reason: str) -> None:
        file = self._left.pop(position)
        self.failures.append((file, reason))
        print(f"pyxai-fast: {file}: {reason}", file=sys.stderr)

    def explain(
        self,
        positions: Sequence[int],
        write: Callable[[Explanation, int, int], Any],
        model: ForwardFunc,
        inputs: Tensor,
        **options: Any,
    ) -> None:
        """Explains inputs [B, ...] as was asked for, and writes what is finished.

        Args:
            positions, write: see `take`.
            options: of pyxai_fast.explain.
        """
        request = self.request

        def explanation() -> Explanation:
            return explain(
                model,
                inputs,
                method=request.method,
                target=request.target,
                output=request.output,
                progress=request.progress,
                **options,
            )

        self.take(positions, write, explanation)

    def take(
        self,
        positions: Sequence[int],
        write: Callable[[Explanation, int, int], Any],
        explained: Callable[[], Explanation],
    ) -> None:
        """Has items explained, one for each of the positions, and writes what is finished.

        Args:
            write: given the explanation, a row of it and its position, writes that row's files,
                and gives what run.json is to say of it, a dataclass.
        """
        explanation: Explanation | None = None
        done, stopped = list(positions), None
        try:
            explanation = explained()
        except QueryError as error:
            # What was finished before is kept; the rest would fail in the same way.
            stopped, done = error, []
            if isinstance(error, Unfinished) and error.explanation is not None:
                explanation = error.explanation
                done = [positions[i] for i in error.finished.tolist()]
        if explanation is not None:
            self.costs.append(explanation.cost.as_dict())
            self.used = explanation.settings
            self.out.mkdir(parents=True, exist_ok=True)
            for row, position in enumerate(done):
                self.results.append(write(explanation, row, position))
                del self._left[position]
        if stopped is not None:
            self._stopped = True
            self.failures += [(f, f"not finished: {stopped.reason}") for f in self._left.values()]
            print(f"pyxai-fast: error: {stopped}", file=sys.stderr)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        # An interrupted run still says what it did.
        if self.results or self.failures:
            self.out.mkdir(parents=True, exist_ok=True)
            record = json.dumps(self._record(), indent=2) + "\n"
            (self.out / "run.json").write_text(record, encoding="utf-8")
        if isinstance(self.model.module, BlackBox):
            self.model.module.close()

    def finish(self) -> int:
        """Prints what was done; the exit code."""
        _print_summary(self.results, self.failures, self.out, self.noun)
        return 1 if self.failures else 0

    def _record(self) -> dict[str, Any]:
        totals = {
            key: sum(cost.get(key) or 0 for cost in self.costs)
            for key in ("gradients", "queries", "seconds")
        }
        settings = asdict(self.request)
        files = list(settings.pop("images"))
        return {
            "settings": {
                f"{self.noun}s": files,
                **settings,
                "model": shown_spec(self.request.model),
                "references": list(self.request.references),
            },
            "explained": dict(self.used),
            **self.about,
            **surroundings(self.device),
            "cost": {
                **totals,
                "wall_seconds": round(time.perf_counter() - self._started, 3),
                **asked(self.model),
                "batches": [dict(cost) for cost in self.costs],
            },
            "results": [asdict(result) for result in self.results],
            "failures": [{"file": file, "reason": reason} for file, reason in self.failures],
        }


def explain_files(request: Request) -> int:
    """Explain every readable image; returns 0, or 1 if an image could not be explained.

    Everything that can be wrong with the request itself is checked before the model is loaded.

    Raises:
        UsageError: An option that cannot be used, or results that would be overwritten.
        ModelSpecError: The model cannot be loaded.
        QueryError: A model that only answers could not; results so far are kept.
        MissingDependency: Pillow, matplotlib or safetensors is not installed.
    """
    check_packages("explain", request.file_format)
    check_kind(request, IMAGE)
    check_request(request)
    device = choose_device(request.device)
    out = Path(request.out)
    names = output_names(request.images, out)
    check_free(out, names, (".png", f".{request.file_format}"), request.overwrite)
    explainer = picture_explainer(request, device)
    model = explainer.model

    def write(explanation: Explanation, row: int, position: int) -> Result:
        return _write(explanation, row, request.images[position], out, names[position], request)

    with Run(request, model, device, {"preprocessing": model.preprocessing.as_dict()}) as run:
        for batch in run.batches(request.batch_size):
            files = [request.images[position] for position in batch]
            pixels, kept, unread = read_batch(files, model.preprocessing)
            for index, reason in unread:
                run.unreadable(batch[index], reason)
            if not kept:
                continue
            positions = [batch[index] for index in kept]
            run.take(
                positions,
                write,
                partial(explainer, pixels, numbers=positions, progress=request.progress),
            )
    return run.finish()


# ---------------------------------------------------------------- per batch and per image


def result_of(
    explanation: Explanation, row: int, file: str, name: str, file_format: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of one file, attributions first, and the fields of its Result."""
    maps, errors = explanation.attributions, explanation.standard_error
    assert isinstance(maps, Tensor)  # one tensor went in
    assert errors is None or isinstance(errors, Tensor)
    tensors = {"attributions": maps[row].detach().to("cpu", torch.float32).contiguous()}
    if errors is not None:
        tensors["standard_error"] = errors[row].detach().to("cpu", torch.float32).contiguous()
    class_name, probability = plots.class_and_probability(explanation, row)
    delta = None if explanation.delta is None else float(explanation.delta[row])
    return tensors, {
        "file": file,
        "target": None if explanation.target is None else int(explanation.target[row]),
        "class_name": class_name,
        "probability": probability,
        "delta": delta if delta is not None and math.isfinite(delta) else None,
        "error": relative_error(tensors),
        "picture": f"{name}.png",
        "attributions": f"{name}.{file_format}",
    }


def note_of(result: Result) -> str | None:
    """What a picture says of it, besides class and probability."""
    return None if result.error is None else f"standard error {100 * result.error:.0f}%"


def save_result(result: Result, tensors: Mapping[str, Tensor], out: Path, method: str) -> None:
    text = {"method": method, "target": str(result.target), "file": result.file}
    save_arrays(tensors, out / result.attributions, text)


def _write(
    explanation: Explanation,
    row: int,
    image: str,
    out: Path,
    name: str,
    request: Request,
) -> Result:
    tensors, fields = result_of(explanation, row, image, name, request.file_format)
    result = Result(**fields)
    assert isinstance(explanation.inputs, Tensor)
    figure = plots.overlay_figure(
        explanation.inputs[row],
        tensors["attributions"],
        class_name=result.class_name,
        probability=result.probability,
        method=request.method,
        note=note_of(result),
    )
    plots.save_figure(figure, out / result.picture)
    save_result(result, tensors, out, request.method)
    return result


def relative_error(tensors: Mapping[str, Tensor]) -> float | None:
    """Root mean square of the standard errors, relative to that of the attributions themselves.

    None where the map shows nothing but its noise.
    """
    if "standard_error" not in tensors:
        return None
    errors = tensors["standard_error"].double()
    known = errors.isfinite()
    noise = float(errors[known].square().mean())
    # What is seen is both: the squares of the attributions and of their errors.
    size = float(tensors["attributions"].double()[known].square().mean()) - noise
    return math.sqrt(noise / size) if size > 0 else None


# ---------------------------------------------------------------- afterwards


def _print_summary(
    results: Sequence[Result], failures: Sequence[tuple[str, str]], out: Path, noun: str
) -> None:
    rows = [(noun, "class", "p", "completeness gap", "standard error", "files")]
    for result in results:
        rows.append(
            (
                shorten(Path(result.file).name, 40),
                shorten(result.class_name or "-", 32),
                "-" if result.probability is None else f"{100 * result.probability:.1f}%",
                "-" if result.delta is None else f"{result.delta:+.2e}",
                "-" if result.error is None else f"{100 * result.error:.0f}%",
                ", ".join(result.files),
            )
        )
    if results:
        print_table(rows, numbers=(2, 3, 4))
    failed = f", {len(failures)} failed" if failures else ""
    print(f"{len(results)} explained{failed}; settings and results in {out / 'run.json'}")
