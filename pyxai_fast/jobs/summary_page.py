"""A page that shows what a job has done: one file, of a bounded size, whatever the data set."""

from __future__ import annotations

import base64
import html
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import plots
from ..images import ImageError
from .atomic_file import write_text
from .items import Items
from .job import Job
from .progress import duration
from .reader import Result, Results
from .reading import read_item
from .shard_files import BAD, OK
from .summary import JobSummary, logged

SAMPLES, CLASSES, GAPS, FAILURES = 60, 20, 12, 50
# The longer side of a picture on the page, in pixels.
_SIDE = 176


def write_page(job: Job, results: Results, summary: JobSummary, path: Path) -> None:
    """Writes the page, from the files of shards that are done and some of the pictures."""
    table = results.table()
    columns = {name: table[name].to_pylist() for name in ("number", "status", "class_name")}
    explained = [
        number
        for number, status in zip(columns["number"], columns["status"], strict=True)
        if status != BAD
    ]
    body = [
        _head(results.record, summary),
        _tiles(summary, logged(job.folder)),
        _gallery(job, results, _spread(explained, SAMPLES)),
        '<div class="columns">',
        _classes(Counter(name for name in columns["class_name"] if name is not None)),
        _gaps(table),
        "</div>",
        _failures(table),
        _settings(results.record),
    ]
    title = html.escape(f"{summary.items:,} pictures, {results.record['settings']['method']}")
    write_text(path, _PAGE.format(title=title, style=_STYLE, body="\n".join(filter(None, body))))


# ---------------------------------------------------------------- parts


def _head(record: Mapping[str, Any], summary: JobSummary) -> str:
    settings = record["settings"]
    sources = record["sources"]
    named = ", ".join(map(str, sources[:3])) + (
        f" and {len(sources) - 3} more" if len(sources) > 3 else ""
    )
    state = "" if summary.complete else " so far"
    return (
        f"<header><h1>{_text(_spoken(settings['method']))}</h1>"
        f"<p>{summary.ok + summary.not_finite:,} of {summary.items:,} pictures explained{state}: "
        f"<b>{_text(settings['model'])}</b> on {_text(named)}</p></header>"
    )


def _tiles(summary: JobSummary, log: Sequence[Mapping[str, Any]]) -> str:
    seconds = sum(line["seconds"] for line in log)
    items = sum(sum(line["statuses"].values()) for line in log)
    tiles = [
        ("pictures", f"{summary.items:,}", ""),
        ("explained", f"{summary.ok:,}", "good"),
        ("bad", f"{summary.bad:,}", "warn" if summary.bad else ""),
    ]
    if summary.not_finite:
        tiles.append(("not finite", f"{summary.not_finite:,}", "warn"))
    if seconds:
        tiles.append(("time in shards", duration(seconds), ""))
        tiles.append(("pictures / s", f"{items / seconds:.3g}", ""))
    if summary.gradients:
        tiles.append(("gradients", f"{summary.gradients:,}", ""))
    if summary.queries:
        tiles.append(("queries", f"{summary.queries:,}", ""))
    cells = "".join(
        f'<div class="tile {kind}"><b>{value}</b><span>{name}</span></div>'
        for name, value, kind in tiles
    )
    return f'<section class="tiles">{cells}</section>'


def _gallery(job: Job, results: Results, numbers: Sequence[int]) -> str:
    if not numbers:
        return ""
    items = Items(job.folder)
    cards = "".join(_card(job, items, results[number]) for number in numbers)
    return (
        f"<section><h2>{len(numbers)} pictures, evenly spaced</h2>"
        '<p class="legend"><i class="for"></i>speaks for the class <i class="against"></i>speaks '
        f'against it</p><div class="gallery">{cards}</div></section>'
    )


def _card(job: Job, items: Items, result: Result) -> str:
    try:
        pixels = read_item(items[result.number], job.preprocessing)
    except ImageError:  # it was there when it was explained
        pixels = torch.full_like(result.attributions[:1], 0.5)
    if pixels.shape[1:] != result.attributions.shape[1:]:
        pixels = torch.full_like(result.attributions[:1], 0.5)
    attributions = result.attributions.nan_to_num(0.0, 0.0, 0.0)
    shown = _image(plots.pixel_image(pixels)) + _image(plots.overlay(pixels, attributions))
    said = plots.caption(result.class_name, result.probability) or ""
    name = _text(result.path)
    mark = "" if result.status == OK else f' <em class="mark">{_text(result.status)}</em>'
    return (
        f'<figure><div class="pair">{shown}</div><figcaption><b>{_text(said)}</b>{mark}'
        f'<span title="{name}">{result.number:,} \u00b7 {_text(_tail(result.path))}</span>'
        "</figcaption></figure>"
    )


def _classes(counts: Counter[str]) -> str:
    if not counts:
        return ""
    shown = counts.most_common(CLASSES)
    most = shown[0][1]
    rows = "".join(
        f"<tr><td>{_text(plots.caption(name, None))}</td><td class='bar'>"
        f'<i style="width:{100 * count / most:.1f}%"></i></td><td class="n">{count:,}</td></tr>'
        for name, count in shown
    )
    rest = sum(counts.values()) - sum(count for _, count in shown)
    more = f"<p>{len(counts) - len(shown):,} other classes, {rest:,} pictures</p>" if rest else ""
    return f"<section><h2>Classes</h2><table class='classes'>{rows}</table>{more}</section>"


