"""What the model says of points in the caller's units."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from ..errors import ArgumentError
from ..models.black_box import BlackBox
from ..models.score import RowScore, owner_of
from ..runtime.chunks import Chunk, ChunkPlanner, run_chunks
from ..runtime.stopwatch import Stopwatch


def outputs_at(
    rows: RowScore,
    points: Tensor,
    watch: Stopwatch,
    who: str,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """The model's outputs [R, ...] at points [R, ...], float64, without a graph.

    Asked in chunks that fit the processor's cache or the GPU's memory, normalised as they are
    written, in the memory format; the time is the watch's "model".

    Raises:
        ArgumentError: they are no numbers, in the name of `who`.
    """
    score = rows.score
    affine = score.affines[0] if score.affines else None
    end = torch.ones(1, dtype=torch.float64, device=points.device)
    layout = memory_format if points.dim() == 4 else torch.contiguous_format
    answers: dict[int, Tensor] = {}

    def run(chunk: Chunk) -> None:
        inputs = points[chunk.examples]
        if affine is None:
            inputs = inputs.contiguous(memory_format=layout)
        else:
            inputs = ops.path_points(
                inputs, 0.0, end, scale=affine.scale, shift=affine.shift, memory_format=layout
            )
        with watch.part("model"):
            outputs = rows.take(chunk.examples).outputs((inputs,))
        answers[chunk.examples.start] = outputs.double()

    planner = ChunkPlanner(
        owner_of(score.forward), (points,), score.max_rows, "answer points", static=score.static
    )
    only_answers = isinstance(score.forward, BlackBox)
    if only_answers and not planner.measured:
        # Its memory is elsewhere; and what is measured is run again where that fails.
        planner.learn(0, 1)
    with torch.no_grad():
        work = Chunk(slice(0, len(points)), slice(0, 1))
        run_chunks(work, planner, run, score.cost, measure=not only_answers)
    outputs = torch.cat([answers[begin] for begin in sorted(answers)])
    wrong = ~outputs.reshape(len(outputs), -1).isfinite().all(1)
    if bool(wrong.any()):
        raise ArgumentError(
            f"{who}: the model must answer with finite numbers, got nan or inf for "
            f"{int(wrong.sum())} of {len(outputs)} inputs"
        )
    return outputs
