"""Expected gradients: Integrated Gradients, averaged over a set of references."""

from __future__ import annotations

import functools
import operator
import warnings
from typing import Any

from torch import Tensor

from ..errors import ArgumentError, check_bool
from ..gradients import Slopes
from ..models.score import Score
from ..paths.quadrature import check_quadrature
from ..paths.reference_lines import ReferenceLines, ReferenceTrace
from ..runtime.cost import Cost
from ..runtime.inference import outside_inference_mode
from .arguments import baseline_tensors, check_real, input_tensors
from .attribution import as_asked
from .gradient_method import GradientMethod, Recipe
from .loop import LoopOptions, Run, contract


class ExpectedGradients(GradientMethod):
    """The mean over references x' and positions alpha of slope times way.

    ``attribution_i = E over x' and alpha ~ U(0, 1) of (x_i - x'_i) ds/dx_i (x' + alpha (x - x'))``

    Erion, Janizek, Sturmfels, Lundberg and Lee, "Improving performance of deep learning models with
    axiomatic attribution priors and expected gradients" (2021). SHAP's GradientExplainer and
    captum's GradientShap estimate the same. Each sample draws a reference and a position, so that
    attributions add up to the difference of the score of the input and the mean score of the
    references, as far as the samples go: they are a mean of independent samples, and have a
    standard error. Memory does not grow with the samples.

    The constructor's arguments are those of GradientMethod.
    """

    @property
    def multiplies_by_inputs(self) -> bool:
        return True

    def has_convergence_delta(self) -> bool:
        return self.gradient.explains_score

    def is_estimate(self) -> bool:
        return True

    def check_call(self, n_samples: int = 200, stratified: bool = False, **options: Any) -> None:
        check_quadrature("riemann_middle", n_samples, "n_samples")
        check_bool("attribute", "stratified", stratified)

    def steps_of(self, n_samples: int = 200, **options: Any) -> int:
        return n_samples

    @outside_inference_mode
    def attribute(
        self,
        inputs: Any,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_samples: int = 200,
        seed: int = 0,
        stratified: bool = False,
        *,
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        create_graph: bool = False,
        show_progress: bool = False,
        return_standard_error: bool = False,
        cost: Cost | None = None,
    ) -> Any:
        """Attributions shaped as the inputs, in the caller's units.

        Args:
            baselines: the references, [R, ...], for all inputs alike: a sample of the data. A tuple
                of as many each for a tuple of inputs, rows of which belong together. None or a
                number is a single reference.
            n_samples: of each input; each draws a reference and a position.
            seed: of the draws; the same seed gives the same ones for every choice of chunks.
            stratified: positions are spread evenly over the line. Attributions vary less, and the
                standard error, which does not know it, says too much.
            return_convergence_delta: also return the completeness gap of each example, to the mean
                score of all references. It is as large as chance makes it.
            create_graph: attributions can be differentiated, for training on them; the graph of
                all samples is kept. A few samples will do there.
            return_standard_error: also return the standard errors of the attributions, of samples
                and (where the gradient is an estimate) of slopes.
            inputs, target, additional_forward_args, internal_batch_size, show_progress, cost: as in
                IntegratedGradients.attribute.

        Returns:
            As IntegratedGradients.attribute.

        Raises:
            TypeError, ValueError: naming the argument, what it must be and what it is.
        """
        self._check_delta_wanted(return_convergence_delta)
        self.check_call(n_samples)
        cost = Cost() if cost is None else cost
        references = reference_tensors(baselines, input_tensors(inputs, self.forward_func))
        if len(references[0]) == 1:
            warnings.warn(
                "ExpectedGradients: there is a single reference, so that this is no more than "
                "Integrated Gradients by chance; give baselines, a sample of the data",
                stacklevel=3,
            )
        path = ReferenceLines(references, seed, stratified, return_standard_error, self.numbers)
        run = SampledRun if return_standard_error else Run
        found = self._attribute(
            inputs,
            None,
            target,
            additional_forward_args,
            Recipe(path, operator.index(n_samples), "riemann_middle", True),
            LoopOptions(
                internal_batch_size, self.memory_format, create_graph, show_progress, False
            ),
            cost,
            loop=functools.partial(contract, run=run),
        )
        delta = None
        if return_convergence_delta:
            delta = self._delta(
                found,
                baselines,
                inputs,
                target,
                additional_forward_args,
                internal_batch_size,
                cost,
            )
        return as_asked(found.attributions, delta, found.standard_errors)

    def starts(self, inputs: tuple[Tensor, ...], baselines: Any) -> tuple[Tensor, ...]:
        return reference_tensors(baselines, inputs)

    def _start_scores(
        self,
        score: Score,
        inputs: tuple[Tensor, ...],
        starts: tuple[Tensor, ...],
        max_rows: int | None,
    ) -> Tensor:
        """The mean score of the references, for each input's target: [B], or [B, n]."""
        batch, count = inputs[0].shape[0], starts[0].shape[0]
        starts = self._same_type(starts, inputs)
        if not score.additional_forward_args:
            # What is asked depends on the reference alone.
            alone = self._score(starts, None, None, score.cost)
            mean = self._forward(alone, starts, max_rows).double().mean(0, keepdim=True)
            return score.select(mean.expand(batch, *mean.shape[1:]))
        total: Tensor | float = 0.0
        for i in range(count):
            one = tuple(r[i : i + 1].expand(batch, *r.shape[1:]) for r in starts)
            total = total + score.select(self._forward(score, one, max_rows)).double()
        assert isinstance(total, Tensor)
        return total / count


class SampledRun(Run):
    """The variances of the sums are those of the samples that were added up."""

    def totals(self) -> Slopes:
        traces = [trace for trace in self.traces if isinstance(trace, ReferenceTrace)]
        variances = tuple(
            trace.variances(total) for trace, total in zip(traces, self.sums, strict=True)
        )
        return Slopes(tuple(self.sums), variances)


def reference_tensors(references: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """References as tensors [R, ...] on the devices and in the types of the inputs."""
    given = references if isinstance(references, tuple) else (references,) * len(inputs)
    if references is not None and not isinstance(references, tuple) and len(inputs) > 1:
        given = (references,)
    if len(given) != len(inputs):
        raise ArgumentError(
            f"baselines: baselines must be given for each of the {len(inputs)} inputs, got "
            f"{len(given)}"
        )
    found = []
    for reference, x in zip(given, inputs, strict=True):
        if isinstance(reference, Tensor) and reference.dim() > 0:
            check_real("baselines", "baselines", reference)
            if reference.shape[1:] != x.shape[1:] or reference.shape[0] < 1:
                raise ArgumentError(
                    "baselines: baselines must be references "
                    f"[{', '.join(map(str, ('R', *x.shape[1:])))}], R >= 1, got "
                    f"{list(reference.shape)}"
                )
            found.append(reference.to(x.device, x.dtype))
        else:
            (one,) = baseline_tensors(reference, (x,))
            found.append(one.expand(1, *x.shape[1:]).to(x.dtype))
    count = max(len(r) for r in found)
    if any(len(r) not in (1, count) for r in found):
        raise ArgumentError(
            "baselines: baselines must be as many for each of the inputs, got "
            f"{', '.join(str(len(r)) for r in found)}"
        )
    return tuple(r.expand(count, *r.shape[1:]) for r in found)
