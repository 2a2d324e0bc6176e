"""Random numbers: one stream per (seed, image id, sample, purpose), and nothing else.

A draw therefore never depends on batch size, order, ranks, resume, or on what else was drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def stream(seed: int, image_id: str, sample: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """The random generator of one purpose of one sample of one image.

    Args:
        seed: the run's seed.
        image_id: relative path of the image without extension.
        sample: number of the sample (chain), from 0; measurements use -1.
        purpose: what the numbers are for, e.g. ``"langevin"``.
        device: where the numbers are made. CPU and GPU streams differ; each repeats on its own hardware.
    """
    digest = hashlib.blake2b(f"{seed}/{image_id}/{sample}/{purpose}".encode(), digest_size=8).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest, "little") >> 1)


class Streams:
    """The streams of a batch of chains. Row ``k * len(ids) + b`` is sample ``k`` of image ``b``.

    Args:
        seed: the run's seed.
        ids: image ids, one per image.
        num_samples: chains per image.
        device: where numbers are made.
        samples: the chains' numbers, in place of 0 .. num_samples - 1.
    """

    def __init__(
        self,
        seed: int,
        ids: Sequence[str],
        num_samples: int = 1,
        device: torch.device | str = "cpu",
        samples: Sequence[int] | None = None,
    ) -> None:
        self.seed = seed
        numbers = range(num_samples) if samples is None else samples
        self.rows = [(image_id, sample) for sample in numbers for image_id in ids]
        self.device = torch.device(device)
        self._generators: dict[str, list[torch.Generator]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def _of(self, purpose: str) -> list[torch.Generator]:
        if purpose not in self._generators:
            self._generators[purpose] = [
                stream(self.seed, image_id, sample, purpose, self.device) for image_id, sample in self.rows
            ]
        return self._generators[purpose]

    def randn(self, purpose: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """The next standard normal numbers of every row, shape (rows, *shape)."""
        out = torch.empty(len(self.rows), *shape, dtype=dtype, device=self.device)
        for row, generator in zip(out, self._of(purpose), strict=True):
            row.normal_(generator=generator)
        return out

    def rand_like(self, purpose: str, x: Tensor) -> Tensor:
        """The next uniform numbers in [0, 1), shaped and typed like ``x`` (rows, ...)."""
        out = torch.empty_like(x, device=self.device)
        for row, generator in zip(out, self._of(purpose), strict=True):
            row.uniform_(generator=generator)
        return out

    def randn_like(self, purpose: str, x: Tensor) -> Tensor:
        """The next standard normal numbers, shaped and typed like ``x`` (rows, ...)."""
        return self.randn(purpose, x.shape[1:], x.dtype)
