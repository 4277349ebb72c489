"""A counterfactual of one picture of 32x32: 100 particles, 50 steps; what the networks take of it.

    python benchmarks/bench_counterfactual.py [--quick] [--json OUT]

The network of the prior and the classifier are those of the demo. All contenders go the same steps
from the same noise; first they are checked to end with the same particles, then they draw their own
and take turns, and medians are compared.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench_integrated_gradients import summary, take_turns
from cf_contenders import (
    CAREFUL,
    CAREFUL_DIAGONAL,
    OURS,
    OURS_DIAGONAL,
    OURS_DIAGONAL_SHORT,
    OURS_SHORT,
    RELEASED,
    UNROUNDED,
    Noise,
    coupling_of,
    key_noise,
    made,
    method,
    network,
)
from machine import machine
from torch import Tensor, nn

from pyxai_fast import Cost
from pyxai_fast.demo.data import load_digits
from pyxai_fast.demo.model import load_demo_model
from pyxai_fast.demo.prior import load_demo_prior
from pyxai_fast.priors import DiffusionPrior

PARTICLES, STEPS, THREADS = 100, 50, 2
# Largest root mean square difference of the particles' pixels to ours. Rounding grows along the
# steps. Eight bits, and sixteen in the prior, change which way particles with a weight near zero
# are pushed: those are other samples of the same computation.
AGREEMENT = {
    CAREFUL: 0.01,
    CAREFUL_DIAGONAL: 0.01,
    UNROUNDED: 0.01,
    RELEASED: 0.2,
    OURS_SHORT: 0.2,
    OURS_DIAGONAL_SHORT: 0.2,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="20 particles, 5 steps, 2 rounds")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    particles, steps, rounds = (20, 5, 2) if options.quick else (PARTICLES, STEPS, 3)
    images, labels = load_digits("test")
    model, prior = load_demo_model(), load_demo_prior()
    short = load_demo_prior(dtype=torch.bfloat16)
    result = {
        "machine_info": machine(),
        "settings": {
            "n_particles": particles,
            "n_steps": steps,
            "rounds": rounds,
            "threads": THREADS,
            "dtype": "float32",
            "prior_parameters": sum(p.numel() for p in prior.unet.parameters()),
        },
        **run(model, prior, short, images[:1], (int(labels[0]) + 1) % 10, particles, steps, rounds),
    }
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def run(
    model: nn.Module,
    prior: DiffusionPrior,
    short: DiffusionPrior,
    image: Tensor,
    target: int,
    particles: int,
    steps: int,
    rounds: int,
) -> dict[str, Any]:
    rows = best_rows(prior, image, particles)

    def call(name: str, noise: Noise | None = None) -> Callable[[], Tensor]:
        network = short if "bfloat16" in name else prior
        return made(name, model, network, image, target, particles, steps, noise, rows)

    noise = key_noise(image, particles)
    ours = {name: call(name)() for name in (OURS, OURS_DIAGONAL)}
    differences = {}
    for name, most in AGREEMENT.items():
        same = OURS if coupling_of(name) == "ensemble" else OURS_DIAGONAL
        found = call(name, noise)()
        differences[name] = float((found - ours[same]).square().mean().sqrt())
        assert differences[name] < most, (name, differences[name])
    names = [OURS, OURS_DIAGONAL, *(name for name in AGREEMENT if name != UNROUNDED)]
    times = take_turns({name: call(name) for name in names}, rounds)
    parts = []
    for _ in range(rounds):
        cost = Cost()
        explainer = method(model, prior, "ensemble", particles, steps)
        explainer.generate(image, target, keep_trajectory=False, cost=cost)
        rest = cost.seconds - sum(cost.parts.values())
        parts.append({**cost.parts, "kernels and the rest": rest})
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "shape": list(image.shape),
        "careful_rows": rows,
        "differences": differences,
        "seconds": {name: summary(values) for name, values in times.items()},
        "parts": {name: statistics.median(p[name] for p in parts) for name in parts[0]},
        "speed_up": {
            CAREFUL: medians[CAREFUL] / medians[OURS],
            CAREFUL_DIAGONAL: medians[CAREFUL_DIAGONAL] / medians[OURS_DIAGONAL],
            RELEASED: medians[RELEASED] / medians[OURS_DIAGONAL],
        },
        "speed_up_short": {
            CAREFUL: medians[CAREFUL] / medians[OURS_SHORT],
            CAREFUL_DIAGONAL: medians[CAREFUL_DIAGONAL] / medians[OURS_DIAGONAL_SHORT],
            RELEASED: medians[RELEASED] / medians[OURS_DIAGONAL_SHORT],
        },
    }


@torch.inference_mode()
def best_rows(prior: DiffusionPrior, image: Tensor, particles: int) -> int:
    """How many particles the network denoises at once in the least time for all of them."""
    x = torch.randn(particles, *image.shape[1:], generator=torch.Generator().manual_seed(0))
    counts = sorted({math.ceil(particles / parts) for parts in (1, 2, 3, 4, 6, 8, 12)})

    def denoise(rows: int) -> None:
        for part in x.split(rows):
            network(prior, part, 100)

    seconds = take_turns({str(n): functools.partial(denoise, n) for n in counts}, 7)
    return min(counts, key=lambda n: statistics.median(seconds[str(n)]))


def show(result: dict[str, Any]) -> None:
    settings = result["settings"]
    print(f"\n{settings['n_particles']} particles, {settings['n_steps']} steps, {result['shape']}")
    print(f"  careful PyTorch denoises {result['careful_rows']} rows at once")
    for name, row in result["seconds"].items():
        print(f"  {name:40} {row['median']:8.3f} s  (iqr {row['iqr']:.3f})")
    for name, value in result["speed_up"].items():
        short = result["speed_up_short"][name]
        print(f"  {value:.2f}x {name}; with the prior in bfloat16 {short:.2f}x")
    print("  " + ", ".join(f"{k} differs by {v:.2g}" for k, v in result["differences"].items()))
    print("  " + ", ".join(f"{name} {value:.3f} s" for name, value in result["parts"].items()))


if __name__ == "__main__":
    main()
