"""Maps of perturbed models: similarity beside the model's own drift, and a model that stays."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
from nets import Linear, conv_net, mlp
from torch import Tensor, nn

from pyxai_fast import IntegratedGradients, Saliency
from pyxai_fast.metrics import ModelPerturbation, model_perturbation
from pyxai_fast.metrics.similarity import average_ranks, spearman
from pyxai_fast.models.errors import MissingDependency

FEATURES = 12
RANKS = ("spearman",)
skimage_is_here = importlib.util.find_spec("skimage") is not None
needs_skimage = pytest.mark.skipif(not skimage_is_here, reason="scikit-image is not installed")


def gradient(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    return Saliency(model).attribute(inputs, target, abs=False)


def rows(n: int = 3) -> Tensor:
    return torch.rand(n, FEATURES, generator=torch.Generator().manual_seed(0))


class Normalised(nn.Module):
    """Has what a perturbation must leave alone: running statistics, a frozen weight, a mode."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(FEATURES, 16)
        self.norm = nn.BatchNorm1d(16)
        self.last = nn.Linear(16, 4)
        self.first.bias.requires_grad_(False)
        self.norm.running_mean.uniform_(-1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)).tanh())


def state(model: nn.Module) -> list[Any]:
    tensors = [*model.state_dict().values()]
    flags = [p.requires_grad for p in model.parameters()]
    grads = [p.grad for p in model.parameters()]
    return [[t.clone() for t in tensors], flags, grads, [m.training for m in model.modules()]]


def assert_same_state(model: nn.Module, before: list[Any]) -> None:
    tensors, *rest = state(model)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before[0], strict=True))
    assert rest == before[1:]


def test_without_noise_nothing_changes() -> None:
    found = model_perturbation(mlp(FEATURES), gradient, rows(), (0.0, 0.3), similarities=RANKS)
    assert found.spearman[0].tolist() == [1.0] * 3
    assert found.logit_change[0].tolist() == [0.0] * 3
    assert found.unchanged[0].tolist() == [1.0] * 3
    assert bool((found.spearman[1] < 1).all() and (found.logit_change[1] > 0).all())


