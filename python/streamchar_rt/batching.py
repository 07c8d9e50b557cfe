"""Running a stage for several streams at once, where that does not change a bit of any stream's result.

A matrix product of more rows may take another path through a BLAS than one of few, and then rounds differently.
Which sizes do depends on the machine and on torch's build. So this is found out on the spot: the first time that
a stage meets a number of streams it runs both ways and compares; unless every stream's result is the same bit for
bit, that stage stays one stream after another for that number. A stream's bytes are therefore the same alone or
in company.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

Argument = TypeVar("Argument")
Stage = Callable[[Sequence[Argument]], list[Any]]


def together(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The parts one after another along the first dimension; one alone as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


class Batching:
    """Remembers which stages give the same bytes together. One per set of models, for all its lanes."""

    def __init__(self) -> None:
        self.exact: dict[tuple[str, int], bool] = {}  # (stage, number of streams)

    def run(self, name: str, stage: Stage, arguments: Sequence[Argument]) -> list[Any]:
        """``stage``'s results, one for each argument: tensors, or tuples or dataclasses of such."""
        count = len(arguments)
        exact = True if count == 1 else self.exact.get((name, count))
        if exact:
            return stage(arguments)
        alone = [stage([argument])[0] for argument in arguments]
        if exact is None:
            self.exact[name, count] = all(map(_same, stage(arguments), alone))
        return alone


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and bool(torch.equal(a, b))
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(_same, a, b))
    return _same(tuple(vars(a).values()), tuple(vars(b).values()))
