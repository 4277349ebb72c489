"""What an explanation cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Cost:
    """Counts of model work, filled in while it runs.

    Attributes:
        gradients: rows (one input each) sent through the model forward and backward.
        queries: rows sent through the model forward only.
        denoised: rows sent through a diffusion prior.
        probes: rows spent on measuring (memory format), not part of the two counts above.
        seconds: wall time of the whole call, model included.
        rows_per_chunk: the most rows that were sent through the model at once.
        memory_format: of the model inputs, "contiguous" or "channels_last".
        backend: what ran the kernels: "cpu (avx512)", "cuda", "reference"...
        out_of_memory: how often a chunk was halved for lack of memory.
        parts: seconds spent in parts of the work, "model" and "prior", where these are timed apart:
            of a white box on a CPU, in all gradients along paths.
    """

    gradients: int = 0
    queries: int = 0
    denoised: int = 0
    probes: int = 0
    seconds: float = 0.0
    rows_per_chunk: int = 0
    memory_format: str = "contiguous"
    backend: str = "reference"
    out_of_memory: int = 0
    parts: dict[str, float] = field(default_factory=dict)

    def add_parts(self, seconds: dict[str, float]) -> None:
        for name, value in seconds.items():
            self.parts[name] = self.parts.get(name, 0.0) + value

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
