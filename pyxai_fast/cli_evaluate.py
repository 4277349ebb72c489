"""``pyxai-fast evaluate``: pictures and several methods in, a table and figures out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pyxai_fast.cli_options import add_model, add_prior, class_index, parsed_options, positive_int

if TYPE_CHECKING:
    from pyxai_fast.cli_explainer import MethodRequest

METHODS = "integrated_gradients,smooth_grad,saliency"


class ComparedMethod(NamedTuple):
    """A method of the comparison, and what is to be said of its budget."""

    request: MethodRequest
    note: str | None = None


def add_options(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    add = parser.add_argument
    add(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="folders of pictures, patterns in quotes, files, lists of files or .tar files, as for "
        "run",
    )
    add_model(parser)
    add("--out", required=True, metavar="DIR", help="folder for the results")
    add(
        "--methods",
        default=METHODS,
        metavar="NAMES",
        help="attribution methods, a,b,c; LABEL=NAME has one twice, with other options. Random "
        "maps and a Gaussian at the centre are always beside them",
    )
    add(
        "--metrics",
        metavar="NAMES",
        help="what maps are judged by, a,b,c; one that is not there, such as ?, lists them "
        "(default: insertion,deletion,road, and with --masks those of localisation)",
    )
    add(
        "--masks",
        metavar="FOLDER",
        help="where something is known to matter: files with the stems of the pictures, white is "
        "inside; those in folders within it are of pictures in folders of the same names",
    )
    add(
        "--budget",
        type=positive_int,
        metavar="N",
        help="evaluations of the model for each map, of all methods: gradients of those that take "
        "gradients, else queries",
    )
    order = parser.add_mutually_exclusive_group()
    for name, meaning in (
        ("signed", "rank pixels by what speaks for the class (the default)"),
        ("absolute", "rank pixels by size"),
        ("both", "judge both"),
    ):
        order.add_argument(
            f"--{name}", dest="order", action="store_const", const=name, help=meaning
        )
    add(
        "--target",
        type=class_index,
        metavar="N",
        help="class to explain; if left out each picture's own, of lists that have a target, or "
        "else the predicted class",
    )
    add("--seed", type=int, default=0, metavar="N", help="of all random numbers")
    add(
        "--set",
        action="append",
        metavar="NAME=VALUE",
        help="an option of every method that takes it, or METHOD.NAME=VALUE of one; repeatable; "
        "values are read as JSON, else as text",
        default=[],
    )
    add(
        "--baseline",
        metavar="NAME",
        help="what attributions are relative to, of methods that have a baseline: black, white, "
        "mean, blur or a grey level from 0 to 1; of hidden segments also segment_mean, their "
        "default, or segment_grey",
    )
    add(
        "--references",
        nargs="+",
        default=(),
        metavar="FILE",
        help="pictures that expected_gradients starts from",
    )
    add(
        "--gradient",
        default="autograd",
        metavar="NAME",
        help="how methods that take slopes find them: autograd, likelihood_ratio or freemcg",
    )
    add(
        "--gradient-set",
        action="append",
        metavar="NAME=VALUE",
        help="an option of the gradient, repeatable; values as for --set",
        default=[],
    )
    add_prior(parser, required=False)
    add(
        "--path-model",
        metavar="SPEC",
        help="for diffusion_ig: the folder of a path model, or demo",
    )
    add(
        "--output",
        choices=("logit", "prob", "logprob", "margin"),
        help="which score of the class is explained (default: prob for methods that hide segments, "
        "else logit); metrics watch the probability, infidelity this score, or else the logit",
    )
    add(
        "--memory-format",
        default="auto",
        choices=("auto", "contiguous", "channels_last"),
        help="layout of model inputs in memory",
    )
    add("--precision", default="fp32", choices=("fp32", "bf16", "fp16"), help="of the network")
    add("--compile", action="store_true", help="compile the network first (torch.compile)")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where the model runs")
    add("--batch-size", type=positive_int, default=16, metavar="N", help="pictures per batch")
    add("--limit", type=positive_int, metavar="N", help="only the first N pictures")
    add("--resume", action="store_true", help="go on with the comparison in the folder")
    add("--overwrite", action="store_true", help="begin anew, whatever is in the folder")
    add("--no-progress", action="store_true", help="no progress bar, and no lines in its place")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code.

    Raises:
        UsageError, ArgumentError: an option that cannot be used, or a folder.
        ModelSpecError: the model cannot be loaded.
        QueryError: a model that only answers could not; results so far are kept.
    """
    from pyxai_fast.cli_explainer import explainer_of, requested_model
    from pyxai_fast.cli_images import check_packages, choose_device, surroundings
    from pyxai_fast.cli_run import check_kinds, settings_of
    from pyxai_fast.evaluation.folder import Folder, compare_folder
    from pyxai_fast.evaluation.mask_folder import MaskFolder
    from pyxai_fast.evaluation.metrics import DEFAULT, chosen
    from pyxai_fast.jobs import find_items
    from pyxai_fast.models.black_box import BlackBox
    from pyxai_fast.models.from_url import shown_spec

    check_packages("evaluate", "npz")
    check_kinds(args.sources)
    asked = asked_methods(args)
    names = DEFAULT if args.metrics is None else _names("--metrics", args.metrics)
    metrics = chosen(names, args.masks is not None)
    device = choose_device(args.device)
    makers = {label: explainer_of(each.request, device) for label, each in asked.items()}
    masks = None if args.masks is None else MaskFolder(args.masks)
    items = find_items(args.sources)[: args.limit]
    _check_masks(args.masks, masks, [item.key for item in items])
    folder = Folder(Path(args.out), resume=args.resume, overwrite=args.overwrite)
    for label, each in asked.items():
        if each.note:
            print(f"pyxai-fast: {label}: {each.note}", file=sys.stderr)

    model = requested_model(next(iter(asked.values())).request, device)
    try:
        comparison, bad = compare_folder(
            folder,
            {label: make(model) for label, make in makers.items()},
            items,
            metrics=metrics,
            orders=_ORDERS[args.order],
            masks=masks,
            target=args.target,
            seed=args.seed,
            budget=args.budget,
            batch_size=args.batch_size,
            memory_format=args.memory_format,
            output=args.output,
            progress=not args.no_progress,
            notes={label: each.note for label, each in asked.items() if each.note},
            settings={label: settings_of(each.request) for label, each in asked.items()},
            about={
                "model": shown_spec(args.model),
                "preprocessing": model.preprocessing.as_dict(),
                **surroundings(device),
            },
        )
    except BaseException as error:
        if folder.begun:
            stop = "" if isinstance(error, KeyboardInterrupt) else " (once that is mended)"
            print(
                f"pyxai-fast: what is done is kept; --resume goes on from there{stop}",
                file=sys.stderr,
            )
        raise
    finally:
        if isinstance(model.module, BlackBox):
            model.module.close()
    if comparison is None:
        print("pyxai-fast: error: no picture could be read", file=sys.stderr)
        return 1
    print(f"{comparison.table()}\n")
    skipped = f"; {bad} could not be read" if bad else ""
    shown = ", ".join(folder.written)
    print(f"{comparison.about['pictures']} pictures compared{skipped}; {shown} are in {folder.out}")
    return 1 if bad else 0


