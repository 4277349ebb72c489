"""Maps of models that forget: layers in order, a map that ignores them, a model that stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from nets import Linear, conv_net, mlp
from torch import Tensor, nn
from torch.nn.utils import prune

from pyxai_fast import Saliency
from pyxai_fast.metrics import mprt

FEATURES = 12


def gradient(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    return Saliency(model).attribute(inputs, target, abs=False)


def rows(n: int = 3) -> Tensor:
    return torch.rand(n, FEATURES, generator=torch.Generator().manual_seed(0))


def deep(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(),
        nn.Linear(16, 4),
    ).eval()  # fmt: skip


class Weights:
    """An explanation that keeps what it sees of the weights."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        self.seen.append({name: each.clone() for name, each in model.state_dict().items()})
        return inputs

    def changed(self, step: int) -> set[str]:
        """Layers whose weights are not the model's own."""
        own, now = self.seen[0], self.seen[step]
        names = [name for name in own if not torch.equal(own[name], now[name])]
        return {name.rpartition(".")[0] for name in names}


def test_layers_forget_in_the_order_that_is_asked_for() -> None:
    # Its batch normalisation has to have learnt something.
    net = deep()
    nn.init.uniform_(net[1].weight, 2, 3)
    for order, layers, changed in (
        ("top_down", ("5", "3", "1", "0"), ({"5"}, {"5", "3"}, {"5", "3", "1"}, {*"5310"})),
        ("bottom_up", ("0", "1", "3", "5"), ({"0"}, {"0", "1"}, {"0", "1", "3"}, {*"0135"})),
        ("independent", ("0", "1", "3", "5"), ({"0"}, {"1"}, {"3"}, {"5"})),
    ):
        keep = Weights()
        found = mprt(net, keep, rows(), order=order)
        assert found.layers == layers and found.order == order and found.kept == ()
        assert tuple(keep.changed(step) for step in range(1, 5)) == changed
        assert found.similarity["spearman"].tolist() == [[1.0] * 3] * 4


def test_what_a_layer_becomes_depends_on_the_seed_and_its_name_alone() -> None:
    last: list[dict[str, Tensor]] = []
    for order, seed in (("top_down", 1), ("bottom_up", 1), ("top_down", 2)):
        keep = Weights()
        mprt(deep(), keep, rows(), order=order, seed=seed)
        last.append(keep.seen[-1])
    one, again, other = last
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["0.weight"], other["0.weight"])
    alone = Weights()
    mprt(deep(), alone, rows(), order="independent", seed=1)
    assert torch.equal(alone.seen[1]["0.weight"], one["0.weight"])
    # Layers of the same shape differ.
    same = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES))
    keep = Weights()
    mprt(same, keep, rows())
    assert not torch.equal(keep.seen[-1]["0.weight"], keep.seen[-1]["1.weight"])


def test_a_map_that_ignores_the_model_is_found_out() -> None:
    def edges(model: nn.Module, inputs: Tensor, target: Tensor) -> np.ndarray:
        return inputs.diff(dim=1).numpy()

    ignores = mprt(deep(), edges, rows()).curves["spearman"]
    follows = mprt(deep(), gradient, rows()).curves["spearman"]
    assert ignores.tolist() == [1.0] * 4
    assert bool((follows < 0.9).all()) and abs(follows[-1]) < 0.6


def test_methods_are_known_by_name_too() -> None:
    net = mlp(FEATURES)
    one = mprt(net, gradient, rows(), 1)
    other = mprt(net, "saliency", rows(), 1)
    np.testing.assert_allclose(one.similarity["spearman"], other.similarity["spearman"])


@pytest.mark.parametrize("explain", [gradient, "saliency"])
def test_layers_are_forgotten_inside_inference_mode_too(explain: Any) -> None:
    net, x = deep(), rows()
    expected = mprt(net, explain, x, similarities="spearman")
    with torch.inference_mode():
        found = mprt(net, explain, x.clone())
    assert np.array_equal(found.similarity["spearman"], expected.similarity["spearman"])


