"""Where ``pyxai-fast run`` runs: in this process, on a Ray cluster, or under torchrun."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from pyxai_fast.cli_options import positive_int

if TYPE_CHECKING:
    import torch

    from pyxai_fast.jobs import JobSummary
    from pyxai_fast.jobs.on_ranks import Ranks

    # Of what makes the explainer, sources, the folder and options of `explain_dataset`.
    Explain = Callable[..., JobSummary | None]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The arguments that say so; torchrun says it in the environment."""
    add = parser.add_argument_group(
        "many machines", "by Ray Data, or by torchrun: torchrun ... -m pyxai_fast run ..."
    ).add_argument
    add("--ray", action="store_true", help="explain on a Ray cluster")
    add(
        "--ray-address",
        metavar="ADDRESS",
        help="HOST:PORT of its head; auto: that which this machine is in; local: this machine "
        "alone (default: RAY_ADDRESS, else auto, else local)",
    )
    add(
        "--ray-workers",
        type=positive_int,
        metavar="N",
        help="processes that explain, each with a model of its own (default: as many as the "
        "cluster has room for)",
    )
    add(
        "--ray-gpus-per-worker",
        type=_amount,
        metavar="X",
        help="GPUs of each, or a part of one (default: 1 if the cluster has GPUs)",
    )
    add(
        "--ray-cpus-per-worker",
        type=_amount,
        metavar="X",
        help="cores of each (default: 1, and 1 for each process of --workers)",
    )


@contextmanager
def machines(args: argparse.Namespace) -> Iterator[tuple[torch.device, Explain]]:
    """Where the model runs, and what explains a data set there, while the block runs.

    Raises:
        UsageError: options that cannot be used together.
        ArgumentError: the cluster is not there.
    """
    from pyxai_fast.cli_images import UsageError
    from pyxai_fast.jobs.on_ranks import Ranks

    ranks = Ranks.here()
    flags = [name for name in vars(args) if name.startswith("ray_") and vars(args)[name]]
    if flags and not args.ray:
        raise UsageError(f"--{flags[0].replace('_', '-')}: needs --ray")
    if args.ray and ranks is not None:
        raise UsageError("--ray: must not be given under torchrun; use one of them")
    if args.ray:
        with _on_ray(args) as place:
            yield place
    elif ranks is not None:
        yield _on_ranks(args, ranks)
    else:
        yield _here(args)


def _here(args: argparse.Namespace) -> tuple[torch.device, Explain]:
    from pyxai_fast.cli_images import choose_device
    from pyxai_fast.jobs import explain_dataset

    device = choose_device(args.device)
    return device, partial(explain_dataset, workers=_readers(args, device))


def _on_ranks(args: argparse.Namespace, ranks: Ranks) -> tuple[torch.device, Explain]:
    import torch

    from pyxai_fast.cli_images import UsageError, choose_device
    from pyxai_fast.jobs.on_ranks import explain_on_ranks

    device = choose_device(args.device)
    if device.type == "cuda":
        if ranks.local >= torch.cuda.device_count():
            raise UsageError(
                f"--device: torchrun must start as many processes as there are GPUs, "
                f"{torch.cuda.device_count()}, got one more (LOCAL_RANK {ranks.local})"
            )
        device = torch.device("cuda", ranks.local)
        torch.cuda.set_device(device)
    return device, partial(explain_on_ranks, ranks=ranks, workers=_readers(args, device))


@contextmanager
def _on_ray(args: argparse.Namespace) -> Iterator[tuple[torch.device, Explain]]:
    import torch

    from pyxai_fast.cli_images import UsageError
    from pyxai_fast.jobs.on_ray import Share, connected, explain_on_ray

    gpus = args.ray_gpus_per_worker
    if (args.device == "cuda" and gpus == 0) or (args.device == "cpu" and gpus):
        raise UsageError(f"--ray-gpus-per-worker: must suit --device {args.device}, got {gpus:g}")
    with connected(args.ray_address) as resources:
        if gpus is None:
            there = args.device == "auto" and resources.get("GPU", 0.0) >= 1.0
            gpus = 1.0 if there or args.device == "cuda" else 0.0
        device = torch.device("cuda" if gpus else "cpu")
        # A GPU is kept waiting by one core that reads; a core explains longer than it reads.
        readers = args.workers if args.workers is not None else 2 if gpus else 0
        cpus = args.ray_cpus_per_worker
        share = Share(1.0 + readers if cpus is None else cpus, gpus, readers)
        yield device, partial(explain_on_ray, workers=args.ray_workers, share=share)


def _readers(args: argparse.Namespace, device: torch.device) -> int:
    """Processes that read pictures ahead."""
    if args.workers is not None:
        return int(args.workers)
    return min(os.cpu_count() or 1, 4 if device.type == "cuda" else 1)


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text!r}")
    return value