_ORDERS = {
    None: ("signed",),
    "signed": ("signed",),
    "absolute": ("absolute",),
    "both": ("signed", "absolute"),
}


# ---------------------------------------------------------------- what was asked for


def asked_methods(args: argparse.Namespace) -> dict[str, ComparedMethod]:
    """The methods by label, each with its options.

    Raises:
        UsageError, ArgumentError: naming the option.
    """
    from pyxai_fast.cli_images import UsageError
    from pyxai_fast.combinations import COMBINATIONS
    from pyxai_fast.errors import near
    from pyxai_fast.evaluation.budget import options_of
    from pyxai_fast.evaluation.controls import CONTROLS
    from pyxai_fast.methods import METHODS

    known = (*METHODS, *COMBINATIONS)
    labels: dict[str, str] = {}
    for part in _names("--methods", args.methods):
        label, equals, method = part.partition("=")
        method = method if equals else label
        if label in CONTROLS and not equals:  # it is there anyway
            continue
        if method not in known:
            raise UsageError(
                f"--methods: must be among {', '.join(sorted(known))}, got {method!r}"
                f"{near(method, known)}"
            )
        if not label or label in labels or label in CONTROLS:
            raise UsageError(
                f"--methods: must have a name each, none of them {' or '.join(CONTROLS)}, got "
                f"{label!r}{' twice' if label in labels else ''}; LABEL={method} gives another"
            )
        labels[label] = method
    if not labels:
        raise UsageError(f"--methods: must name at least one method, got {args.methods!r}")
    for_all, own = _set_options(args.set, list(labels))
    for name in for_all:
        if not any(name in options_of(method) for method in labels.values()):
            raise UsageError(f"--set: none of the methods takes {name}")
    asked = {}
    for label, method in labels.items():
        taken = {name: value for name, value in for_all.items() if name in options_of(method)}
        asked[label] = _within_budget(args, method, taken | own[label])
    _check_used(args, [each.request for each in asked.values()])
    return asked


def _within_budget(
    args: argparse.Namespace, method: str, options: dict[str, Any]
) -> ComparedMethod:
    from pyxai_fast.cli_images import UsageError
    from pyxai_fast.evaluation.budget import scaled
    from pyxai_fast.gradients import LikelihoodRatio

    request = _request(args, method, options)
    if args.budget is None:
        return ComparedMethod(request)
    given = dict(options)
    if request.gradient == "freemcg":
        raise UsageError("--budget: cannot be kept with --gradient freemcg; --methods freemcg can")
    if request.gradient == "likelihood_ratio":
        given["gradient"] = LikelihoodRatio(**request.gradient_options)
    fitted = scaled(method, given, args.budget)
    fitted.options.pop("gradient", None)
    return ComparedMethod(_request(args, method, fitted.options), fitted.note)