def test_the_class_that_is_explained_stays() -> None:
    net, asked = deep(), []

    def keep(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        asked.append(target.tolist())
        return inputs

    mprt(net, keep, rows())
    assert asked == [net(rows()).argmax(1).tolist()] * 5


@pytest.mark.parametrize("training", [False, True])
def test_neither_the_model_nor_random_numbers_are_touched(training: bool) -> None:
    net = deep().train(training)
    before = {name: each.clone() for name, each in net.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    mprt(net, "saliency", rows())
    assert torch.equal(torch.rand(4), expected)
    assert all(torch.equal(each, before[name]) for name, each in net.state_dict().items())
    assert net.training is training


def test_running_statistics_are_forgotten_with_their_layer() -> None:
    net, keep = deep(), Weights()
    nn.init.uniform_(net[1].running_mean, 2, 3)
    mprt(net, keep, rows(), order="independent")
    means = [seen["1.running_mean"] for seen in keep.seen]
    own = net[1].running_mean
    assert [torch.equal(mean, own) for mean in means] == [True, True, False, True, True]
    assert not means[2].any()


class Token(nn.Module):
    """Attention, and a weight that belongs to no layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.token.expand(len(x), -1, -1), x.unflatten(1, (3, 4))], 1)
        return self.last(self.attention(tokens, tokens, tokens)[0][:, 0])


def test_weights_that_no_layer_begins_anew_are_named() -> None:
    keep = Weights()
    found = mprt(Token().eval(), keep, rows())
    assert found.layers == ("last", "attention.out_proj", "attention")
    assert found.kept == ("token",)
    assert "attention" in keep.changed(3) and "" not in keep.changed(3)


def with_norms(norm: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Two layers of three are normalised, one of them without a bias."""
    torch.manual_seed(0)
    net = nn.Sequential(
        norm(nn.Linear(FEATURES, 16)), nn.Tanh(), norm(nn.Linear(16, 16, bias=False)), nn.Tanh(),
        nn.Linear(16, 4),
    ).train()  # fmt: skip
    with torch.no_grad():  # of some more steps of their power methods, if they have one
        for _ in range(20):
            net(rows())
    return net.eval()


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "norm",
    [
        nn.utils.spectral_norm,
        nn.utils.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.orthogonal,
    ],
)
@pytest.mark.parametrize("order", ["top_down", "bottom_up", "independent"])
def test_weights_that_are_normalised_are_forgotten(
    norm: Callable[[nn.Module], nn.Module], order: str
) -> None:
    net, seen = with_norms(norm), []
    expected = net(rows())  # of which the weights of some have a graph now
    before = {name: each.clone() for name, each in net.state_dict().items()}

    def keep(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        seen.append((model(inputs).detach(), [model[layer].weight.clone() for layer in (0, 2, 4)]))
        return gradient(model, inputs, target)

    found = mprt(net, keep, rows(), order=order)
    assert found.kept == () and set(found.layers) == {*"024"}
    torch.testing.assert_close(seen[0][0], expected)
    changed = [
        [not torch.equal(w, own) for w, own in zip(weights, seen[0][1], strict=True)]
        for _, weights in seen[1:]
    ]
    last, middle, first = [False, False, True], [False, True, False], [True, False, False]
    both = {"top_down": [False, True, True], "bottom_up": [True, True, False]}
    assert (
        changed
        == {
            "top_down": [last, both["top_down"], [True] * 3],
            "bottom_up": [first, both["bottom_up"], [True] * 3],
            "independent": [first, middle, last],
        }[order]
    )
    assert bool((found.curves["spearman"] < 0.95).all())
    # The model itself is as it was.
    assert all(torch.equal(each, before[name]) for name, each in net.state_dict().items())
    assert torch.equal(net(rows()), expected)


def test_what_a_reset_leaves_alone_is_kept_and_named() -> None:
    class Scaled(nn.Linear):
        """Learns a scale besides, which its reset forgets; and its reset gives constants."""

        def __init__(self) -> None:
            super().__init__(FEATURES, 4)
            self.scale = nn.Parameter(torch.full((4,), 3.0))
            self.zero = nn.Parameter(torch.zeros(4))

        def reset_parameters(self) -> None:
            super().reset_parameters()
            if hasattr(self, "zero"):
                nn.init.zeros_(self.zero)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.scale + self.zero

    net = nn.Sequential(nn.LayerNorm(FEATURES), Scaled())
    for order in ("top_down", "independent"):
        keep = Weights()
        # Constants are written, whatever was there before.
        assert mprt(net, keep, rows(), order=order).kept == ("1.scale",)
        assert all(torch.equal(seen["1.scale"], net[1].scale) for seen in keep.seen)
        assert all(bool(each.isfinite().all()) for seen in keep.seen for each in seen.values())


def test_pruned_weights_are_kept_and_named() -> None:
    net = deep()
    prune.l1_unstructured(net[3], "weight", amount=0.5)
    found = mprt(net, gradient, rows())
    assert found.kept == ("3.weight_orig",)


def test_pictures_are_compared_by_their_structure() -> None:
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = mprt(conv_net(), gradient, images, similarities=("spearman", "ssim", "hog"))
    assert set(found.similarity) == {"spearman", "ssim", "hog"}
    for values in found.similarity.values():
        assert values.shape == (3, 2) and values.dtype == np.float64
        assert bool((values < 1).all())
    assert set(mprt(deep(), gradient, rows(), similarities=("spearman", "ssim")).similarity) == {
        "spearman"
    }


def test_curves_are_drawn_over_the_layers(tmp_path: Any) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    mprt(deep(), gradient, rows()).plot(tmp_path / "layers.png")
    assert (tmp_path / "layers.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"order": "topdown"}, ValueError, "order must be one of .* did you mean top_down"),
        ({"similarities": 5}, TypeError, "similarities must be names, got int"),
        ({"similarities": [["spearman"]]}, ValueError, r"got \['spearman'\]"),
        ({"similarities": ("spearmen",)}, ValueError, "got 'spearmen'; did you mean spearman"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0, got -1"),
        ({"model": lambda x: x}, TypeError, "model must be a torch module, got function"),
        ({"model": Linear(FEATURES)}, ValueError, "layers with reset_parameters, got Linear with"),
        ({"inputs": torch.rand(0, 12)}, ValueError, r"inputs must be .* B >= 1, got \[0, 12\]"),
        ({"target": 9}, ValueError, "target must be from 0 to 3, got"),
        ({"explain": 3}, TypeError, "explain must be callable or a method's name, got int"),
    ],
)
def test_arguments_that_make_no_sense_are_named(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {
        "model": mlp(FEATURES), "explain": gradient, "inputs": rows(), **change,
    }  # fmt: skip
    with pytest.raises(error, match=f"^mprt: .*{message}"):
        mprt(**arguments)
