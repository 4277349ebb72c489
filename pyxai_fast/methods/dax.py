"""DAX: a mask that is learnt by distillation."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..distillation import (
    LOSSES,
    SEES,
    DistillationRecipe,
    Distilled,
    Networks,
    Transform,
    distil,
    recipe_for,
)
from ..errors import ArgumentError, is_one_of
from ..models.preprocessing import Preprocessing
from ..models.score import ForwardFunc
from ..queries import SEGMENT_GREY, Queries
from ..runtime.inference import outside_inference_mode
from .perturbation import PerturbationMethod, check_queries

# A student ends with a sigmoid. A model whose answers are in [0, 1] by themselves has "logit".
OUTPUTS = ("prob", "logit")
# Points at which the slope of a table's student is looked at.
WAY = 16
# Of held-out errors: a student above it has learnt next to nothing of what the model does.
LOST = 0.8


class DAX(PerturbationMethod):
    """The mask under which a small student, trained for this input, answers as the black box does.

    Segments of the input are hidden at random and the black box is asked. Then a mask and a small
    network, the student, are trained together on its answers: the student sees what the mask
    leaves. The explanation is the mask of the whole input, from 0 to 1, all channels of a pixel
    alike. "Gradient-free Post-hoc Explainability Using Distillation Aided Learnable Approach"
    (2024). No gradient of the black box is used. A mask says that something counts, not in which
    direction.

    What the student sees is one of two things:

    - "segments": which of them are kept. The mask has a value for each segment, which is near 1
      where what the segment explains of the answers' variance is worth more than its price
      (`loss`), and near 0 elsewhere; several that explain the same are near 1 alike. Where the mask
      hides, the student sees another query. Of pictures, sounds and tables.
    - "pixels", as in the paper: small convolutional networks make a mask of what they see of each
      query, and the student sees the picture under it. Of pictures and sounds. Masks of this kind
      rarely find what the black box looks at (see `benchmarks/quality/localisation.md`), and take
      a hundred times as long.

    Several inputs, and several targets of an input, are trained side by side, each with weights of
    its own and, with mask_norm="sample", as if it had been trained alone, to rounding. What was
    learnt, and how well, is in `distilled` after a call.

    Args:
        segments: see PerturbationMethod; of a table, groups of columns (`feature_mask`).
        n_queries: rows that the model is asked for each input, where a call names no other number.
        sees: "segments" or "pixels"; None for pixels where pictures are explained with the paper's
            losses, "release" and "paper3", and for segments otherwise.
        transform: of masked inputs, [R, ...] to [R, C, H, W], what networks that see pixels are to
            see of them, of the inputs' height and width: log spectra of sounds. None for pictures.
        loss, answers, mask_norm, student_size, cell, border, filters, width, n_epochs, mask_epochs,
            batch_size, learning_rate, momentum, dropout, augment, held_out, patience, compile: see
            `pyxai_fast.distillation.DistillationRecipe`; None is its default, or where segments are
            seen that of `pyxai_fast.distillation.OF_SEGMENTS`.
        forward_func, memory_format, select_output, preprocessing: see PerturbationMethod.
        output: "prob", or "logit" for a model whose answers are in [0, 1] by themselves.

    Attributes:
        distilled: what the last call learnt; see `pyxai_fast.distillation.Distilled`.

    Example:
        >>> dax = DAX(model, segments="quickshift", n_queries=1000)
        >>> masks = dax.attribute(pictures, target=classes)          # [B, 3, H, W] in [0, 1]
        >>> dax.distilled.held_out_error[-1]                         # 0: as the model; 1: no idea
    """

    hidden_by_default = SEGMENT_GREY
    # Whether all epochs are trained, of which the last do not change the masks.
    _keeps_student = False

    def __init__(
        self,
        forward_func: ForwardFunc,
        segments: Any = None,
        *,
        n_queries: int = 3000,
        sees: str | None = None,
        transform: Transform | None = None,
        loss: str | tuple[float, float, float] | None = None,
        answers: str | None = None,
        mask_norm: str = "sample",
        student_size: int = 128,
        cell: int | None = None,
        border: int | None = None,
        filters: int = 32,
        width: int | None = None,
        n_epochs: int | None = None,
        mask_epochs: tuple[int, int] | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        momentum: float = 0.9,
        dropout: float | None = None,
        augment: bool = True,
        held_out: float = 0.1,
        patience: int | None = None,
        compile: bool = False,
        memory_format: str = "auto",
        output: str = "prob",
        select_output: Callable[[Any], Tensor] | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__(
            forward_func,
            segments,
            memory_format=memory_format,
            output=output,
            select_output=select_output,
            preprocessing=preprocessing,
        )
        if not is_one_of(output, OUTPUTS):
            raise ArgumentError(
                f"{type(self).__name__}: output must be {' or '.join(OUTPUTS)}, which a student "
                f"can answer, got {output!r}"
            )
        check_queries(type(self).__name__, n_queries)
        self.n_queries = n_queries
        self.transform = transform
        self._recipe_options = dict(
            loss=loss, answers=answers, mask_norm=mask_norm, student_size=student_size, cell=cell,
            border=border, filters=filters, width=width, n_epochs=n_epochs, mask_epochs=mask_epochs,
            batch_size=batch_size, learning_rate=learning_rate, momentum=momentum, dropout=dropout,
            augment=augment, held_out=held_out, patience=patience, compile=compile,
        )  # fmt: skip
        if sees is not None and not is_one_of(sees, SEES):
            raise ArgumentError(
                f"{type(self).__name__}: sees must be one of {', '.join(SEES)}, got {sees!r}"
            )
        self._sees = sees
        # What suits no inputs is refused before the model is asked.
        self._recipe(dimensions=4)
        self.distilled: Distilled | None = None

    def check_inputs(self, inputs: tuple[Tensor, ...]) -> None:
        super().check_inputs(inputs)
        if inputs[0].dim() not in (2, 4):
            raise ArgumentError(
                f"{type(self).__name__}: inputs must be pictures [B, C, H, W] or tables [B, D], "
                f"got {list(inputs[0].shape)}"
            )

        if inputs[0].dim() == 2 and self._sees == "pixels":
            raise ArgumentError(
                f"{type(self).__name__}: sees must be segments, or None, for tables, got 'pixels'"
            )

    def _recipe(self, dimensions: int) -> DistillationRecipe:
        options, sees = self._recipe_options, self._sees
        if sees is None:
            as_in_the_paper = is_one_of(options["loss"], LOSSES) and dimensions > 2
            sees = "pixels" if as_in_the_paper else "segments"
        return recipe_for(sees, **options)

    @outside_inference_mode
    def read(
        self, queries: Queries, return_input_shape: bool = True, *, show_progress: bool = False
    ) -> Tensor:
        """Maps learnt from queries that were asked before; see PerturbationMethod.read.

        Without `return_input_shape` the mean over each segment.
        """
        self.check_drawn(queries)
        if not len(queries.inputs):
            self.distilled = None
            return self.of_nothing(queries, return_input_shape)
        name = type(self).__name__
        low, high = float(queries.scores.min()), float(queries.scores.max())
        if not 0 <= low <= high <= 1 + 1e-6:
            others = "; output='prob' makes them so, and kernel_shap, lime and rise take any"
            raise ArgumentError(
                f"{name}: the model's answers must be in [0, 1], got {low:.4g} to {high:.4g}"
                f"{'' if low != low else others}"
            )
        self.distilled = found = distil(
            queries,
            self._recipe(queries.inputs.dim()),
            transform=self.transform,
            keep_student=self._keeps_student,
            show_progress=show_progress,
        )
        blind = int((~found.evidence).sum())
        if blind:
            warnings.warn(
                f"{name}: no evidence for {blind} of {len(found.evidence)} maps, which are zeros: "
                "the model answers the same whatever is hidden, within a millionth",
                stacklevel=3,
            )
        lost = int((found.held_out_error[-1:] > LOST).sum())
        if lost:
            warnings.warn(
                f"{name}: do not rely on {lost} of {len(found.evidence)} maps: their student "
                "answers queries that it was not trained on hardly better than by the mean; "
                f"ask more than n_queries={len(queries)}, or hide fewer segments",
                stacklevel=3,
            )
        maps = self._maps(queries, found)
        maps = maps.expand(*maps.shape[:2], *queries.inputs.shape[1:]).contiguous()
        if not return_input_shape:
            maps = queries.means(maps)
        return maps if queries.several else maps[:, 0]

    def _maps(self, queries: Queries, found: Distilled) -> Tensor:
        """[B, n, ...], one channel or as many as the inputs."""
        return found.masks


class StudentGradient(DAX):
    """The slope of DAX's student, times what hiding changes: what it costs to make no mask.

    Positive where what is hidden would be missed. A baseline for DAX from the same queries.

    Of segments, whose student has seen kept and hidden ones and nothing between them, the mean
    slope on the way from nothing to everything: on the scale of what the student learns, or with
    answers="stretched" in the units of the answers. Of pixels, with the whole
    input u, the input o with everything hidden, and the trained networks S and M:
    ``(u - o) d S(u M(u)) / d u``, summed over channels.

    The constructor's arguments are those of DAX.
    """

    _keeps_student = True

    def _maps(self, queries: Queries, found: Distilled) -> Tensor:
        products = torch.cat([_slopes(networks) for networks in found.networks])
        scales = found.evidence.to(products) * found.span.to(products)
        products = products * scales.view(-1, *[1] * (products.dim() - 1))
        each = products.unflatten(0, (-1, found.masks.shape[1]))
        first = 0
        maps = []
        for networks in found.networks:
            some = each[first : first + networks.batch]
            maps.append(torch.stack([networks.view.on_inputs(one) for one in some.unbind(1)], 1))
            first += networks.batch
        return torch.cat(maps)


def _slopes(networks: Networks) -> Tensor:
    """[E, 1, h, w], or [E, S]."""
    whole, nothing = networks.seen(slice(0, 2)).unbind(1)
    way = whole - nothing
    left = torch.zeros(1) if whole.dim() > 2 else 1 - (torch.arange(WAY) + 0.5) / WAY
    left = left.to(whole).view(-1, *[1] * (whole.dim() - 1))
    seen = (whole[:, None] - left * way[:, None]).requires_grad_()
    with torch.enable_grad():
        (slopes,) = torch.autograd.grad(networks.answer(seen).sum(), seen)
    products = slopes.mean(1) * way
    return products.sum(1, keepdim=True) if products.dim() > 2 else products
