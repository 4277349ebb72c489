"""Maps of other packages for known evidence: of any network, wrapped or not, and any size."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pyxai_fast import Preprocessing
from pyxai_fast.known_evidence import Budget, Examples

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "benchmarks" / "quality")]

contenders = pytest.importorskip(
    "known_evidence_contenders", reason="the benchmarks are not here"
)  # A package is tested without them too.


class Net(nn.Module):
    """Its modules are made in another order than they run in, and one never runs."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.last = nn.Conv2d(4, 5, 3, padding=1)
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.head = nn.Linear(5, 3)
        self.idle = nn.Conv2d(3, 3, 1)
        for parameter in self.parameters():
            parameter.requires_grad_(False)
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.after(self.last(functional.relu(self.first(inputs))))

    def after(self, found: Tensor) -> Tensor:
        # In place, as many networks have it.
        scores: Tensor = self.head(functional.relu(found, inplace=True).amax((2, 3)))
        return scores


class FromPixels(nn.Module):
    """A network of normalised inputs as one of pixels."""

    def __init__(self, model: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model, self.preprocessing = model, preprocessing

    def forward(self, pixels: Tensor) -> Any:
        return self.model(self.preprocessing.normalise(pixels))


def wrapped(net: nn.Module) -> nn.Module:
    return FromPixels(net, Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))).eval()


def examples_of(count: int, height: int, width: int) -> Examples:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.rand(count, 3, height, width, generator=generator)
    masks = torch.zeros(count, 1, height, width, dtype=torch.bool)
    masks[:, :, :4, :4] = True
    return Examples(inputs, torch.arange(count) % 3, masks, inputs, masks)


@pytest.mark.parametrize(
    ("shape", "rows"),
    [((1, 12), 256), ((9, 3, 64, 64), 256), ((2, 3, 224, 224), 26), ((1, 3, 2000, 2000), 1)],
)
def test_rows_follow_from_the_size_of_inputs(shape: tuple[int, ...], rows: int) -> None:
    inputs = torch.zeros(1).expand(*shape)
    assert contenders.rows_of(inputs) == rows
    assert rows == 1 or rows * inputs[0].numel() <= 4e6


def test_the_last_convolution_is_the_one_that_runs_last() -> None:
    net = Net().eval()
    inputs = examples_of(1, 24, 24).inputs
    for one in (net, wrapped(net), contenders.Counted(wrapped(net))):
        assert contenders.last_convolution(one, inputs) is net.last
    with pytest.raises(ValueError, match=r"must run an nn\.Conv2d, got none"):
        contenders.last_convolution(nn.Flatten(), inputs)
    # What was watched is watched no longer.
    assert not any(module._forward_hooks for module in net.modules())


def test_grad_cam_of_a_wrapped_network_is_that_of_its_equation() -> None:
    """Selvaraju et al. (2017), equations 1 and 2, without the ReLU: channels weighted by the means
    of their gradients."""
    pytest.importorskip("captum", reason="Grad-CAM is captum's")
    net, examples = Net().eval(), examples_of(4, 24, 32)
    outer = wrapped(net)
    budget = Budget(16, examples.inputs)
    found = contenders.CONTENDERS["captum_grad_cam"].make(outer, examples, budget)
    normalised = outer.preprocessing.normalise(examples.inputs)
    layer = net.last(functional.relu(net.first(normalised))).requires_grad_()
    scores = net.after(layer.clone()).gather(1, examples.labels[:, None]).sum()
    (slopes,) = torch.autograd.grad(scores, layer)
    wanted = (slopes.mean((2, 3), keepdim=True) * layer).sum(1, keepdim=True)
    wanted = functional.interpolate(wanted, (24, 32), mode="bilinear")
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert not bool(found.requires_grad)


@pytest.mark.filterwarnings("ignore")  # of so few samples there is a lot to be said
@pytest.mark.parametrize("name", contenders.CONTENDERS)
def test_maps_of_a_wrapped_network_are_finite_whatever_is_sent_at_once(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    contender = contenders.CONTENDERS[name]
    pytest.importorskip(contender.module, reason=f"the map is of {contender.module}")
    examples = examples_of(3, 24, 32)
    budget = Budget(16, examples_of(4, 24, 32).inputs.flip(0))
    net = contenders.Counted(wrapped(Net())).eval()
    monkeypatch.setattr(contenders, "NUMBERS", 5 * 3 * 24 * 32)
    sent: list[int] = []
    net.register_forward_pre_hook(lambda _, inputs: sent.append(len(inputs[0])))
    found = contender.make(net, examples, budget)
    assert contenders.contenders_of(budget)[name] is contender
    assert found.shape in (examples.inputs.shape, examples.masks.shape)
    assert bool(found.isfinite().all())
    if name != "captum_lime":  # whose Lasso leaves nothing of small differences
        assert bool(found.flatten(1).any(1).all())
    assert max(sent) <= 5 and sum(sent) == net.rows


def test_the_benchmark_measures_once_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("matplotlib", "captum"):
        pytest.importorskip(module, reason=f"the benchmark needs {module}")
    import known_evidence
    import known_evidence_page

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # Of other packages captum alone, which is fast.
    some = {name: one for name, one in contenders.CONTENDERS.items() if one.module == "captum"}
    monkeypatch.setattr(contenders, "CONTENDERS", some)
    path = tmp_path / "out" / "known-evidence.json"
    threads = str(torch.get_num_threads())
    arguments = [
        "--sets", "tables", "--cases", "4", "--evaluations", "16", "--threads", threads,
        "--json", str(path), "--plot", str(path.with_suffix(".png")),
    ]  # fmt: skip
    known_evidence.main(arguments)
    figures, rows = path.read_text(), path.with_suffix(".csv").read_text()
    page = known_evidence_page.rendered(path)
    assert "| gradient (captum) | gradient | too few inputs |" in page
    assert "4 inputs of each set" in page and "Too few pictures to tell from the controls: " in page
    assert path.with_suffix(".png").stat().st_size > 10_000
    known_evidence.main(arguments)
    assert path.with_suffix(".csv").read_text() == rows
    # Files have six digits.
    before, after = (json.loads(text)["sets"][0]["maps"] for text in (figures, path.read_text()))
    for one, other in zip(before, after, strict=True):
        assert one["map"] == other["map"]
        assert one["signed"]["energy"] == pytest.approx(other["signed"]["energy"], abs=1e-5)
    with pytest.raises(SystemExit, match="one of the same settings"):
        known_evidence.main(["--cases", "5", *arguments[4:]])


def test_the_page_says_better_where_the_interval_bears_it_out() -> None:
    page = pytest.importorskip("known_evidence_page", reason="the benchmarks are not here")
    row = {
        "ours_minus": {
            "pointing": {"mean": 0.1, "low": 0.0, "high": 0.2},
            "energy": {"mean": 0.1, "low": 0.01, "high": 0.2},
            "best_iou": {"mean": -0.1, "low": -0.2, "high": -0.01},
            "iou_area": {"mean": -0.1, "low": -0.2, "high": 0.01},
        }
    }
    assert page._in_short(row, 24) == "better: energy; worse: best IoU"
    assert page._in_short(row, 3) == "too few inputs"


def test_the_stored_page_is_the_rendered_one() -> None:
    page = pytest.importorskip("known_evidence_page", reason="the benchmarks are not here")
    folder = ROOT / "benchmarks" / "quality"
    rendered = page.rendered(folder / "results" / "known-evidence.json")
    assert (folder / "known_evidence.md").read_text() == rendered
