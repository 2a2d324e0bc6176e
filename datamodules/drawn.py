"""Pictures that are drawn when they are asked for: a number decides all of a picture."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from datamodules.base import ImageData
from posterior.checks import MOST_IMAGES, MOST_SIDE, whole
from posterior.noise import Likelihood
from posterior.operators.base import OperatorFamily


class DrawnData(ImageData):
    """Base of DataModules whose pictures are drawn, numbers ``start`` to ``start + count - 1``.

    The id is `prefix` and the number, of at least six digits: ``toon_000005``.

    Args:
        operator: family of measurement operators.
        likelihood: noise law.
        size: side in pixels, >= 8.
        start: first number, >= 0.
        count: number of pictures, >= 1.
        seed: the run's seed, for operators, noise and samples; pictures do not depend on it.
        batch_size: images per batch and device.
        num_workers: processes that draw.
        limit: only the first so many images, for smoke runs.

    Raises:
        UserError: naming the class, if a number is out of range.
    """

    prefix: ClassVar[str]
    """Of the ids."""

    def __init__(
        self,
        operator: OperatorFamily,
        likelihood: Likelihood,
        size: int = 64,
        start: int = 0,
        count: int = 16,
        seed: int = 0,
        batch_size: int = 1,
        num_workers: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__(operator, likelihood, seed, batch_size, num_workers, limit)
        check_numbers(type(self).__name__, size, start, count)
        self.size, self.start, self.count = size, start, count

    @abstractmethod
    def draw(self, number: int) -> Tensor:
        """Picture ``number``, the same on every machine: (C, size, size) in [-1, 1].

        Raises:
            UserError: if what draws it is not installed.
        """

    def list_ids(self) -> list[str]:
        return [f"{self.prefix}_{number:06d}" for number in range(self.start, self.start + self.count)]

    def read(self, image_id: str) -> Tensor:
        return self.draw(int(image_id.removeprefix(f"{self.prefix}_")))


def check_numbers(who: str, size: int, start: int, count: int) -> None:
    """Side in pixels, first number and how many, of pictures that are drawn by number.

    Raises:
        UserError: naming ``who``, if one is out of range.
    """
    whole(who, "size", size, 8, MOST_SIDE)
    whole(who, "start", start, 0, MOST_IMAGES)
    whole(who, "count", count, 1, MOST_IMAGES)
