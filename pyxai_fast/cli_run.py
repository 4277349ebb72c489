"""``pyxai-fast run``: a data set of pictures in, shards of attributions out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from pyxai_fast.cli_machines import add_options as add_machines
from pyxai_fast.cli_options import add_method, add_model, method_fields, positive_int


def add_options(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    add = parser.add_argument
    add(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="folders of pictures, with their folders; patterns in quotes, *.jpg or "
        "shard-{000..012}.tar; files; lists of files, .txt or .parquet (columns path and perhaps "
        "target); WebDataset .tar files",
    )
    add_model(parser)
    add("--out", required=True, metavar="DIR", help="folder for the results")
    add_method(parser)
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where the model runs")
    add("--batch-size", type=positive_int, default=16, metavar="N", help="pictures per batch")
    add("--shard-size", type=positive_int, default=256, metavar="N", help="pictures per file")
    add(
        "--workers",
        type=_count,
        metavar="N",
        help="processes that read pictures ahead of the model; 0: none (default: 4 for a GPU, "
        "else 1)",
    )
    add(
        "--store",
        default="fp32",
        choices=("fp32", "fp16"),
        help="how attributions are stored; fp16 takes half of the space",
    )
    add("--limit", type=positive_int, metavar="N", help="only the first N pictures")
    add("--resume", action="store_true", help="go on with the job in the folder")
    add("--overwrite", action="store_true", help="begin anew, whatever job is in the folder")
    add("--no-progress", action="store_true", help="no progress bar, and no lines in its place")
    add_machines(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code.

    Raises:
        UsageError, ArgumentError: an option that cannot be used, or a folder.
        ModelSpecError: the model cannot be loaded.
        JobStopped: the model failed; results so far are kept.
    """
    from dataclasses import replace
    from functools import partial

    from pyxai_fast.cli_explainer import MethodRequest, check_request, picture_explainer
    from pyxai_fast.cli_machines import machines
    from pyxai_fast.jobs.on_ranks import Ranks
    from pyxai_fast.jobs.packages import check_packages

    check_packages()
    check_kinds(args.sources)
    request = MethodRequest(**(method_fields(args) | {"device": args.device}))
    check_request(request)
    try:
        with machines(args) as (device, explain):
            request = replace(request, device=device.type)
            summary = explain(
                partial(picture_explainer, request, device),
                args.sources,
                args.out,
                batch_size=args.batch_size,
                shard_size=args.shard_size,
                store=args.store,
                limit=args.limit,
                resume=args.resume,
                overwrite=args.overwrite,
                progress=not args.no_progress,
                settings=settings_of(request),
            )
    except KeyboardInterrupt:
        print("pyxai-fast: what is done is kept; --resume goes on from there", file=sys.stderr)
        raise
    if summary is None:  # another process has it, and says what there is to say
        return 0
    print_summary(summary)
    # torchrun would take 1 for a failure, and start all processes again.
    return 0 if summary.ok == summary.items or Ranks.here() is not None else 1


def print_summary(summary: Any) -> None:
    """What a job has done, as a table, and where it is."""
    from pyxai_fast.cli_images import print_table

    heads = ("pictures", "ok", "bad", "seconds", "pictures/s", "gradients", "queries")
    figures = (
        f"{summary.items:,}",
        f"{summary.ok:,}",
        f"{summary.bad + summary.not_finite:,}",
        f"{summary.seconds:.1f}",
        f"{summary.items_per_second:.3g}" if summary.explained_now else "-",
        f"{summary.gradients:,}",
        f"{summary.queries:,}",
    )
    print_table([heads, figures], numbers=range(len(heads)))
    before = summary.items - summary.explained_now
    told = f"{before:,} were done before; " if before else ""
    listed = f", bad ones in {summary.folder / 'bad.csv'}" if summary.ok < summary.items else ""
    print(f"{told}results in {summary.folder}{listed}; look at {summary.folder / 'summary.html'}")


def settings_of(request: Any) -> dict[str, Any]:
    """What was asked for, without what may be secret in an address."""
    from dataclasses import asdict

    from pyxai_fast.models.from_url import shown_spec

    fields = {**asdict(request), "model": shown_spec(request.model)}
    del fields["device"]  # said once, among what the bits depend on
    if request.references:
        fields["references"] = {name: _digest(name) for name in request.references}
    return fields


def _digest(path: str) -> str | None:
    """Of a file; None where it cannot be read, which is said when it is."""
    import hashlib

    try:
        with open(path, "rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError:
        return None


def check_kinds(sources: list[str]) -> None:
    from pyxai_fast.cli_images import UsageError
    from pyxai_fast.cli_kinds import KINDS

    for source in sources:
        kind = KINDS.get(Path(source).suffix.lower())
        if kind is not None:
            raise UsageError(
                f"SOURCE: must hold pictures, got the {kind} {source}; pyxai-fast explain takes "
                f"{kind}s"
            )


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, got {text!r}")
    return int(text)
