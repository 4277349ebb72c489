"""Maps of other packages for known evidence, asked as their users would, with equal budgets.

The network may be any torch module that returns [B, n], one that wraps another too; inputs are
float32 on the CPU, of any size.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from guided_contenders import pair_module
from ig_contenders import forward_backward
from torch import Tensor, nn
from torch.nn import functional

from pyxai_fast.known_evidence import Budget, Examples
from pyxai_fast.known_evidence.maps import COLUMN_NOISE, SHAPE_NOISE
from pyxai_fast.segments import segments_for

Make = Callable[[nn.Module, Examples, Budget], Tensor]

# Numbers, and rows, that are sent through the network at once, at most.
NUMBERS, ROWS = 4_000_000, 256
# Of RISE as in the paper: cells along a side, and how many of them stay.
CELLS, KEPT = 8, 0.5


@dataclass(frozen=True)
class Contender:
    """Attributes:
    label: in tables.
    counterpart: the package's map of the same method.
    module: that must be installed.
    make: attributions shaped as the inputs, or with one channel.
    signed: whether its sign says for or against the class.
    images: whether it needs inputs [B, C, H, W].
    """

    label: str
    counterpart: str
    module: str
    make: Make
    signed: bool = True
    images: bool = False


class Counted(nn.Module):
    """A network, and how many rows it was asked."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.rows = net, 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.rows += len(inputs)
        found: Tensor = self.net(inputs)
        return found


