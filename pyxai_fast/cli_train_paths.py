"""``pyxai-fast train-paths``: pictures and a classifier in, a path model out."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from typing import Any


def add_options(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command; defaults are those of PathRecipe, which needs torch."""
    add = parser.add_argument
    add(
        "data",
        metavar="DATA",
        help="a folder of pictures, with its folders; a .npy or .npz file of [N, H, W] or "
        "[N, H, W, C], uint8 or floats from 0 to 1; or digits, those of the demo",
    )
    add("--out", required=True, metavar="DIR", help="folder for the path model")
    add("--size", type=int, metavar="N", help="side of the pictures (default: the model's)")
    add("--channels", type=int, choices=(1, 3), help="1 for grey, 3 for colour")
    add("--key", metavar="NAME", help="which array of a .npz file")
    add(
        "--latents",
        metavar="SPEC",
        help="paths lie in the latents of this autoencoder: the folder or hub name of one of "
        "diffusers, or of a pipeline in a folder (default: in pixels)",
    )
    add("--grid", type=int, default=16, metavar="N", help="paces each way; 0: one a feature")
    add("--points", type=int, default=32, metavar="N", help="steps of a path, a power of 2")
    add("--width", type=int, default=320, metavar="N", help="of the transformers")
    add("--heads", type=int, default=10, metavar="N", help="of their attention")
    add("--depth", type=int, default=2, metavar="N", help="their blocks")
    add("--levels", type=int, default=100, metavar="N", help="of noise")
    add(
        "--alphas",
        type=_range,
        default=(1.0, 20.0),
        metavar="X,X",
        help="range of the concentrations of stick-breaking paths",
    )
    add("--paths", type=int, default=10_000, metavar="N", help="that are scored, for the guides")
    add("--baseline", type=float, default=0.0, metavar="X", help="grey level where paths start")
    add(
        "--output",
        default="logit",
        choices=("logit", "prob", "logprob", "margin"),
        help="which score of the predicted class is explained",
    )
    add("--steps", type=int, default=100_000, metavar="N", help="batches to train on")
    add("--batch-size", type=int, default=64, metavar="N", help="paths in a batch")
    add("--learning-rate", type=float, default=2e-4, metavar="X", help="at its peak")
    add("--weight-decay", type=float, default=1e-5, metavar="X", help="of AdamW")
    add("--warm-up", type=int, default=500, metavar="N", help="steps until that peak")
    add("--gradient-clip", type=float, default=1.0, metavar="X", help="largest norm of a gradient")
    add("--ema", type=float, default=0.999, metavar="X", help="decay of the weights' running mean")
    add("--held-out", type=float, default=0.1, metavar="X", help="share that is only measured on")
    add("--bf16", action="store_true", help="multiply in bfloat16")
    add("--seed", type=int, default=0, metavar="N", help="of all random numbers")
    add("--threads", type=int, metavar="N", help="of the CPU (default: torch's own)")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where to train")
    add(
        "--checkpoint-every",
        type=int,
        default=1000,
        metavar="N",
        help="steps between checkpoints, each with the held-out losses",
    )
    add("--resume", action="store_true", help="go on from what is in the folder")
    add("--overwrite", action="store_true", help="replace an earlier result")
    add("--no-progress", action="store_true", help="no progress bar")


def train(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code.

    Raises:
        DataError: the pictures cannot be used.
        ArgumentError: an option does not fit, or the folder is taken.
        ModelSpecError: the model, or the autoencoder, cannot be loaded.
        TrainingError: the loss is no longer a number.
    """
    import torch

    from pyxai_fast.cli_images import UsageError, choose_device
    from pyxai_fast.cli_options import parsed_options
    from pyxai_fast.models.black_box import BlackBox
    from pyxai_fast.models.preprocessing_file import read_preprocessing
    from pyxai_fast.models.spec import load_model
    from pyxai_fast.path_models.codec import Codec, Latents, Pixels, load_autoencoder
    from pyxai_fast.path_models.recipe import PathRecipe
    from pyxai_fast.path_models.training import train_paths
    from pyxai_fast.priors.training_data import load_pictures

    asked: dict[str, Any] = {field.name: getattr(args, field.name) for field in fields(PathRecipe)}
    recipe = PathRecipe(**asked)
    device = choose_device(args.device)
    if args.threads is not None:
        if args.threads < 1:
            raise UsageError(f"--threads: must be at least 1, got {args.threads}")
        torch.set_num_threads(args.threads)
    preprocessing = None
    if args.preprocessing is not None:
        preprocessing = read_preprocessing(args.preprocessing)
    options = parsed_options("--model-set", args.model_set)
    model = load_model(args.model, device, options=options, preprocessing=preprocessing)
    if isinstance(model.module, BlackBox):
        raise UsageError("--model: gradients must go through it, got one that only answers")
    size, channels = args.size, args.channels
    if size is None and model.preprocessing.size is not None:
        size = model.preprocessing.size[0]
    if channels is None:
        channels = model.preprocessing.channels
    pictures = load_pictures(args.data, size=size, channels=channels, key=args.key)
    codec: Codec = Pixels()
    if args.latents is not None:
        codec = Latents(load_autoencoder(args.latents).to(device), max_rows=args.batch_size)
    sides = "x".join(map(str, pictures.pixels.shape[1:]))
    print(f"{len(pictures)} pictures of {sides}", flush=True)
    report = train_paths(
        pictures,
        model.module,
        recipe,
        args.out,
        codec=codec,
        preprocessing=model.preprocessing,
        device=device,
        resume=args.resume,
        overwrite=args.overwrite,
        checkpoint_every=args.checkpoint_every,
        # A bar in a log file is thousands of lines.
        progress=sys.stderr.isatty() and not args.no_progress,
    )
    seconds = sum(report["seconds"].values())
    print(
        f"{report['parameters']:,} parameters, {seconds:.0f} s; use it with pyxai-fast explain "
        f"--method diffusion_ig --path-model {args.out}"
    )
    return 0


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be two numbers with a comma between them, got {text!r}"
        ) from None
    return low, high
