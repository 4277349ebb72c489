"""``pyxai-fast explain patients.csv``: rows of a table in, bars and tables of attributions out."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyxai_fast import plots
from pyxai_fast.cli_explain import (
    Request,
    Run,
    relative_error,
)
from pyxai_fast.cli_explainer import (
    has_baseline,
    method_class,
    with_prior_of,
)
from pyxai_fast.cli_images import (
    UsageError,
    check_free,
    check_packages,
    choose_device,
    print_table,
    save_arrays,
    shorten,
)
from pyxai_fast.cli_kinds import TABLE, check_kind
from pyxai_fast.explanation import Explanation
from pyxai_fast.methods import ExpectedGradients
from pyxai_fast.models.black_box import BlackBox
from pyxai_fast.models.score import model_dtype
from pyxai_fast.models.spec import LoadedModel, load_model
from pyxai_fast.table_file import TableFile, read_table

# More pictures than anybody looks at; the numbers are of all rows.
MOST_PICTURES = 100
SHOWN_ROWS, SHOWN_FEATURES = 20, 3


@dataclass(frozen=True)
class _Row:
    """One explained row, as it is written to run.json.

    Attributes:
        row: of the file, from 0.
        answer: of a model that has no classes.
        top: its largest attributions, by name.
    """

    row: int
    target: int | None
    class_name: str | None
    probability: float | None
    answer: float | None
    delta: float | None
    error: float | None
    top: dict[str, float]
    picture: str | None


def explain_table(request: Request) -> int:
    """Explain rows of one table; returns 0, or 1 if some could not be explained.

    Everything that can be wrong with the request itself is checked before the model is loaded.

    Raises:
        UsageError, ArgumentError: an option or a file that cannot be used, or results that would be
            overwritten.
        ModelSpecError: the model cannot be loaded.
        MissingDependency: matplotlib or safetensors is not installed.
    """
    check_packages("explain", request.file_format)
    check_kind(request, TABLE)
    with_prior = with_prior_of(request)
    _check(request)
    table, references = read_table(request.images[0]), _read_references(request)
    rows = _chosen_rows(request.rows, table)
    names = _chosen_names(request, table)
    baseline_kind = _baseline_kind(request, table)
    device, out = choose_device(request.device), Path(request.out)
    files = _Files(out, Path(table.path).stem, request.file_format)
    check_free(out, files.of(rows), ("",), request.overwrite)

    model = load_model(request.model, device, options=request.model_options)
    request = replace(request, output=request.output or model.output)
    gradient, options = with_prior(None)
    maps: list[dict[str, Tensor]] = []

    def write(explanation: Explanation, place: int, position: int) -> _Row:
        one = _one(explanation, place)
        maps.append(_tensors(one))
        return _write(one, rows[position], files, draw=position < MOST_PICTURES)

    about: dict[str, Any] = {}
    items = [f"{table.path}: row {row}" for row in rows]
    with Run(request, model, device, about, TABLE, items) as run:
        about["columns"] = names = _names_for(model, names, request, table)
        inputs = _rows(table, names, rows, model).to(device)
        baselines = _baselines(baseline_kind, references or table, names, model)
        try:
            for batch in run.batches(request.batch_size):
                numbers = {"numbers": [rows[position] for position in batch]}
                run.explain(
                    batch,
                    write,
                    model.module,
                    inputs[batch[0] : batch[-1] + 1],
                    gradient=gradient,
                    baselines=baselines,
                    class_names=model.class_names,
                    feature_names=names,
                    **(numbers | options),
                )
        finally:
            # An interrupted run keeps what it has.
            if run.results:
                _write_numbers(maps, run.results, names, files, request)
    _print_summary(run.results, run.failures, names, files)
    return 1 if run.failures else 0


# ---------------------------------------------------------------- before the model is loaded


@dataclass(frozen=True)
class _Files:
    """Where results go."""

    out: Path
    stem: str
    file_format: str

    def picture(self, row: int) -> str:
        return f"{self.stem}-{row}.png"

    @property
    def summary(self) -> str:
        return f"{self.stem}-summary.png"

    @property
    def table(self) -> str:
        return f"{self.stem}-attributions.csv"

    @property
    def arrays(self) -> str:
        return f"{self.stem}-attributions.{self.file_format}"

    def of(self, rows: Sequence[int]) -> list[str]:
        pictures = [self.picture(row) for row in rows[:MOST_PICTURES]]
        return [self.table, self.arrays, self.summary, *pictures]


def _check(request: Request) -> None:
    if len(request.images) > 1:
        raise UsageError(f"explain: must be given one table at a time, got {len(request.images)}")
    if request.columns is not None and request.drop is not None:
        raise UsageError("--columns and --drop say the same thing; give one of them")


def _read_references(request: Request) -> TableFile | None:
    if not request.references:
        return None
    if len(request.references) > 1:
        raise UsageError(f"--references: must be one table, got {len(request.references)} files")
    if not has_baseline(request):
        raise UsageError(f"--references: the method {request.method} takes none")
    return read_table(request.references[0])


def _chosen_rows(text: str | None, table: TableFile) -> list[int]:
    """Of "0:20", ":20" or "3"; all for None."""
    count = len(table)
    if count == 0:
        raise UsageError(f"{table.path}: must have rows to explain, got none")
    if text is None:
        return list(range(count))
    first, colon, last = text.partition(":")
    bounds = [first, last] if colon else [first]
    if not all(bound.isdecimal() or (colon and not bound) for bound in bounds):
        raise UsageError(f"--rows: must be like 0:20, or the number of a row, got {text!r}")
    start = int(first or 0)
    stop = (int(last) if last else count) if colon else start + 1
    if start >= count or stop <= start:
        raise UsageError(
            f"--rows: must be among the {count} rows of {table.path}, from 0, got {text!r}"
        )
    return list(range(start, min(stop, count)))


def _chosen_names(request: Request, table: TableFile) -> list[str] | None:
    """The columns of --columns, or all but those of --drop; None where neither is given."""
    for flag, text in (("--columns", request.columns), ("--drop", request.drop)):
        if text is None:
            continue
        given = [name.strip() for name in text.split(",")]
        table.check_names(given, flag)
        if flag == "--columns":
            return given
        left = [name for name in table.names if name not in given]
        if not left:
            raise UsageError(f"--drop: must leave a column of {table.path}, got all of them")
        return left
    return None


def _baseline_kind(request: Request, table: TableFile) -> str | float | None:
    """ "rows", "mean", a number, or None for methods that have none."""
    if not has_baseline(request):
        return None
    if issubclass(method_class(request.method), ExpectedGradients):
        if not request.references or request.baseline is not None:
            raise UsageError(
                f"--references: must be given for {request.method}, and no --baseline: a table "
                "whose rows it starts from"
            )
        return "rows"
    if request.references and request.baseline not in (None, "mean"):
        raise UsageError("--references and --baseline say the same thing; give one of them")
    if request.references or request.baseline in (None, "mean"):
        if not request.references and len(table) < 2:
            raise UsageError(
                f"--baseline: {table.path} has one row, which is its own mean; give --references, "
                "a table of training data, or --baseline zero"
            )
        return "mean"
    try:
        level = 0.0 if request.baseline == "zero" else float(request.baseline)
    except ValueError:
        level = math.nan
    if not math.isfinite(level):
        raise UsageError(
            "--baseline: must be mean (of each column), zero or a number for tables, got "
            f"{request.baseline!r}"
        )
    return level


# ---------------------------------------------------------------- what the model takes


def _names_for(
    model: LoadedModel, names: list[str] | None, request: Request, table: TableFile
) -> list[str]:
    """The model's own columns, in their order, where it knows them; else those chosen."""
    wanted = model.feature_names
    if wanted is None:
        return table.names if names is None else names
    given = table.names if names is None else names
    missing = [name for name in wanted if name not in given]
    if missing:
        left_out = [name for name in missing if name in table.names]
        why = " (left out)" if left_out else ""
        raise UsageError(
            f"{table.path}: columns must be those that {request.model} was fitted on, and "
            f"{', '.join(map(repr, missing[:3]))}{' and more' if len(missing) > 3 else ''} "
            f"{'is' if len(missing) == 1 else 'are'} missing{why}"
        )
    return wanted


