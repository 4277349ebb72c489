"""Digests of what every method and every metric that asks models gives, for a process that is
started in one way or another.

    python tests/determined.py THREADS

prints, as JSON, for each of them a digest of what it gives of a model whose rows are independent
and of a convolutional network.
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from typing import Any

import torch
from torch import Tensor, nn

SIDE, CLASSES = 8, 3


class Rows(nn.Module):
    """Three scores, each a sum over the features of a row of its own: no product of matrices, of
    which other threads may cut the sums elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        place = torch.arange(flat.shape[1], dtype=flat.dtype)
        waves = torch.sin(1.7 * flat + 0.3 * place)
        return torch.stack([waves.sum(1), (waves * flat).sum(1), flat.tanh().sum(1)], 1)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(4 * (SIDE - 2) ** 2, CLASSES)
    ).eval()


def digest(*tensors: Tensor | None) -> str:
    """Of every bit, and of types and shapes."""
    state = hashlib.sha256()
    for tensor in tensors:
        if tensor is None:
            state.update(b"none")
            continue
        held = tensor.detach().contiguous()
        state.update(f"{held.dtype} {list(held.shape)}".encode())
        state.update(held.reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def digests(model: nn.Module) -> dict[str, str]:
    from method_cases import NAMES, options_of

    from pyxai_fast import Counterfactual, LikelihoodRatio, Targets, explain
    from pyxai_fast.priors import GaussianPrior

    generator = torch.Generator().manual_seed(5)
    images = torch.rand(3, 1, SIDE, SIDE, generator=generator)
    references = torch.rand(4, 1, SIDE, SIDE, generator=generator)
    calls: dict[str, dict[str, Any]] = {
        name: {"method": name, **options_of(name, (1, SIDE, SIDE))} for name in NAMES
    }
    calls["expected_gradients"] |= {"baselines": references, "n_samples": 8}
    calls |= {
        "refined": {"n_steps": 33, "tolerance": 0.01, "baselines": 0.3},
        "several targets": {"method": "saliency", "target": Targets(0, 2)},
        "likelihood_ratio": {"method": "saliency", "gradient": LikelihoodRatio(16, 0.1)},
        "spi, median": {"method": "stick_breaking_ig", "n_steps": 3, "n_paths": 3,
                        "aggregate": "median"},
        "bf16": {"n_steps": 4, "precision": "bf16"},
    }  # fmt: skip
    found = {}
    for name, options in calls.items():
        made = explain(model, images, memory_format="contiguous", **options)
        assert isinstance(made.attributions, Tensor)
        found[name] = digest(made.attributions, made.delta, made.outputs)
    prior = GaussianPrior(torch.zeros(1, SIDE, SIDE), torch.eye(SIDE * SIDE))
    changed = Counterfactual(model, prior, n_particles=8, n_steps=4).generate(images, 1)
    found["counterfactual"] = digest(changed.best, changed.particles, changed.confidence)
    return found


def judged(model: nn.Module) -> dict[str, str]:
    """Of metrics, by name, and of a comparison."""
    from pyxai_fast import metrics
    from pyxai_fast.evaluation import evaluate

    generator = torch.Generator().manual_seed(6)
    images = torch.rand(3, 1, SIDE, SIDE, generator=generator)
    maps = torch.randn(3, 1, SIDE, SIDE, generator=generator)
    masks = torch.rand(3, SIDE, SIDE, generator=generator) < 0.3
    asked = (model, images, maps)
    curves = {
        "deletion": [metrics.deletion(*asked, n_steps=9)],
        "insertion": [metrics.insertion(*asked, n_steps=9)],
    }
    imputed = metrics.road(*asked, fractions=(0.1, 0.5, 0.8), seed=3)
    curves["road"] = [imputed.most_first, imputed.least_first]
    found = {name: digest(*(c.scores for c in several)) for name, several in curves.items()}
    changed = metrics.counterfactual_quality(model, images, images.flip(0), 1)
    found |= {
        "completeness_gap": digest(metrics.completeness_gap(*asked)),
        "counterfactual_quality": digest(changed.confidence, changed.l1, changed.l2),
        "diffid": digest(metrics.diffid(*asked)),
        "faithfulness_correlation": digest(
            metrics.faithfulness_correlation(*asked, subset_size=9, n_runs=20, seed=3)
        ),
        "infidelity": digest(metrics.infidelity(*asked, n_samples=20, seed=3)),
        "max_sensitivity": digest(
            metrics.max_sensitivity(
                "saliency", images, model=model, seed=3, memory_format="contiguous"
            )
        ),
        "performance_information": digest(
            metrics.performance_information(
                *asked, thresholds=(0.1, 0.4), min_prediction=0
            ).sic.scores
        ),
    }
    if any(True for _ in model.parameters()):  # which can be forgotten, or drawn anew
        named = {"explain": "saliency", "inputs": images, "seed": 3, "memory_format": "contiguous"}
        forgotten = metrics.mprt(model, **named)
        found["mprt"] = digest(torch.from_numpy(forgotten.similarity["spearman"]))
        noisy = metrics.model_perturbation(model, levels=(0.1, 0.5), similarities="ssim", **named)
        assert noisy.ssim is not None
        found["model_perturbation"] = digest(torch.from_numpy(noisy.ssim))

    def slopes(net: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            scores = net(x).gather(1, target[:, None]).sum()
            return torch.autograd.grad(scores, x)[0]

    compared = evaluate(
        model, images, {"slopes": slopes}, ("deletion", "road", "infidelity", "max_sensitivity"),
        masks=masks, seed=3, signed="both",
    )  # fmt: skip
    values = [entry.value for entry in compared.entries]
    found["evaluate"] = digest(torch.tensor(values, dtype=torch.float64))
    return found


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(int(sys.argv[1]))
    torch.manual_seed(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    told = {
        name: digests(model) | judged(model)
        for name, model in (("rows", Rows()), ("network", network()))
    }
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
