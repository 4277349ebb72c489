"""How many rows a model is asked at once, where it is only asked."""

from __future__ import annotations

from torch import Tensor

from ..runtime.chunks import ANSWER_CHUNK_BYTES, ChunkPlanner
from .black_box import BlackBox
from .score import Score, owner_of


def row_planner(
    score: Score, inputs: tuple[Tensor, ...], purpose: str, rows_per_step: int = 1
) -> ChunkPlanner:
    """The planner of the rows that a score is asked for without gradients; see ChunkPlanner."""
    only_answers = isinstance(score.forward, BlackBox)
    planner = ChunkPlanner(
        owner_of(score.forward),
        inputs,
        score.max_rows,
        purpose,
        rows_per_step,
        cpu_bytes=ANSWER_CHUNK_BYTES if only_answers else None,
        static=score.static,
    )
    if only_answers and not planner.measured:
        # Its memory is elsewhere; and what is measured is run again where that fails.
        planner.learn(0, 1)
    return planner