def _rows(
    table: TableFile, names: list[str], rows: Sequence[int] | None, model: LoadedModel
) -> Tensor:
    """[B, D] in the type of the model's weights; float64 for one that only answers."""
    table.check_names(names, "columns")
    numbers = table.numbers(names, rows)
    if isinstance(model.module, BlackBox):
        return numbers
    return numbers.to(model_dtype(model.module) or torch.get_default_dtype())


def _baselines(
    kind: str | float | None, table: TableFile, names: list[str], model: LoadedModel
) -> Tensor | float | None:
    if not isinstance(kind, str):
        return kind
    rows = _rows(table, names, None, model)
    return rows if kind == "rows" else rows.nanmean(0, keepdim=True)


# ---------------------------------------------------------------- results


def _write(one: Explanation, row: int, files: _Files, *, draw: bool) -> _Row:
    tensors = _tensors(one)
    values = tensors["attributions"]
    assert one.feature_names is not None
    class_name, probability = plots.class_and_probability(one, 0)
    delta = None if one.delta is None else float(one.delta[0])
    largest = values.abs().argsort(descending=True, stable=True)[:SHOWN_FEATURES].tolist()
    result = _Row(
        row=row,
        target=None if one.target is None else int(one.target[0]),
        class_name=class_name,
        probability=probability,
        answer=float(one.outputs) if class_name is None and one.outputs.numel() == 1 else None,
        delta=delta if delta is not None and math.isfinite(delta) else None,
        error=relative_error(tensors),
        top={one.feature_names[i]: float(values[i]) for i in largest},
        picture=files.picture(row) if draw else None,
    )
    if result.picture is not None:
        plots.save_figure(plots.explanation_figure(one), files.out / result.picture)
    return result