@pytest.mark.parametrize("norm", [nn.utils.spectral_norm, nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_models_whose_hooks_compute_weights_are_copied(norm: Any) -> None:
    net = mlp(FEATURES)
    norm(net[0])
    expected = net(rows())  # with a graph, that the layer's weights have too
    assert net[0].weight.grad_fn is not None
    found = model_perturbation(net, gradient, rows(), (0.0, 0.3), similarities=RANKS)
    assert found.spearman[0].tolist() == [1.0] * 3 and found.logit_change[0].tolist() == [0.0] * 3
    assert bool((found.logit_change[1] > 0).all())
    assert torch.equal(net(rows()), expected)


def test_a_model_that_answers_nan_has_not_kept_its_class() -> None:
    class Breaks(Linear):
        """Predicts the first class, while its weights are its own."""

        def __init__(self) -> None:
            super().__init__(FEATURES)
            self.weight.data[0].abs_().add_(9)
            self.register_buffer("own", self.weight.data.clone())

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (1 if torch.equal(self.weight, self.own) else torch.nan)

    def size(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        assert target.tolist() == [0] * 3
        return inputs

    found = model_perturbation(Breaks(), size, rows(), (0.0, 0.3), similarities=RANKS)
    assert found.unchanged[0].tolist() == [1.0] * 3
    assert np.isnan(found.unchanged[1]).all() and np.isnan(found.logit_change[1]).all()


def test_a_map_that_ignores_the_model_is_found_out() -> None:
    def size(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        return inputs.abs()

    found = model_perturbation(mlp(FEATURES), size, rows(), (0.1, 10.0), 2, similarities=RANKS)
    assert bool((found.spearman == 1).all())
    assert bool((found.unchanged < 1).any()), "the model did change"


def test_gradients_part_from_the_models_as_noise_grows() -> None:
    found = model_perturbation(
        mlp(FEATURES), gradient, rows(), (0.01, 0.2, 1.0), 3, similarities=RANKS
    ).curves
    assert 0.95 < found["spearman"][0] < 1
    assert bool((np.diff(found["spearman"]) < -0.02).all())
    assert bool((np.diff(found["logit_change"]) > 0).all())


def test_noise_has_the_size_of_the_weights_spread_and_the_same_directions_at_each_level() -> None:
    weights: list[Tensor] = []

    def keep(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        weights.append(model.weight.detach().clone())
        return inputs

    net = Linear(4000)
    model_perturbation(net, keep, torch.rand(1, 4000), (0.1, 0.2), 2, similarities=RANKS)
    own, small, large, other, _ = weights
    torch.testing.assert_close(large - own, 2 * (small - own), rtol=1e-4, atol=1e-6)
    assert float((small - own).std() / own.std()) == pytest.approx(0.1, rel=0.03)
    assert abs(float(torch.corrcoef(torch.stack([small - own, other - own]).flatten(1))[0, 1])) < (
        0.05
    )


def test_a_seed_gives_the_same_curves() -> None:
    def curves(seed: int) -> ModelPerturbation:
        net = mlp(FEATURES)
        return model_perturbation(net, gradient, rows(), (0.3,), 2, seed, similarities=RANKS)

    one, again, other = curves(1), curves(1), curves(2)
    assert one.spearman.tolist() == again.spearman.tolist()
    assert one.logit_change.tolist() == again.logit_change.tolist()
    assert one.logit_change.tolist() != other.logit_change.tolist()


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_it_was(training: bool) -> None:
    net = Normalised().train(training)
    before = state(net)
    model_perturbation(net, gradient, rows(), (0.5,), similarities=RANKS)
    assert_same_state(net, before)

    def fails_at_last(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        assert model is not net
        model.requires_grad_(True).train(not training)
        model.norm.running_mean.fill_(7)
        if not torch.equal(model.first.weight, net.first.weight):
            raise RuntimeError("no map")
        return inputs

    with pytest.raises(RuntimeError, match="no map"):
        model_perturbation(net, fails_at_last, rows(), (0.5,), similarities=RANKS)
    assert_same_state(net, before)


def test_running_statistics_are_not_perturbed() -> None:
    net, seen = Normalised().eval(), []

    def keep(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        seen.append(model.norm.running_mean.clone())
        model.norm.running_mean.zero_()  # is no part of what the next model is made of
        return inputs

    model_perturbation(net, keep, rows(), (0.5, 0.9), similarities=RANKS)
    assert all(torch.equal(mean, net.norm.running_mean) for mean in seen)


def test_the_predicted_class_is_explained_unless_another_is_given() -> None:
    net, asked = mlp(FEATURES), []

    def keep(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        asked.append(target.tolist())
        return inputs

    model_perturbation(net, keep, rows(), (5.0,), similarities=RANKS)
    model_perturbation(net, keep, rows(), (5.0,), target=2, similarities=RANKS)
    assert asked == [net(rows()).argmax(1).tolist()] * 2 + [[2, 2, 2]] * 2


def test_methods_are_known_by_name_too() -> None:
    net = mlp(FEATURES)

    def called(model: nn.Module, inputs: Tensor, target: Tensor) -> np.ndarray:
        return IntegratedGradients(model).attribute(inputs, target=target, n_steps=5).numpy()

    one = model_perturbation(net, called, rows(), (0.3,), similarities=RANKS)
    other = model_perturbation(
        net, "integrated_gradients", rows(), (0.3,), n_steps=5, similarities=RANKS
    )
    np.testing.assert_allclose(one.spearman, other.spearman)


@pytest.mark.parametrize("explain", [gradient, "saliency"])
def test_weights_are_perturbed_inside_inference_mode_too(explain: Any) -> None:
    net = mlp(FEATURES)
    expected = model_perturbation(net, explain, rows(), (0.1, 0.5), similarities="spearman")
    with torch.inference_mode():
        found = model_perturbation(net, explain, rows(), (0.1, 0.5), similarities=RANKS)
    assert np.array_equal(found.spearman, expected.spearman)
    assert np.array_equal(found.logit_change, expected.logit_change)


def test_ranks_of_equal_numbers_are_shared() -> None:
    assert average_ranks(torch.tensor([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]
    rise = torch.arange(9.0)
    assert spearman(rise, rise.exp()) == 1.0
    assert spearman(rise, -rise) == pytest.approx(-1)
    assert spearman(torch.ones(9), torch.zeros(9)) == 1.0  # both say that nothing differs
    assert np.isnan(spearman(rise, torch.ones(9)))
    assert np.isnan(spearman(rise, torch.full((9,), torch.nan)))


def test_what_is_no_picture_has_no_similarity_of_pictures() -> None:
    found = model_perturbation(mlp(FEATURES), gradient, rows(), (0.3,))
    assert found.ssim is None and found.hog is None
    assert set(found.curves) == {"spearman", "logit_change", "unchanged"}
    small = model_perturbation(conv_net(), gradient, torch.rand(1, 3, 6, 6), (0.3,))
    assert small.ssim is None


@needs_skimage
@pytest.mark.parametrize("side", [8, 28])
def test_pictures_are_compared_by_their_structure(side: int) -> None:
    images = torch.rand(2, 3, side, side + 1, generator=torch.Generator().manual_seed(0))
    found = model_perturbation(conv_net(), gradient, images, (0.0, 0.05, 1.0))
    for values in (found.spearman, found.ssim, found.hog):
        assert values.shape == (3, 2)
        assert values[0].tolist() == [1.0, 1.0]
        assert bool((values[1] > values[2]).all() and (values[1] < 1).all())


@pytest.mark.skipif(skimage_is_here, reason="scikit-image is installed")
def test_what_is_missing_is_named() -> None:
    images = torch.rand(1, 3, 8, 8)
    with pytest.raises(MissingDependency, match=r"scikit-image is needed for ssim; run: pip inst"):
        model_perturbation(conv_net(), gradient, images, (0.1,))


def test_curves_are_drawn(tmp_path: Any) -> None:
    pytest.importorskip("matplotlib")
    found = model_perturbation(mlp(FEATURES), gradient, rows(), (0.1, 0.5), similarities=RANKS)
    found.plot(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"levels": ()}, ValueError, r"levels must have at least one level, got \(\)"),
        ({"levels": (-1,)}, ValueError, "levels must be a finite number >= 0, got -1"),
        ({"n_draws": 0}, ValueError, "n_draws must be an integer >= 1, got 0"),
        ({"similarities": 5}, TypeError, "similarities must be names, got int"),
        ({"similarities": [["spearman"]]}, ValueError, r"got \['spearman'\]"),
        ({"similarities": ("spearmen",)}, ValueError, "got 'spearmen'; did you mean spearman"),
        ({"model": lambda x: x}, TypeError, "model must be a torch module, got function"),
        ({"model": nn.Unflatten(1, (3, 4))}, ValueError, r"model must return \[B, n\]"),
        ({"inputs": torch.rand(0, 12)}, ValueError, r"inputs must be .* B >= 1, got \[0, 12\]"),
        ({"target": 9}, ValueError, "target must be from 0 to 3, got"),
        ({"target": torch.zeros(2)}, ValueError, r"or \[3\] classes, got torch.float32 \[2\]"),
        ({"explain": 3}, TypeError, "explain must be callable or a method's name, got int"),
        ({"explain": "salience"}, ValueError, "did you mean saliency"),
        ({"explain": lambda m, x, t: x[:1]}, ValueError, r"explain must return \[3, ...\]"),
        ({"n_steps": 3}, TypeError, "options must be given to explain itself .* got n_steps"),
    ],
)
def test_arguments_that_make_no_sense_are_named(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {
        "model": mlp(FEATURES), "explain": gradient, "inputs": rows(), "levels": (0.1,),
        "similarities": RANKS, **change,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        model_perturbation(**arguments)
