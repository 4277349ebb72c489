"""What the model says of points in the caller's units."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from ..models.score import RowScore, owner_of
from ..runtime.chunks import Chunk, ChunkPlanner, run_chunks
from ..runtime.stopwatch import Stopwatch


def outputs_at(rows: RowScore, points: Tensor, watch: Stopwatch) -> Tensor:
    """The model's outputs [R, ...] at points [R, ...], float64, without a graph.

    Asked in chunks that fit the processor's cache or the GPU's memory, normalised as they are
    written; the time is the watch's "model".
    """
    affine = rows.score.affines[0] if rows.score.affines else None
    end = torch.ones(1, dtype=torch.float64, device=points.device)
    answers: dict[int, Tensor] = {}

    def run(chunk: Chunk) -> None:
        inputs = points[chunk.examples]
        if affine is not None:
            inputs = ops.path_points(inputs, 0.0, end, scale=affine.scale, shift=affine.shift)
        with watch.part("model"):
            outputs = rows.take(chunk.examples).outputs((inputs,))
        answers[chunk.examples.start] = outputs.double()

    planner = ChunkPlanner(
        owner_of(rows.score.forward), (points,), rows.score.max_rows, "answer points"
    )
    with torch.no_grad():
        work = Chunk(slice(0, len(points)), slice(0, 1))
        run_chunks(work, planner, run, rows.score.cost)
    return torch.cat([answers[begin] for begin in sorted(answers)])
