"""The command line: ``pyxai-fast explain | run | evaluate | counterfactual | train-prior |
train-paths | serve | info | demo``.

Exit codes: 0 all done, 1 something failed, 2 the command itself was wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from pyxai_fast.cli_options import (
    add_method,
    add_model,
    add_prior,
    add_run,
    method_fields,
    parsed_options,
    positive_int,
)

PROGRAM = "pyxai-fast"


class _Parser(argparse.ArgumentParser):
    """One line per error, instead of a page of usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Says the default only where there is one worth saying."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, []):
            return action.help
        return super()._get_help_string(action)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    try:
        args = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has already written what is to be said
        return stop.code if isinstance(stop.code, int) else 2
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        with _one_line_warnings(enabled=not args.debug):
            return run(args)
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    except SystemExit as stop:  # the demo has a parser of its own
        return stop.code if isinstance(stop.code, int) else 2
    except Exception as error:
        if args.debug:
            raise
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        print(f"{PROGRAM}: error: {text}", file=sys.stderr)
        # Wrong arguments reach the library as these; anything else is a failure while running.
        return 2 if isinstance(error, (ValueError, TypeError, ImportError)) else 1


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description="Why a model answers as it does: attribution maps, and what they cost.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {_version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_explain(commands)
    _add_run(commands)
    _add_evaluate(commands)
    _add_counterfactual(commands)
    _add_train_prior(commands)
    _add_train_paths(commands)
    _add_serve(commands)
    _add_info(commands)
    _add_demo(commands)
    return parser


def _add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], summary: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        formatter_class=_Formatter,
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks and full warnings")
    parser.set_defaults(run=run)
    return parser


def _add_explain(commands: Any) -> None:
    parser = _add_command(
        commands,
        "explain",
        _run_explain,
        "explain images, sounds, or the rows of a table: a picture and the numbers for each",
    )
    add = parser.add_argument
    add(
        "files",
        nargs="+",
        metavar="FILE",
        help="image files; or sound files (.wav, .flac, .ogg, .mp3...), which go one by one; or "
        "one table (.csv, .tsv)",
    )
    add_model(parser)
    add(
        "--sample-rate",
        type=positive_int,
        metavar="N",
        help="of the sounds that the model takes, waveforms [rows, samples] in [-1, 1], per second "
        "(default: the model's own sample_rate, else 16000)",
    )
    add("--out", required=True, metavar="DIR", help="folder for the results")
    add_method(parser)
    add("--rows", metavar="A:B", help="of a table, from 0: 0:20 are the first 20 (default: all)")
    add(
        "--columns",
        metavar="NAMES",
        help="columns of a table that the model takes, a,b,c (default: those that it was fitted "
        "on, if it knows their names, else all)",
    )
    add("--drop", metavar="NAMES", help="columns of a table to leave out: the label")
    add_run(parser)


def _add_run(commands: Any) -> None:
    from pyxai_fast.cli_run import add_options, run

    add_options(
        _add_command(commands, "run", run, "explain a whole data set of pictures, shard by shard")
    )


def _add_evaluate(commands: Any) -> None:
    from pyxai_fast.cli_evaluate import add_options, run

    parser = _add_command(
        commands, "evaluate", run, "compare methods on pictures: which explains the model best"
    )
    add_options(parser)


def _add_counterfactual(commands: Any) -> None:
    parser = _add_command(
        commands,
        "counterfactual",
        _run_counterfactual,
        "change pictures until the model takes them for another class",
    )
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="image files")
    add(
        "--to",
        required=True,
        metavar="CLASS",
        help="the class that is wanted: its number, or its name where the model has names",
    )
    add_model(parser)
    add_prior(parser, required=True)
    add("--out", required=True, metavar="DIR", help="folder for the results")
    add("--particles", type=positive_int, default=100, metavar="N", help="for each picture")
    add("--steps", type=positive_int, default=50, metavar="N", help="of the way back")
    add(
        "--strength",
        type=float,
        default=0.4,
        metavar="S",
        help="how far pictures are noised, from 0 to 1: more changes more",
    )
    add(
        "--step-size",
        type=float,
        metavar="S",
        help="how hard the class is sought (default: 0.05; 0.2 for diagonal)",
    )
    add(
        "--proximity",
        type=float,
        default=0.02,
        metavar="S",
        help="how hard particles are drawn back to the picture",
    )
    add(
        "--coupling",
        default="ensemble",
        choices=("ensemble", "diagonal"),
        help="of the particles: as the equations, or as the authors released it",
    )
    add("--seed", type=int, default=0, metavar="N", help="of all noise")
    add(
        "--set",
        action="append",
        metavar="NAME=VALUE",
        help="any other option, repeatable: eta, inflation, target_score; values are read as JSON, "
        "else as text",
        default=[],
    )
    add_run(parser)


