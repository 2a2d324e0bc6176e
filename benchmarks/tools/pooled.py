"""Random numbers for many chains of one small problem."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from posterior.random import Streams, stream


class PooledStreams(Streams):
    """Many rows from one of torch's generators a purpose: 100,000 chains of one number have no ids, and want speed.

    Args:
        rows: number of chains.
        seed: of everything.
    """

    def __init__(self, rows: int, seed: int = 0) -> None:
        super().__init__(seed, ["pool"])
        self.count = rows
        self._generators: dict[str, torch.Generator] = {}
        self.rows = [(f"row {row}", 0) for row in range(rows)]  # each on its own: one that diverges is no error

    def randn(self, purpose: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        generator = self._generators.setdefault(purpose, stream(self.seed, "pool", 0, purpose))
        return torch.randn(self.count, *shape, dtype=dtype, generator=generator)
