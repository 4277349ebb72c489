"""``pyxai-fast train-prior``: pictures in, a diffusion prior out."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from typing import Any


def add_options(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command; defaults are those of PriorRecipe, which needs torch."""
    add = parser.add_argument
    add(
        "data",
        metavar="DATA",
        help="a folder of pictures, with its folders; a .npy or .npz file of [N, H, W] or "
        "[N, H, W, C], uint8 or floats from 0 to 1; or digits, those of the demo",
    )
    add("--out", required=True, metavar="DIR", help="folder for the prior")
    add("--size", type=int, metavar="N", help="side of the pictures; arrays keep their own without")
    add(
        "--channels",
        type=int,
        choices=(1, 3),
        help="1 for grey, 3 for colour (default: as the pictures are)",
    )
    add("--key", metavar="NAME", help="which array of a .npz file")
    add(
        "--widths",
        type=_numbers,
        default=(64, 128, 128),
        metavar="N,N...",
        help="channels of the network at each resolution, each half of the one before",
    )
    add("--layers", type=int, default=2, metavar="N", help="residual blocks at each resolution")
    add(
        "--attention",
        type=_numbers,
        default=(),
        metavar="N,N...",
        help="sides of the feature maps that have self-attention (default: none)",
    )
    add("--dropout", type=float, default=0.0, metavar="P", help="in residual blocks")
    add("--steps", type=int, default=20_000, metavar="N", help="batches to train on")
    add("--batch-size", type=int, default=64, metavar="N", help="pictures in a batch")
    add("--learning-rate", type=float, default=4e-4, metavar="X", help="at its peak")
    add("--weight-decay", type=float, default=0.0, metavar="X", help="of AdamW")
    add("--warm-up", type=int, default=500, metavar="N", help="steps until that peak")
    add("--gradient-clip", type=float, default=1.0, metavar="X", help="largest norm of a gradient")
    add("--ema", type=float, default=0.999, metavar="X", help="decay of the weights' running mean")
    add("--flip", action="store_true", help="mirror pictures, left to right, at random")
    add("--shift", type=int, default=0, metavar="N", help="move pictures by up to N pixels")
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
        help="steps between checkpoints, each with the held-out loss and new samples",
    )
    add("--resume", action="store_true", help="go on from the folder's checkpoint")
    add("--overwrite", action="store_true", help="replace an earlier result")
    add("--no-progress", action="store_true", help="no progress bar")


def train(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code.

    Raises:
        DataError: the pictures cannot be used.
        ArgumentError: an option does not fit, or the folder is taken.
        TrainingError: the loss is no longer a number.
    """
    import torch

    from pyxai_fast.cli_images import UsageError, choose_device
    from pyxai_fast.priors.recipe import PriorRecipe
    from pyxai_fast.priors.training import train_prior
    from pyxai_fast.priors.training_data import load_pictures

    device = choose_device(args.device)
    if args.threads is not None:
        if args.threads < 1:
            raise UsageError(f"--threads: must be at least 1, got {args.threads}")
        torch.set_num_threads(args.threads)
    asked: dict[str, Any] = {
        field.name: getattr(args, field.name)
        for field in fields(PriorRecipe)
        if field.name not in ("size", "channels", "norm_groups", "levels")
    }
    if args.size is not None:  # what is wrong with the recipe is said before pictures are read
        PriorRecipe(size=args.size, **asked)
    pictures = load_pictures(args.data, size=args.size, channels=args.channels, key=args.key)
    recipe = PriorRecipe(size=pictures.pixels.shape[3], channels=pictures.pixels.shape[1], **asked)
    count = len(pictures.pixels)
    print(f"{count} pictures of {recipe.channels}x{recipe.size}x{recipe.size}", flush=True)
    report = train_prior(
        pictures,
        recipe,
        args.out,
        device=device,
        resume=args.resume,
        overwrite=args.overwrite,
        checkpoint_every=args.checkpoint_every,
        # A bar in a log file is thousands of lines.
        progress=sys.stderr.isatty() and not args.no_progress,
    )
    print(
        f"{report['parameters']:,} parameters, held-out loss {report['held_out_loss']:.4f}, "
        f"{report['seconds']:.0f} s; use it with DiffusionPrior.from_pretrained({args.out!r})"
    )
    return 0


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be whole numbers with commas between them, got {text!r}"
        ) from None
