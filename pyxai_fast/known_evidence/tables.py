"""Rows of correlated columns, one or two of which decide the class, made from a seed."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ArgumentError
from .draws import Draws
from .examples import Examples

PER = ("class", "row")
# Columns of each group; a fourth has nothing to do with any class.
CAUSES, PARTNERS, COMPANIONS = (0, 4, 8), (1, 5, 9), (2, 6, 10)
COLUMNS, GROUPS = 12, 3
CLASS_NAMES = ("first", "second", "third", "nothing")
SIDE_NAMES = ("low", "high", "nothing")

# In standard deviations: how far what decides is raised, and how far it is from 0 elsewhere.
RAISED, USUAL = (1.6, 3.0), 0.8
# How much of its cause is in a companion.
FOLLOWS = 0.9


def make_tables(
    count: int, seed: int, *, per: str = "class", interactions: bool = False
) -> Examples:
    """Rows whose class is decided by a column that is raised.

    There are three groups of four columns: a cause, a partner, a companion, and one that has
    nothing to do with any. Causes and partners are within 0.8 where they are not raised. A
    companion is 0.9 of its cause and noise, raised or not: it goes along with the class in the
    data, and decides nothing.

    Args:
        count: how many; classes are in equal shares.
        seed: of everything.
        per: "class": each class has a cause of its own, which is raised by 1.6 to 3. "row": any of
            the three causes is, to either side; the class is "low" or "high" (SIDE_NAMES), and
            which column it was, the row alone tells.
        interactions: a row is of a class where both its cause and the cause's partner are raised;
            in `without` it is one of them, or neither. Needs per="class".

    Returns:
        Examples: inputs [count, 12], masks [count, 12], of the columns that are raised. The
        companion of the cause is the decoy, and is in `without` as it was.

    Raises:
        ValueError: an argument that does not fit, naming it.
    """
    draws = Draws("make_tables", count, seed)
    if per not in PER:
        raise ArgumentError(f"make_tables: per must be one of {', '.join(PER)}, got {per!r}")
    if interactions and per == "row":
        raise ArgumentError("make_tables: interactions must be False where per='row', got True")
    labels = draws.labels(GROUPS if per == "class" else 2)
    groups, sides = labels, torch.ones(count)
    if per == "row":
        groups, sides = torch.randint(GROUPS, (count,), generator=draws.generator), 2.0 * labels - 1
    usual, others = draws.between(-USUAL, USUAL, COLUMNS), draws.normal(COLUMNS)
    deciding = _cells(torch.arange(GROUPS), CAUSES, PARTNERS).any(0)
    without = torch.where(deciding, usual, others)
    causes, partners = (_cells(groups, columns) for columns in (CAUSES, PARTNERS))
    masks = causes | partners if interactions else causes
    inputs = torch.where(masks, draws.between(*RAISED, COLUMNS) * sides[:, None], without)
    own = (1 - FOLLOWS**2) ** 0.5 * others[:, COMPANIONS]
    inputs[:, COMPANIONS] = without[:, COMPANIONS] = FOLLOWS * inputs[:, CAUSES] + own
    if interactions:
        left = torch.randint(3, (count, 1), generator=draws.generator)
        without = torch.where((causes & (left == 0)) | (partners & (left == 1)), inputs, without)
    return Examples(inputs, labels, masks, without, _cells(groups, COMPANIONS))


def _cells(groups: Tensor, *columns: tuple[int, ...]) -> Tensor:
    """Bool [B, COLUMNS]: the columns of the groups [B]."""
    found = torch.zeros(len(groups), COLUMNS, dtype=torch.bool)
    for of_groups in columns:
        found.scatter_(1, torch.tensor(of_groups)[groups][:, None], True)
    return found
