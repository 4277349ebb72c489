"""The command line: ``pyxai-fast explain | counterfactual | train-prior | train-paths | info
| demo``.

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
        prog=PROGRAM, description="Explain what PyTorch models see, at the speed of the hardware."
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {_version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_explain(commands)
    _add_counterfactual(commands)
    _add_train_prior(commands)
    _add_train_paths(commands)
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
    _add_model(parser)
    add(
        "--sample-rate",
        type=_positive_int,
        metavar="N",
        help="of the sounds that the model takes, waveforms [rows, samples] in [-1, 1], per second "
        "(default: the model's own sample_rate, else 16000)",
    )
    add("--out", required=True, metavar="DIR", help="folder for the results")
    add(
        "--method",
        default="integrated_gradients",
        metavar="NAME",
        help="attribution method; one that is not there, such as ?, lists them",
    )
    add(
        "--gradient",
        default="autograd",
        metavar="NAME",
        help="how slopes are found: autograd, or by only asking the model: likelihood_ratio, or "
        "freemcg (on the data manifold, with --prior)",
    )
    _add_prior(parser, required=False)
    add(
        "--path-model",
        metavar="SPEC",
        help="which paths there are, for diffusion_ig: the folder of a path model, or demo",
    )
    add(
        "--guide",
        action="append",
        metavar="NAME=WEIGHT",
        help="what the paths of diffusion_ig are led to, repeatable: faithful, sparse (default: "
        "faithful=10 and sparse=5; faithful=0 alone: nothing)",
        default=[],
    )
    add(
        "--samples",
        type=_positive_int,
        metavar="N",
        help="noisy copies (or particles) for each point: of the gradient if it takes them, else "
        "of the method; queries of a method that hides segments",
    )
    add(
        "--sigma",
        type=float,
        metavar="S",
        help="the noise's standard deviation, pixels being from 0 to 1: of the gradient, else of "
        "the method",
    )
    add("--seed", type=int, metavar="N", help="of all random numbers (default: 0)")
    add(
        "--gradient-set",
        action="append",
        metavar="NAME=VALUE",
        help="any other option of the gradient, repeatable: distribution, blocks, mode...; values "
        "as for --set",
        default=[],
    )
    add(
        "--target",
        type=_class_index,
        metavar="N",
        help="class to explain; the predicted class if left out",
    )
    add(
        "--steps",
        type=_positive_int,
        metavar="N",
        help="points on the path, for methods that have one (default: the method's own, 50)",
    )
    add(
        "--baseline",
        metavar="NAME",
        help="what attributions are relative to, in pixels: black, white, mean (the model's mean "
        "colour), blur (the picture, blurred) or a grey level from 0 to 1 (default: black). What "
        "stands for hidden segments may be segment_mean, their default, or segment_grey too. Of "
        "sounds: silence, their default, quiet (30 dB below the sound), or so many decibels, as in "
        "-20. Of tables: mean (of each column, over all rows of the file; their default), zero or "
        "a number",
    )
    add(
        "--references",
        nargs="+",
        default=(),
        metavar="FILE",
        help="images, sounds, or a table, that expected_gradients starts from, in place of a "
        "baseline; for the other methods on tables, a table of training data whose mean is the "
        "baseline",
    )
    add("--rows", metavar="A:B", help="of a table, from 0: 0:20 are the first 20 (default: all)")
    add(
        "--columns",
        metavar="NAMES",
        help="columns of a table that the model takes, a,b,c (default: those that it was fitted "
        "on, if it knows their names, else all)",
    )
    add("--drop", metavar="NAMES", help="columns of a table to leave out: the label")
    add(
        "--output",
        choices=("logit", "prob", "logprob", "margin"),
        help="which score of the class is explained (default: prob for methods that hide segments, "
        "else logit)",
    )
    add(
        "--memory-format",
        default="auto",
        choices=("auto", "contiguous", "channels_last"),
        help="layout of model inputs in memory",
    )
    add(
        "--set",
        action="append",
        metavar="NAME=VALUE",
        help="any other option of the method, repeatable; values are read as JSON, else as text. "
        "For sounds also hertz=500 and seconds=0.25, the size of the segments that are hidden",
        default=[],
    )
    _add_run(parser)


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
    _add_model(parser)
    _add_prior(parser, required=True)
    add("--out", required=True, metavar="DIR", help="folder for the results")
    add("--particles", type=_positive_int, default=100, metavar="N", help="for each picture")
    add("--steps", type=_positive_int, default=50, metavar="N", help="of the way back")
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
    _add_run(parser)


def _add_model(parser: argparse.ArgumentParser) -> None:
    """What is explained."""
    add = parser.add_argument
    add(
        "--model",
        required=True,
        metavar="SPEC",
        help="hf:NAME_OR_DIR, torchvision:NAME, timm:NAME, python:MODULE_OR_FILE.py:NAME (of a "
        "function that returns a model, or of a fitted estimator), "
        "onnx:FILE, the address of a model server (http://HOST/v2/models/NAME/infer or "
        "http://HOST/v1/models/NAME:predict) or demo",
    )
    add(
        "--model-set",
        action="append",
        metavar="NAME=VALUE",
        help="an option of the model's loader, repeatable: answers, budget, cache, dtype..., for "
        "servers also timeout, retries, token_env...; values as for --set",
        default=[],
    )
    add(
        "--preprocessing",
        metavar="FILE",
        help="how pictures become model inputs, in place of the model's own: JSON with mean, std, "
        "size..., a preprocessor_config.json, or the run.json of an earlier run",
    )


def _add_prior(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "--prior",
        required=required,
        metavar="SPEC",
        help="what pictures look like: the folder or hub name of a diffusers pipeline, or demo",
    )
    parser.add_argument(
        "--prior-set",
        action="append",
        metavar="NAME=VALUE",
        help="an option of the prior's loader, repeatable: dtype, channels_last, compile, "
        "max_rows; values as for --set",
        default=[],
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    """Where and how a command on pictures runs, and what it writes."""
    add = parser.add_argument
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where the model runs")
    add("--batch-size", type=_positive_int, default=16, metavar="N", help="files or rows per batch")
    add(
        "--format",
        default="safetensors",
        choices=("safetensors", "npz"),
        help="file format of the numbers",
    )
    add("--no-progress", action="store_true", help="no progress bar")
    add("--overwrite", action="store_true", help="replace results that are already there")


def _add_train_prior(commands: Any) -> None:
    from pyxai_fast.cli_train_prior import add_options, train

    add_options(_add_command(commands, "train-prior", train, "train a diffusion prior on pictures"))


def _add_train_paths(commands: Any) -> None:
    from pyxai_fast.cli_train_paths import add_options, train

    parser = _add_command(
        commands, "train-paths", train, "train a model of integration paths for a classifier"
    )
    _add_model(parser)
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
        images=args.files,
        model=args.model,
        model_options=_options("--model-set", args.model_set),
        preprocessing=args.preprocessing,
        out=args.out,
        method=args.method,
        gradient=args.gradient,
        gradient_options=_options("--gradient-set", args.gradient_set),
        prior=args.prior,
        prior_options=_options("--prior-set", args.prior_set),
        path_model=args.path_model,
        guides=_options("--guide", args.guide),
        samples=args.samples,
        sigma=args.sigma,
        seed=args.seed,
        target=args.target,
        steps=args.steps,
        baseline=args.baseline,
        references=args.references,
        output=args.output,
        rows=args.rows,
        columns=args.columns,
        drop=args.drop,
        device=args.device,
        batch_size=args.batch_size,
        memory_format=args.memory_format,
        options=_options("--set", args.set),
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
        model_options=_options("--model-set", args.model_set),
        preprocessing=args.preprocessing,
        prior=args.prior,
        prior_options=_options("--prior-set", args.prior_set),
        out=args.out,
        particles=args.particles,
        steps=args.steps,
        strength=args.strength,
        step_size=args.step_size,
        proximity=args.proximity,
        coupling=args.coupling,
        seed=args.seed,
        options=_options("--set", args.set),
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


def _options(flag: str, assignments: Sequence[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"{flag}: must be NAME=VALUE, got {assignment!r}")
        if name in options:
            raise ValueError(f"{flag}: {name} is given twice")
        try:
            options[name] = json.loads(text)
        except json.JSONDecodeError:
            options[name] = {"True": True, "False": False, "None": None}.get(text, text)
    return options


def _positive_int(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return value


def _class_index(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be the number of a class, from 0, got {text!r}")
    return int(text)


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