def _gaps(table: Any) -> str:
    from pyarrow import compute

    known = table.filter(compute.is_valid(table["delta"]))
    if not known.num_rows:
        return ""
    sizes = compute.abs(known["delta"])
    middle = compute.quantile(sizes, 0.5)[0].as_py()
    order = compute.sort_indices(sizes, sort_keys=[("", "descending")])
    rows = "".join(
        f"<tr><td title='{_text(row['path'])}'>{row['number']:,} \u00b7 "
        f"{_text(_tail(row['path']))}</td><td>{_text(plots.caption(row['class_name'], None))}</td>"
        f"<td class='n'>{row['delta']:+.2e}</td></tr>"
        for row in known.take(order.slice(0, GAPS)).to_pylist()
    )
    return (
        f"<section><h2>Largest completeness gaps</h2><p>the median is {middle:.1e}</p>"
        f"<table>{rows}</table></section>"
    )


def _failures(table: Any) -> str:
    from pyarrow import compute

    bad = table.filter(compute.not_equal(table["status"], OK))
    if not bad.num_rows:
        return ""
    rows = "".join(
        f"<tr><td>{row['number']:,}</td><td>{_text(row['path'])}</td>"
        f"<td>{_text(row['status'])}</td><td>{_text(row['reason'])}</td></tr>"
        for row in bad.slice(0, FAILURES).to_pylist()
    )
    rest = bad.num_rows - FAILURES
    more = f"<p>and {rest:,} more, in bad.csv</p>" if rest > 0 else ""
    return f"<section><h2>Bad files</h2><table>{rows}</table>{more}</section>"


def _settings(record: Mapping[str, Any]) -> str:
    said = {
        name: value
        for name, value in record["settings"].items()
        if value not in (None, [], {}, False)
    }
    for name in ("batch_size", "shard_size", "store", "device", "backend", "plan", "versions"):
        said[name] = record[name]
    said["weights"] = record["weights"]
    rows = "".join(
        f"<tr><td>{_text(_spoken(name))}</td><td>{_text(_value(value))}</td></tr>"
        for name, value in said.items()
        if value is not None
    )
    return f"<section><h2>Settings</h2><table class='settings'>{rows}</table></section>"


# ---------------------------------------------------------------- pieces


def _image(array: Any) -> str:
    """uint8 [H, W, 3] as part of the page; small pictures keep crisp pixels."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(array))
    longer = max(image.size)
    small = longer <= 96
    if longer > _SIDE:
        image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    held = io.BytesIO()
    if small:
        image.save(held, "PNG", optimize=True)
    else:
        image.save(held, "JPEG", quality=85)
    kind = "png" if small else "jpeg"
    data = base64.b64encode(held.getvalue()).decode()
    crisp = ' class="crisp"' if small else ""
    return f'<img{crisp} alt="" loading="lazy" src="data:image/{kind};base64,{data}">'


def _spread(numbers: Sequence[int], count: int) -> list[int]:
    """At most `count` of the numbers, at even distances, the first and the last among them."""
    if len(numbers) <= count:
        return list(numbers)
    return [numbers[round(i * (len(numbers) - 1) / (count - 1))] for i in range(count)]


def _tail(path: str) -> str:
    """The end of a path, which tells files apart."""
    return path if len(path) <= 34 else f"\u2026{path[-33:]}"


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_spoken(str(name))} {_value(part)}" for name, part in value.items())
    if isinstance(value, str):
        return value
    if isinstance(value, Iterable):
        return ", ".join(map(_value, value))
    return json.dumps(value)


def _text(text: str | None) -> str:
    return html.escape("" if text is None else str(text))


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""

_STYLE = """
:root { --ink: #222; --muted: #666; --line: #e3e3e0; --for: #cb1e2d; --against: #2166ac; }
* { box-sizing: border-box; }
body { font: 14px/1.45 system-ui, sans-serif; color: var(--ink); background: #fafaf8;
  max-width: 1180px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 26px; margin: 0 0 2px; text-transform: capitalize; }
h2 { font-size: 16px; margin: 0 0 8px; }
p { margin: 0 0 8px; color: var(--muted); overflow-wrap: anywhere; }
section { background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: 16px 18px;
  margin-top: 16px; overflow-x: auto; }
.tiles { display: flex; flex-wrap: wrap; gap: 10px 36px; }
.tile b { display: block; font-size: 21px; font-variant-numeric: tabular-nums; }
.tile span { color: var(--muted); font-size: 12px; }
.tile.warn b { color: #b35900; }
.tile.good b { color: #22722f; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 14px; }
figure { margin: 0; min-width: 0; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 2px; align-items: center; }
img { width: 100%; display: block; border-radius: 3px; }
img.crisp { image-rendering: pixelated; }
figcaption b, figcaption span { display: block; white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; }
figcaption b { font-weight: 600; margin-top: 3px; }
figcaption span { color: var(--muted); font-size: 12px; }
.mark { color: #b35900; }
.legend i { display: inline-block; width: 11px; height: 11px; border-radius: 2px;
  margin: 0 5px -1px 0; }
.legend i + i, .legend .against { margin-left: 14px; }
.for { background: var(--for); } .against { background: var(--against); }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(380px, 1fr)); gap: 0 16px;
  align-items: start; }
table { border-collapse: collapse; width: 100%; }
td { padding: 3px 12px 3px 0; border-top: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
tr:first-child td { border-top: 0; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; padding-right: 0; }
.classes td:first-child { width: 34%; }
.bar { width: 54%; }
.bar i { display: block; height: 11px; margin-top: 5px; background: #8aa9c8; border-radius: 2px; }
.settings td:first-child { width: 22%; color: var(--muted); }
"""
