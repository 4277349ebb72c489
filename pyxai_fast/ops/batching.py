"""What the ops' rules for torch.vmap share."""

from __future__ import annotations

from torch import Tensor


def mapped_first(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """[V, ...], where the mapped dimension was `dim`, or there was none."""
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def folded_rows(rows: Tensor, inputs: Tensor) -> Tensor:
    """Rows [V, ...] of any kind for inputs [V, B, ...], as [V * B, ...]."""
    missing = inputs.dim() - rows.dim()
    rows = rows.reshape(rows.shape[0], *[1] * missing, *rows.shape[1:])
    return rows.expand(inputs.shape).flatten(0, 1)


def refuse_mapped(op: str, names: str, in_dims: tuple[int | None, ...]) -> None:
    if any(dim is not None for dim in in_dims):
        raise NotImplementedError(f"{op}: {names} must not be mapped by vmap, got mapped")