def rows_of(inputs: Tensor) -> int:
    """How many rows shaped as these are sent through a network at once: what has about NUMBERS
    numbers, at most ROWS."""
    return max(1, min(ROWS, NUMBERS // inputs[:1].numel()))


def in_parts(make: Make) -> Make:
    """As many examples at once as rows are."""

    def made(net: nn.Module, examples: Examples, budget: Budget) -> Tensor:
        rows = rows_of(examples.inputs)
        starts = range(0, len(examples), rows)
        parts = [make(net, examples.take(slice(i, i + rows)), budget) for i in starts]
        return torch.cat(parts).detach()

    return made


def contenders_of(budget: Budget) -> dict[str, Contender]:
    """Those that are installed, of inputs of this kind."""
    return {
        name: one
        for name, one in CONTENDERS.items()
        if _installed(one.module) and not (one.images and budget.is_table)
    }


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


# --- captum --------------------------------------------------------------------------------------


@in_parts
def _captum_saliency(net: nn.Module, examples: Examples, budget: Budget) -> Tensor:
    from captum.attr import Saliency

    found: Tensor = Saliency(net).attribute(examples.inputs, examples.labels, abs=False)
    return found


@in_parts
def _captum_input_x_gradient(net: nn.Module, examples: Examples, budget: Budget) -> Tensor:
    from captum.attr import InputXGradient

    found: Tensor = InputXGradient(net).attribute(examples.inputs, examples.labels)
    return found


@in_parts
def _captum_integrated_gradients(net: nn.Module, examples: Examples, budget: Budget) -> Tensor:
    from captum.attr import IntegratedGradients

    found: Tensor = IntegratedGradients(net).attribute(
        examples.inputs, budget.mean, examples.labels, n_steps=budget.evaluations,
        internal_batch_size=rows_of(examples.inputs),
    )  # fmt: skip
    return found


@in_parts
def _captum_smooth_grad(net: nn.Module, examples: Examples, budget: Budget) -> Tensor:
    from captum.attr import NoiseTunnel, Saliency

    torch.manual_seed(budget.seed)
    found: Tensor = NoiseTunnel(Saliency(net)).attribute(
        examples.inputs, nt_type="smoothgrad", nt_samples=budget.evaluations,
        nt_samples_batch_size=max(1, rows_of(examples.inputs) // len(examples)),
        stdevs=COLUMN_NOISE if budget.is_table else SHAPE_NOISE,
        target=examples.labels, abs=False,
    )  # fmt: skip
    return found


def _captum_gradient_shap(net: nn.Module, examples: Examples, budget: Budget) -> Tensor:
    from captum.attr import GradientShap

    torch.manual_seed(budget.seed)
    np.random.seed(budget.seed)
    # It sends all samples at once: where these are too many, means of parts are averaged.
    rows = rows_of(examples.inputs)
    counts = [min(rows, budget.evaluations - i) for i in range(0, budget.evaluations, rows)]
    found = torch.zeros_like(examples.inputs)
    for i in range(len(examples)):
        one, label = examples.inputs[i : i + 1], examples.labels[i : i + 1]
        for count in counts:
            values = GradientShap(net).attribute(
                one, budget.references, n_samples=count, target=label
            )
            found[i] += values[0].detach() * (count / budget.evaluations)
    return found


def _captum_segments(kind: str) -> Make:
    def make(net: nn.Module, examples: Examples, budget: Budget) -> Tensor:
        import captum.attr

        torch.manual_seed(budget.seed)
        segments = segments_for(examples.inputs[:1], budget.segments).long()
        method = getattr(captum.attr, kind)(lambda inputs: net(inputs).softmax(1))
        parts = [
            method.attribute(
                examples.inputs[i : i + 1], baselines=budget.mean,
                target=examples.labels[i : i + 1], feature_mask=segments,
                n_samples=budget.evaluations, perturbations_per_eval=rows_of(examples.inputs),
            )
            for i in range(len(examples))
        ]  # fmt: skip
        return torch.cat(parts).detach()

    return make


@in_parts
def _captum_grad_cam(net: nn.Module, examples: Examples, budget: Budget) -> Tensor:
    from captum.attr import LayerAttribution, LayerGradCam

    layer = last_convolution(net, examples.inputs[:1])
    maps = LayerGradCam(net, layer).attribute(examples.inputs, examples.labels)
    extents = tuple(examples.inputs.shape[2:])
    found: Tensor = LayerAttribution.interpolate(maps, extents, "bilinear")
    return found


@torch.no_grad()
def last_convolution(net: nn.Module, inputs: Tensor) -> nn.Conv2d:
    """The convolution that a network runs last, however it is wrapped.

    Modules are listed in the order in which they were made, which may be another; some never run.
    """
    ran: list[nn.Module] = []
    hooks = [
        module.register_forward_hook(lambda module, *_: ran.append(module))
        for module in net.modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        net(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if not ran:
        raise ValueError("last_convolution: net must run an nn.Conv2d, got none")
    last = ran[-1]
    assert isinstance(last, nn.Conv2d)
    return last


# --- shap ----------------------------------------------------------------------------------------


class _OfClass(nn.Module):
    """One of the outputs, [R, 1], of as many rows at once as rows_of says."""

    def __init__(self, net: nn.Module, label: int) -> None:
        super().__init__()
        self.net, self.label = net, label

    def forward(self, inputs: Tensor) -> Tensor:
        found = torch.cat([self.net(rows) for rows in inputs.split(rows_of(inputs))])
        return found[:, self.label : self.label + 1]


def _shap_gradient(net: nn.Module, examples: Examples, budget: Budget) -> Tensor:
    import shap

    found = torch.zeros_like(examples.inputs)
    batch_size = min(50, rows_of(examples.inputs))  # 50 is its default
    for label in examples.labels.unique().tolist():
        rows = examples.labels == label
        # It asks all references at once to see how many outputs there are.
        with torch.no_grad():
            explainer = shap.GradientExplainer(
                _OfClass(net, label), budget.references, batch_size=batch_size
            )
        values = explainer.shap_values(
            examples.inputs[rows], nsamples=budget.evaluations, rseed=budget.seed
        )
        found[rows] = torch.as_tensor(np.asarray(values)).reshape(found[rows].shape).float()
    return found


def _shap_kernel(net: nn.Module, examples: Examples, budget: Budget) -> Tensor:
    import shap

    segments = segments_for(examples.inputs[:1], budget.segments).long()[0]
    count = int(segments.max()) + 1
    found = []
    for i in range(len(examples)):
        one, label = examples.inputs[i : i + 1], int(examples.labels[i])

        def answer(kept: Any, one: Tensor = one, label: int = label) -> Any:
            share = torch.as_tensor(kept, dtype=torch.float32)[:, segments]
            return _probability(net, torch.lerp(budget.mean, one, share), label)

        np.random.seed(budget.seed)
        explainer = shap.KernelExplainer(answer, np.zeros((1, count)))
        values = explainer.shap_values(
            np.ones((1, count)), nsamples=budget.evaluations, silent=True
        )
        found.append(torch.as_tensor(np.asarray(values)).reshape(count)[segments])
    return torch.stack(found).float()


def _shap_partition(net: nn.Module, examples: Examples, budget: Budget) -> Tensor:
    import shap

    found = []
    for i in range(len(examples)):
        label = int(examples.labels[i])

        def answer(pictures: Any, label: int = label) -> Any:
            rows = torch.as_tensor(pictures, dtype=torch.float32).permute(0, 3, 1, 2)
            return _probability(net, rows, label)

        masker = shap.maskers.Image(budget.mean[0].permute(1, 2, 0).numpy())
        explainer = shap.PartitionExplainer(answer, masker)
        values = explainer(
            examples.inputs[i : i + 1].permute(0, 2, 3, 1).numpy(), max_evals=budget.evaluations,
            batch_size=rows_of(examples.inputs), silent=True,
        ).values  # fmt: skip
        found.append(torch.as_tensor(values[0]).permute(2, 0, 1))
    return torch.stack(found).float()


@torch.no_grad()
def _probability(net: nn.Module, rows: Tensor, label: int) -> Any:
    parts = rows.split(rows_of(rows))
    return torch.cat([net(some).softmax(1)[:, label] for some in parts]).numpy()


# --- LIME, as its authors have it ----------------------------------------------------------------


def _lime(net: nn.Module, examples: Examples, budget: Budget) -> Tensor:
    """It hides by one colour and wants three channels: it is given what the inputs are more than
    the mean, so that its black is the mean, and grey pictures three times."""
    from lime.lime_image import LimeImageExplainer

    segments = segments_for(examples.inputs[:1], budget.segments).long()[0, 0]
    channels, found = examples.inputs.shape[1], []
    explainer = LimeImageExplainer(random_state=budget.seed)
    for one, label in zip(examples.inputs, examples.labels.tolist(), strict=True):

        @torch.no_grad()
        def answer(images: Any) -> Any:
            rows = torch.as_tensor(np.asarray(images), dtype=torch.float32)
            return net(budget.mean + rows.permute(0, 3, 1, 2)[:, :channels]).softmax(1).numpy()

        apart = (one - budget.mean[0]).expand(3, -1, -1) if channels == 1 else one - budget.mean[0]
        explained = explainer.explain_instance(
            apart.permute(1, 2, 0).double().numpy(), answer, labels=(label,), hide_color=0,
            top_labels=None, num_samples=budget.evaluations, batch_size=rows_of(examples.inputs),
            segmentation_fn=lambda image: segments.numpy(), random_seed=budget.seed,
        )  # fmt: skip
        weights = torch.zeros(int(segments.max()) + 1)
        for segment, weight in explained.local_exp[label]:
            weights[segment] = weight
        found.append(weights[segments][None])
    return torch.stack(found)


# --- saliency ------------------------------------------------------------------------------------


def _pair(module_name: str, kind: str) -> Make:
    def make(net: nn.Module, examples: Examples, budget: Budget) -> Tensor:
        module = pair_module(module_name)
        method, found = getattr(module, kind)(), []
        last = module_name == "blur_ig"  # takes channels last

        def places(image: Any) -> Any:
            return np.moveaxis(image, 0, -1) if last else image

        for image, label in zip(examples.inputs, examples.labels, strict=True):

            def call(images: Any, label: Tensor = label, **_: Any) -> dict[str, Any]:
                rows = torch.as_tensor(np.asarray(images), dtype=torch.float32)
                rows = rows.permute(0, 3, 1, 2) if last else rows
                grads = forward_backward(net, rows, label.expand(len(rows)))
                grads = grads.permute(0, 2, 3, 1) if last else grads
                return {module.INPUT_OUTPUT_GRADIENTS: grads.numpy()}

            options: dict[str, Any] = (
                {"steps": budget.evaluations, "batch_size": 1}
                if last
                else {"x_steps": budget.evaluations, "x_baseline": budget.mean[0].numpy()}
            )
            mask = method.GetMask(places(image.numpy()), call, **options)
            found.append(torch.as_tensor(np.moveaxis(mask, -1, 0) if last else mask))
        return torch.stack(found).float()

    return make


# --- RISE, as in the paper -----------------------------------------------------------------------


def _rise(net: nn.Module, examples: Examples, budget: Budget) -> Tensor:
    """Petsiuk, Das and Saenko, "RISE" (2018), section 3: smooth masks, of a grid that is enlarged
    bilinearly and shifted at random."""
    generator = torch.Generator().manual_seed(budget.seed)
    height, width = examples.inputs.shape[2:]
    cell = (-(-height // CELLS), -(-width // CELLS))
    count = budget.evaluations
    grid = (torch.rand(count, 1, CELLS, CELLS, generator=generator) < KEPT).float()
    large = functional.interpolate(
        grid, ((CELLS + 1) * cell[0], (CELLS + 1) * cell[1]), mode="bilinear"
    )
    down, right = (torch.randint(side, (count,), generator=generator).tolist() for side in cell)
    masks = torch.stack(
        [m[:, d : d + height, r : r + width] for m, d, r in zip(large, down, right, strict=True)]
    )
    found = []
    for one, label in zip(examples.inputs, examples.labels.tolist(), strict=True):
        scores = torch.as_tensor(_probability(net, torch.lerp(budget.mean, one, masks), label))
        found.append((scores.view(-1, 1, 1, 1) * masks).mean(0) / KEPT)
    return torch.stack(found)


CONTENDERS: dict[str, Contender] = {
    "captum_saliency": Contender(
        "gradient (captum)", "saliency", "captum", _captum_saliency, signed=False
    ),
    "captum_input_x_gradient": Contender(
        "input times gradient (captum)", "input_x_gradient", "captum", _captum_input_x_gradient
    ),
    "captum_smooth_grad": Contender(
        "SmoothGrad (captum)", "smooth_grad", "captum", _captum_smooth_grad, signed=False
    ),
    "captum_integrated_gradients": Contender(
        "integrated gradients (captum)", "integrated_gradients", "captum",
        _captum_integrated_gradients,
    ),
    "captum_gradient_shap": Contender(
        "GradientShap (captum)", "expected_gradients", "captum", _captum_gradient_shap
    ),
    "shap_gradient": Contender(
        "GradientExplainer (shap)", "expected_gradients", "shap", _shap_gradient
    ),
    "pair_guided_ig": Contender(
        "guided IG (saliency)", "guided_ig", "saliency", _pair("guided_ig", "GuidedIG"), images=True
    ),
    "pair_blur_ig": Contender(
        "blur IG (saliency)", "blur_ig", "saliency", _pair("blur_ig", "BlurIG"), images=True
    ),
    "captum_grad_cam": Contender(
        "Grad-CAM (captum)", "", "captum", _captum_grad_cam, images=True
    ),
    "captum_lime": Contender("LIME (captum)", "lime", "captum", _captum_segments("Lime")),
    "lime_image": Contender("LIME (lime)", "lime", "lime", _lime, images=True),
    "captum_kernel_shap": Contender(
        "KernelSHAP (captum)", "kernel_shap", "captum", _captum_segments("KernelShap")
    ),
    "shap_kernel": Contender(
        "KernelExplainer (shap)", "kernel_shap", "shap", _shap_kernel
    ),
    "shap_partition": Contender(
        "PartitionExplainer (shap)", "kernel_shap", "shap", _shap_partition, images=True
    ),
    "rise_paper": Contender("RISE, as in the paper", "rise", "torch", _rise, images=True),
}  # fmt: skip
