"""Edit distance between two sequences, with the kinds of errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Edits(NamedTuple):
    substitutions: int
    deletions: int  # in the reference, not in the hypothesis
    insertions: int

    @property
    def errors(self) -> int:
        return sum(self)


def edit_distance(reference: Sequence, hypothesis: Sequence) -> Edits:
    """The least number of edits that turn ``reference`` into ``hypothesis``."""
    # Row by row; a cell is (errors, edits), so that ties are broken the same way everywhere.
    row = [Edits(0, 0, j) for j in range(len(hypothesis) + 1)]
    for i, expected in enumerate(reference, 1):
        above, row = row, [Edits(0, i, 0)]
        for j, found in enumerate(hypothesis, 1):
            diagonal, up, left = above[j - 1], above[j], row[j - 1]
            if expected == found:
                best = diagonal
            else:
                best = min(
                    diagonal._replace(substitutions=diagonal.substitutions + 1),
                    up._replace(deletions=up.deletions + 1),
                    left._replace(insertions=left.insertions + 1),
                    key=sum,
                )
            row.append(best)
    return row[-1]