def _tensors(one: Explanation) -> dict[str, Tensor]:
    """Of the explanation of one row, [D] each."""
    tensors = {}
    for name in ("attributions", "inputs", "standard_error"):
        value = getattr(one, name)
        if isinstance(value, Tensor):
            dtype = torch.float64 if name == "inputs" else torch.float32
            tensors[name] = value[0].detach().to("cpu", dtype)
    return tensors


def _one(explanation: Explanation, place: int) -> Explanation:
    """The explanation of one row of a batch."""

    def part(value: Any) -> Any:
        return None if value is None else value[place : place + 1].detach()

    return replace(
        explanation,
        **{
            name: part(getattr(explanation, name))
            for name in ("attributions", "inputs", "target", "outputs", "delta", "standard_error")
        },
    )


def _write_numbers(
    maps: Sequence[dict[str, Tensor]],
    results: Sequence[_Row],
    names: Sequence[str],
    files: _Files,
    request: Request,
) -> None:
    """All attributions as a table and as arrays, and their mean size as a picture."""
    tensors = {name: torch.stack([one[name] for one in maps]) for name in maps[0]}
    tensors["rows"] = torch.tensor([result.row for result in results])
    text = {"method": request.method, "file": str(request.images[0]), "columns": json.dumps(names)}
    save_arrays(tensors, files.out / files.arrays, text)
    attributions = tensors["attributions"]
    with open(files.out / files.table, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        classes = results[0].class_name is not None
        writer.writerow(["row", *(("class", "probability") if classes else ("answer",)), *names])
        for result, values in zip(results, attributions.tolist(), strict=True):
            said = (result.class_name, result.probability) if classes else (result.answer,)
            writer.writerow([result.row, *said, *(f"{value:.7g}" for value in values)])
    if len(results) > 1:
        figure = plots.bars(
            attributions.abs().mean(0),
            feature_names=names,
            captions=[f"mean over {len(results)} rows of {shorten(files.stem, 24)}"],
            label=f"mean |attribution|, {request.method.replace('_', ' ')}",
        )
        plots.save_figure(figure, files.out / files.summary)


def _print_summary(
    results: Sequence[_Row],
    failures: Sequence[tuple[str, str]],
    names: Sequence[str],
    files: _Files,
) -> None:
    lines = [("row", "class", "p", "standard error", "largest attributions", "picture")]
    for result in results[:SHOWN_ROWS]:
        said = result.class_name or ("-" if result.answer is None else f"{result.answer:.4g}")
        top = ", ".join(
            f"{shorten(name, 20)} {value:+.2g}" for name, value in result.top.items() if value
        )
        lines.append(
            (
                str(result.row),
                shorten(said, 32),
                "-" if result.probability is None else f"{100 * result.probability:.1f}%",
                "-" if result.error is None else f"{100 * result.error:.0f}%",
                top or "none",
                result.picture or "-",
            )
        )
    if results:
        print_table(lines, numbers=(0, 2, 3))
    if len(results) > SHOWN_ROWS:
        print(f"... and {len(results) - SHOWN_ROWS} more rows")
    if len(results) > MOST_PICTURES:
        print(f"Pictures are of the first {MOST_PICTURES} rows; --rows chooses others.")
    failed = f", {len(failures)} failed" if failures else ""
    besides = f" {files.table}, {files.arrays} and" if results else ""
    print(
        f"{len(results)} rows of {len(names)} columns explained{failed};{besides} run.json are in "
        f"{files.out}"
    )
