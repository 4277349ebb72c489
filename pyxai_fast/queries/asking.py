"""Asking a black box about an input with segments hidden, as many rows at once as fit."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from ..models.row_planner import row_planner
from ..models.score import Score
from ..runtime.chunks import Chunk, run_chunks
from ..runtime.memory_format import FORMATS
from .coalitions import Coalitions
from .queries import of_examples, words_of


def ask(
    score: Score, inputs: Tensor, segments: Tensor, hidden: Tensor, coalitions: Coalitions
) -> Tensor:
    """The scores of every input under every coalition: float64 [Q, B], or [Q, B, n].

    Masked inputs are written straight as model inputs, chunk after chunk into one buffer.

    Args:
        score: of the batch; its affine map is applied where it has one.
        inputs: [B, ...], in the caller's units; segments, hidden and coalitions as in Queries.
    """
    batch, count = inputs.shape[0], len(coalitions.words)
    score.cost.backend = ops.backend_of(inputs.device)
    affine = score.affines[0] if score.affines else None
    layout = FORMATS[score.cost.memory_format] if inputs.dim() == 4 else torch.contiguous_format
    n = (score.n_targets,) if score.several else ()
    scores = torch.empty(count, batch, *n, dtype=torch.float64, device=inputs.device)
    buffer: Tensor | None = None

    def run(chunk: Chunk) -> None:
        nonlocal buffer
        if buffer is None or len(buffer) < chunk.rows:
            buffer = None  # the old one need not live beside the new one
            buffer = torch.empty(
                (chunk.rows, *inputs.shape[1:]),
                dtype=inputs.dtype,
                device=inputs.device,
                memory_format=layout,
            )
        points = ops.mask_segments(
            inputs[chunk.examples],
            of_examples(segments, chunk.examples),
            words_of(coalitions, chunk.steps, chunk.examples),
            of_examples(hidden, chunk.examples),
            scale=None if affine is None else affine.scale,
            shift=None if affine is None else affine.shift,
            out=buffer[: chunk.rows],
        )
        found = score.rows(chunk.examples, chunk.steps, count)((points,))
        rows = found.double().unflatten(0, (-1, chunk.examples.stop - chunk.examples.start))
        scores[chunk.steps, chunk.examples] = rows

    planner = row_planner(score, (inputs,), "masked queries")
    with torch.no_grad():
        work = Chunk(slice(0, batch), slice(0, count))
        run_chunks(work, planner, run, score.cost)
    return scores