def _request(args: argparse.Namespace, method: str, options: dict[str, Any]) -> MethodRequest:
    """One method with its options, and those of the command that it takes."""
    from dataclasses import replace

    from pyxai_fast.cli_explainer import MethodRequest, has_baseline, method_class
    from pyxai_fast.cli_images import UsageError
    from pyxai_fast.combinations import COMBINATIONS
    from pyxai_fast.evaluation.budget import options_of
    from pyxai_fast.gradients import GRADIENTS
    from pyxai_fast.methods import ExpectedGradients, PerturbationMethod
    from pyxai_fast.queries.hidden import KINDS

    if args.gradient not in GRADIENTS:
        raise UsageError(
            f"--gradient: must be one of {', '.join(GRADIENTS)}, got {args.gradient!r}"
        )
    kind, takes = method_class(method), options_of(method)
    combination = COMBINATIONS.get(method)
    needed = {} if combination is None else combination.needed
    own_gradient = combination is not None and combination.axis == "gradient"
    gradient = args.gradient if "gradient" in takes and not own_gradient else "autograd"
    of_gradient = parsed_options("--gradient-set", args.gradient_set)
    draws = "seed" in takes or gradient != "autograd"
    prior = args.prior if "prior" in needed or gradient == "freemcg" else None
    referred = issubclass(kind, ExpectedGradients)
    request = MethodRequest(
        model=args.model,
        model_options=parsed_options("--model-set", args.model_set),
        preprocessing=args.preprocessing,
        method=method,
        gradient=gradient,
        gradient_options={} if gradient == "autograd" else of_gradient,
        prior=prior,
        prior_options={} if prior is None else parsed_options("--prior-set", args.prior_set),
        path_model=args.path_model if "path_model" in needed else None,
        seed=args.seed if draws and "seed" not in {*options, *of_gradient} else None,
        target=args.target,
        references=args.references if referred else (),
        output=args.output,
        device=args.device,
        memory_format=args.memory_format,
        precision=args.precision,
        compile=args.compile,
        options=options,
    )
    of_segments = args.baseline in KINDS and not issubclass(kind, PerturbationMethod)
    if not has_baseline(request) or request.references or of_segments:
        return request
    return replace(request, baseline=args.baseline)


def _set_options(
    assignments: Sequence[str], labels: Sequence[str]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What --set says of all methods, and of each."""
    from pyxai_fast.cli_images import UsageError
    from pyxai_fast.errors import near

    general: list[str] = []
    own: dict[str, list[str]] = {label: [] for label in labels}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        label, dot, option = name.rpartition(".")
        if not dot:
            general.append(assignment)
            continue
        if label not in own:
            raise UsageError(
                f"--set: must be of one of the methods {', '.join(labels)}, got {label!r}"
                f"{near(label, labels)}"
            )
        own[label].append(f"{option}{equals}{value}")
    return parsed_options("--set", general), {
        label: parsed_options(f"--set {label}", some) for label, some in own.items()
    }


def _check_used(args: argparse.Namespace, requests: Sequence[MethodRequest]) -> None:
    """Refuses options that none of the methods takes."""
    from pyxai_fast.cli_images import UsageError

    given: Mapping[str, bool] = {
        "prior": args.prior is not None or bool(args.prior_set),
        "path_model": args.path_model is not None,
        "references": bool(args.references),
        "baseline": args.baseline is not None,
        "gradient_options": args.gradient != "autograd" or bool(args.gradient_set),
    }
    for name, was in given.items():
        if name == "gradient_options":
            used = any(request.gradient != "autograd" for request in requests)
        else:
            used = any(bool(getattr(request, name)) for request in requests)
        if was and not used:
            flag = "gradient" if name == "gradient_options" else name.replace("_", "-")
            raise UsageError(f"--{flag}: none of the methods takes one")


def _check_masks(folder: str | None, masks: Any, pictures: Sequence[str]) -> None:
    from pyxai_fast.cli_images import UsageError

    if masks is None:
        return
    masks.check(pictures)
    without = [picture for picture in pictures if not masks.has(picture)]
    if len(without) == len(pictures):
        raise UsageError(
            f"--masks: must have files with the stems of the pictures, got none in {folder}; the "
            f"first picture is {pictures[0]}"
        )
    if without:
        print(
            f"pyxai-fast: {len(without)} of {len(pictures)} pictures have no mask, {without[0]} "
            "for one: they do not count where masks are needed",
            file=sys.stderr,
        )


def _names(flag: str, text: str) -> list[str]:
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        from pyxai_fast.cli_images import UsageError

        raise UsageError(f"{flag}: must be names with commas between them, got {text!r}")
    return names