def _add_train_prior(commands: Any) -> None:
    from pyxai_fast.cli_train_prior import add_options, train

    add_options(_add_command(commands, "train-prior", train, "train a diffusion prior on pictures"))


def _add_train_paths(commands: Any) -> None:
    from pyxai_fast.cli_train_paths import add_options, train

    parser = _add_command(
        commands, "train-paths", train, "train a model of integration paths for a classifier"
    )
    add_model(parser)
    add_options(parser)


def _add_serve(commands: Any) -> None:
    from pyxai_fast.cli_serve import add_options, run

    parser = _add_command(commands, "serve", run, "serve a model and its explanations over HTTP")
    add_model(parser)
    add_method(parser)
    add_options(parser)


def _add_info(commands: Any) -> None:
    parser = _add_command(
        commands, "info", _run_info, "say what this installation can do on this machine"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")


def _add_demo(commands: Any) -> None:
    parser = _add_command(
        commands, "demo", _run_demo, "explain handwritten digits with the built-in model"
    )
    parser.add_argument("--out", default="demo", metavar="DIR", help="folder for the results")


def _run_explain(args: argparse.Namespace) -> int:
    from pyxai_fast.cli_audio import explain_sounds
    from pyxai_fast.cli_explain import Request, explain_files
    from pyxai_fast.cli_kinds import IMAGE, SOUND, TABLE, kind_of
    from pyxai_fast.cli_table import explain_table

    kinds = {IMAGE: explain_files, SOUND: explain_sounds, TABLE: explain_table}
    explain = kinds[kind_of(args.files)]
    request = Request(
        **method_fields(args),
        images=args.files,
        out=args.out,
        rows=args.rows,
        columns=args.columns,
        drop=args.drop,
        batch_size=args.batch_size,
        file_format=args.format,
        # A bar in a log file is thousands of lines.
        progress=sys.stderr.isatty() and not args.no_progress,
        overwrite=args.overwrite,
        sample_rate=args.sample_rate,
    )
    return explain(request)


def _run_counterfactual(args: argparse.Namespace) -> int:
    from pyxai_fast.cli_counterfactual import Request, change_files

    request = Request(
        images=args.images,
        to=args.to,
        model=args.model,
        model_options=parsed_options("--model-set", args.model_set),
        preprocessing=args.preprocessing,
        prior=args.prior,
        prior_options=parsed_options("--prior-set", args.prior_set),
        out=args.out,
        particles=args.particles,
        steps=args.steps,
        strength=args.strength,
        step_size=args.step_size,
        proximity=args.proximity,
        coupling=args.coupling,
        seed=args.seed,
        options=parsed_options("--set", args.set),
        device=args.device,
        batch_size=args.batch_size,
        file_format=args.format,
        progress=sys.stderr.isatty() and not args.no_progress,
        overwrite=args.overwrite,
    )
    return change_files(request)


def _run_info(args: argparse.Namespace) -> int:
    import pyxai_fast

    facts: Mapping[str, Any] = pyxai_fast.info()
    print(json.dumps(facts, indent=2, default=str) if args.json else "\n".join(_readable(facts)))
    return 0


def _run_demo(args: argparse.Namespace) -> int:
    from pyxai_fast.demo.__main__ import main as demo_main

    quiet = [] if sys.stderr.isatty() else ["--no-progress"]
    return demo_main(["--out", args.out, *quiet])


def _readable(facts: Mapping[str, Any], indent: int = 0) -> Iterator[str]:
    """Nested facts as aligned lines."""
    width = max((len(str(key)) for key in facts), default=0)
    for key, value in facts.items():
        margin = " " * indent
        if isinstance(value, Mapping) and value:
            yield f"{margin}{key}"
            yield from _readable(value, indent + 2)
        else:
            yield f"{margin}{key!s:<{width}}  {_plain(value)}"


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(item) for item in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None or value == {} else str(value)


def _version() -> str:
    import pyxai_fast

    return str(pyxai_fast.__version__)


@contextmanager
def _one_line_warnings(*, enabled: bool) -> Iterator[None]:
    """Warnings as one line without a file name and a line of source, which tell a user nothing."""
    if not enabled:
        yield
        return

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        text = (str(message).strip().splitlines() or [""])[0]
        print(f"{PROGRAM}: warning: {text}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
