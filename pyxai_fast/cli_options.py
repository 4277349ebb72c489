"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any


def add_model(parser: argparse.ArgumentParser) -> None:
    """What is explained."""
    add = parser.add_argument
    add(
        "--model",
        required=True,
        metavar="SPEC",
        help="hf:NAME_OR_DIR (of sounds an audio classifier), torchvision:NAME, timm:NAME, "
        "python:MODULE_OR_FILE.py:NAME (of a function that returns a model, or of a fitted "
        "estimator), "
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


def add_method(parser: argparse.ArgumentParser) -> None:
    """How it is explained."""
    add = parser.add_argument
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
    add_prior(parser, required=False)
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
        type=positive_int,
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
        type=class_index,
        metavar="N",
        help="class to explain; the predicted class if left out",
    )
    add(
        "--steps",
        type=positive_int,
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
        "--precision",
        default="fp32",
        choices=("fp32", "bf16", "fp16"),
        help="of the network; sums stay in double precision",
    )
    add("--compile", action="store_true", help="compile the network first (torch.compile)")
    add(
        "--set",
        action="append",
        metavar="NAME=VALUE",
        help="any other option of the method, repeatable; values are read as JSON, else as text. "
        "For sounds also hertz=500 and seconds=0.25, the size of the segments that are hidden",
        default=[],
    )


def add_prior(parser: argparse.ArgumentParser, *, required: bool) -> None:
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


def add_run(parser: argparse.ArgumentParser) -> None:
    """Where and how a command on pictures runs, and what it writes."""
    add = parser.add_argument
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where the model runs")
    add("--batch-size", type=positive_int, default=16, metavar="N", help="files or rows per batch")
    add(
        "--format",
        default="safetensors",
        choices=("safetensors", "npz"),
        help="file format of the numbers",
    )
    add("--no-progress", action="store_true", help="no progress bar")
    add("--overwrite", action="store_true", help="replace results that are already there")


def method_fields(args: argparse.Namespace) -> dict[str, Any]:
    """What the options of `add_model`, `add_method` and `add_run` say, as fields of a
    MethodRequest."""
    return {
        "model": args.model,
        "model_options": parsed_options("--model-set", args.model_set),
        "preprocessing": args.preprocessing,
        "method": args.method,
        "gradient": args.gradient,
        "gradient_options": parsed_options("--gradient-set", args.gradient_set),
        "prior": args.prior,
        "prior_options": parsed_options("--prior-set", args.prior_set),
        "path_model": args.path_model,
        "guides": parsed_options("--guide", args.guide),
        "samples": args.samples,
        "sigma": args.sigma,
        "seed": args.seed,
        "target": args.target,
        "steps": args.steps,
        "baseline": args.baseline,
        "references": args.references,
        "output": args.output,
        "device": args.device,
        "memory_format": args.memory_format,
        "precision": args.precision,
        "compile": args.compile,
        "options": parsed_options("--set", args.set),
    }


def parsed_options(flag: str, assignments: Sequence[str]) -> dict[str, Any]:
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


def positive_int(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return value


def class_index(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be the number of a class, from 0, got {text!r}")
    return int(text)
