"""What the model says of points in the caller's units."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from ..errors import ArgumentError
from ..models.row_planner import row_planner
from ..models.score import RowScore
from ..runtime.chunks import Chunk, run_chunks
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

    planner = row_planner(score, (points,), "answer points")
    with torch.no_grad():
        work = Chunk(slice(0, len(points)), slice(0, 1))
        run_chunks(work, planner, run, score.cost)
    outputs = torch.cat([answers[begin] for begin in sorted(answers)])
    wrong = ~outputs.reshape(len(outputs), -1).isfinite().all(1)
    if bool(wrong.any()):
        raise ArgumentError(
            f"{who}: the model must answer with finite numbers, got nan or inf for "
            f"{int(wrong.sum())} of {len(outputs)} inputs"
        )
    return outputs
