"""Methods that hide segments of an input, ask, and read importance from the answers."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..models.preprocessing import Preprocessing
from ..models.score import ForwardFunc, module_of
from ..queries import SEGMENT_MEAN, Coalitions, Queries, ask, bernoulli_coalitions
from ..queries.hidden import as_hidden
from ..runtime.cost import Cost
from ..runtime.inference import outside_inference_mode
from ..runtime.memory_format import choose_memory_format
from ..runtime.progress import progress_bar
from ..segments import n_segments, segments_for
from .arguments import as_given, baseline_tensors, input_tensors
from .attribution import AttributionMethod, timed
from .loop import LoopOptions

LEAST_QUERIES = 3


def check_queries(op: str, n_queries: Any) -> None:
    try:
        enough = not isinstance(n_queries, bool) and operator.index(n_queries) >= LEAST_QUERIES
    except TypeError:
        enough = False
    if not enough:
        raise ArgumentError(
            f"{op}: n_queries must be an integer >= {LEAST_QUERIES}, got {n_queries!r}"
        )


class PerturbationMethod(AttributionMethod):
    """A method that only asks: about inputs with some of their segments hidden.

    The same queries serve every such method: `queries` asks them once, and `read` of any method
    makes its maps of them.

    Args:
        segments: which features are hidden together; see `pyxai_fast.segments.segments_for`. By
            default superpixels for pictures, tiles for small ones, and each feature of a table by
            itself. `feature_mask` of a call takes its place.
        forward_func, memory_format, select_output, preprocessing: see AttributionMethod.
        output: what of the model is explained; by default "prob", whose range is known.
    """

    def __init__(
        self,
        forward_func: ForwardFunc,
        segments: Any = None,
        *,
        memory_format: str = "auto",
        output: str = "prob",
        select_output: Callable[[Any], Tensor] | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__(
            forward_func,
            memory_format=memory_format,
            output=output,
            select_output=select_output,
            preprocessing=preprocessing,
        )
        self.segments = segments

    # What a method defines.

    hidden_by_default = SEGMENT_MEAN
    # Where a call names no other number.
    n_queries = 1000
    # How the coalitions were drawn that it can make values of.
    reads: tuple[str, ...] = ("bernoulli",)

    def values(self, queries: Queries) -> Tensor:
        """Importance of each segment: float64 [B, n, S], n = 1 for a single target; 0 for numbers
        that an input has no segment for."""
        raise NotImplementedError(f"{type(self).__name__} must define values")

    def coalitions(
        self, n_queries: int, n_segments: Sequence[int], seed: int, device: torch.device
    ) -> Coalitions:
        return bernoulli_coalitions(n_queries, n_segments, seed, device)

    # What all of them do.

    def check_call(self, n_queries: int | None = None, seed: int = 0, **options: Any) -> None:
        if n_queries is not None:
            check_queries("attribute", n_queries)
        if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**64:
            raise ArgumentError(f"attribute: seed must be an integer of 64 bits, got {seed!r}")

    def starts(self, inputs: tuple[Tensor, ...], baselines: Any) -> tuple[Tensor, ...]:
        self.check_inputs(inputs)
        return super().starts(inputs, None if isinstance(baselines, str) else baselines)

    def steps_of(self, n_queries: int | None = None, **options: Any) -> int:
        return self.n_queries if n_queries is None else operator.index(n_queries)

    @outside_inference_mode
    def queries(
        self,
        inputs: Tensor,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Tensor | None = None,
        n_queries: int | None = None,
        seed: int = 0,
        *,
        internal_batch_size: int | None = None,
        show_progress: bool = False,
        cost: Cost | None = None,
    ) -> Queries:
        """Asks: the coalitions, and what the model answered to them. Arguments are those of
        `attribute`."""
        self.check_call(n_queries=n_queries, seed=seed)
        cost = Cost() if cost is None else cost
        options = LoopOptions(max_rows=internal_batch_size)
        with timed(cost), torch.no_grad():
            tensors = input_tensors(inputs, self.forward_func)
            self.check_inputs(tensors)
            (given,) = (x.detach() for x in tensors)
            segments = segments_for(given, self.segments if feature_mask is None else feature_mask)
            segments = segments.to(given.device, torch.int32)
            wanted = as_hidden(baselines, given, segments, self.hidden_by_default)
            (hidden,) = baseline_tensors(wanted, (given,))
            counts = [n_segments(one) for one in segments] * (len(given) // len(segments))
            coalitions = self.coalitions(self.steps_of(n_queries), counts, seed, given.device)
            score = self._score((given,), target, additional_forward_args, cost)
            score.max_rows = options.max_rows
            rows = len(given) * len(coalitions.words)
            self.check_budget(rows)
            cost.memory_format = choose_memory_format(
                self.memory_format,
                module_of(self.forward_func),
                (given,),
                rows,
                options.max_rows,
                lambda points: score.rows(slice(0, len(points[0])))(points),
            )
            bar = progress_bar(show_progress, rows, type(self).__name__)
            score.answered = bar.update
            try:
                scores = ask(score, given, segments, hidden.to(given.dtype), coalitions)
            finally:
                bar.close()
        return Queries(
            given, segments, hidden.to(given.dtype), coalitions, tuple(counts), scores, seed
        )

    def read(
        self, queries: Queries, return_input_shape: bool = True, *, show_progress: bool = False
    ) -> Tensor:
        """Maps from queries that were asked before, by this method or another.

        Args:
            queries: what `queries` of a method gave.
            return_input_shape: False gives the values of the segments.
            show_progress: of methods that learn from the queries.

        Returns:
            [B, ...] as the inputs (or [B, n, ...]), float32, each feature with the value of its
            segment; without `return_input_shape` the segments' values, [B, S] (or [B, n, S]).
        """
        self.check_drawn(queries)
        if not len(queries.inputs):
            return self.of_nothing(queries, return_input_shape)
        rows = queries.rows()
        blind = int((rows.amax(1) == rows.amin(1)).sum())
        if blind:
            warnings.warn(
                f"{type(self).__name__}: {blind} of {rows.shape[0] * rows.shape[2]} maps are zeros:"
                " the model answers the same whatever is hidden; other baselines may hide more",
                stacklevel=3,
            )
        values = self.values(queries)
        values = values if queries.several else values[:, 0]
        return (queries.painted(values) if return_input_shape else values).float()

    @staticmethod
    def of_nothing(queries: Queries, return_input_shape: bool) -> Tensor:
        """Maps of an empty batch, or its segments' values."""
        features = queries.inputs.shape[1:] if return_input_shape else (0,)
        targets = queries.scores.shape[2:]
        return torch.zeros(0, *targets, *features, device=queries.inputs.device)

    def check_inputs(self, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs) != 1:
            raise ArgumentError(
                f"{type(self).__name__}: inputs must be one tensor, got a tuple of {len(inputs)}"
            )

    def check_drawn(self, queries: Queries) -> None:
        if queries.coalitions.drawn not in self.reads:
            raise ArgumentError(
                f"{type(self).__name__}: queries must be of coalitions drawn as "
                f"{' or '.join(self.reads)}, got {queries.coalitions.drawn}"
            )

    @outside_inference_mode
    def attribute(
        self,
        inputs: Tensor,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Tensor | None = None,
        n_queries: int | None = None,
        seed: int = 0,
        *,
        return_input_shape: bool = True,
        internal_batch_size: int | None = None,
        show_progress: bool = False,
        return_standard_error: bool = False,
        cost: Cost | None = None,
    ) -> Any:
        """The importance of each segment, on all of its features.

        Args:
            inputs: [B, ...], one tensor.
            baselines: what stands for a segment that is hidden: a number or a tensor, as for
                IntegratedGradients, or "segment_mean" (of each channel; the default) or
                "segment_grey" (of all channels together). For tables 0 is the default; a mean of
                the data, [1, D], is the better choice.
            target: which output is explained, as for IntegratedGradients; several Targets share the
                queries.
            feature_mask: int [B or 1, 1 or C, ...], the segment of each feature, from 0.
            n_queries: rows that the model is asked for each input: the whole input, the input with
                everything hidden, and others at random. By default the method's own: 1000 but for
                those that are trained.
            seed: of the coalitions, which are the same for all inputs.
            return_input_shape: False gives the values of the segments instead, [B, S].
            return_standard_error: must be False.
            additional_forward_args, internal_batch_size, show_progress, cost: as in
                IntegratedGradients.attribute.

        Returns:
            float32, shaped as the inputs, on their device; [B, n, ...] for n Targets.

        Raises:
            TypeError, ValueError: naming the argument, what it must be and what it is.
        """
        if return_standard_error:
            raise ArgumentError(
                f"attribute: return_standard_error must be False for {type(self).__name__}, got "
                "True"
            )
        cost = Cost() if cost is None else cost
        queries = self.queries(
            inputs,
            baselines,
            target,
            additional_forward_args,
            feature_mask,
            n_queries,
            seed,
            internal_batch_size=internal_batch_size,
            show_progress=show_progress,
            cost=cost,
        )
        with timed(cost):
            maps = self.read(queries, return_input_shape, show_progress=show_progress)
            return as_given((maps,), inputs)
