"""Measurements by image id: sharding over ranks, skipping what is done, batches on the device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from posterior.batch import Batch
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.noise import Likelihood
from posterior.operators.base import Operator, OperatorFamily
from posterior.random import stream


@dataclass(frozen=True)
class CPUBatch:
    """A batch before it reaches the device: pictures or measurements, the drawn operator, and noise."""

    ids: list[str]
    operator: Operator | None = None
    truth: Tensor | None = None
    y: Tensor | None = None
    noise: Tensor | None = None
    failed: dict[str, str] = field(default_factory=dict)

    def to(self, device: torch.device | str, **kwargs: Any) -> CPUBatch:
        """All tensors on a device; called by Lightning."""
        operator = None if self.operator is None else self.operator.to(device)
        return replace(self._each(lambda tensor: tensor.to(device, non_blocking=True)), operator=operator)

    def pin_memory(self) -> CPUBatch:
        """In pinned memory, whence copies to a GPU overlap with its work; called by the DataLoader."""
        return self._each(Tensor.pin_memory)

    def _each(self, function: Callable[[Tensor], Tensor]) -> CPUBatch:
        truth, y, noise = (None if x is None else function(x) for x in (self.truth, self.y, self.noise))
        return replace(self, truth=truth, y=y, noise=noise)


class Items(Dataset[tuple[str, Tensor | UserError] | None]):
    """(id, tensor) of each id, read by the DataModule, or (id, error) where that fails; item -1 is nothing."""

    def __init__(self, data: MeasuredData, ids: list[str]) -> None:
        self.data, self.ids = data, ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[str, Tensor | UserError] | None:
        if index < 0:
            return None
        try:
            return self.ids[index], self.data.read(self.ids[index])
        except UserError as error:
            return self.ids[index], error


class Shard(DistributedSampler[Any]):
    """This rank's items, each exactly once over all ranks, none repeated.

    Ranks may get different numbers. One that gets none yields the item -1, which makes an empty batch, so that it takes
    part in the reductions at the end. Lightning leaves a `DistributedSampler` as it is.
    """

    def __init__(self, length: int, rank: int, world_size: int) -> None:
        self.indices = list(range(rank, length, world_size))

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices or [-1])

    def __len__(self) -> int:
        return max(1, len(self.indices))

    def set_epoch(self, epoch: int) -> None:
        """Nothing is shuffled."""


class MeasuredData(pl.LightningDataModule, ABC):
    """Base of the DataModules: ids in order, one tensor per id, and measurements that depend on seed and id alone.

    Args:
        operator: family of measurement operators.
        likelihood: noise law.
        seed: the run's seed, for operators, noise and samples.
        batch_size: images per batch and device.
        num_workers: processes that decode images.
        limit: only the first so many images (by id), for smoke runs.

    Raises:
        UserError: if a number is out of range.
    """

    has_truth: bool = True
    """Whether the true images are known."""

    def __init__(
        self,
        operator: OperatorFamily,
        likelihood: Likelihood,
        seed: int = 0,
        batch_size: int = 1,
        num_workers: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1 or num_workers < 0 or (limit is not None and limit < 1):
            raise UserError("data: needs batch_size >= 1, num_workers >= 0 and limit >= 1")
        self.operator, self.likelihood, self.seed = operator, likelihood, seed
        self.batch_size, self.num_workers, self.limit = batch_size, num_workers, limit
        self.ids: list[str] = []
        self.skip: set[str] = set()

    @abstractmethod
    def list_ids(self) -> list[str]:
        """All image ids, sorted."""

    @abstractmethod
    def read(self, image_id: str) -> Tensor:
        """One item, on the CPU.

        Raises:
            UserError: naming the file, if it cannot be used.
        """

    @abstractmethod
    def collate(self, ids: list[str], items: Tensor) -> CPUBatch:
        """Items (B, ...) to a batch; random draws happen here, each from its image's stream.

        Raises:
            UserError: if the operator does not fit.
        """

    @abstractmethod
    def measure(self, batch: CPUBatch) -> Measurement:
        """The measurement of a batch that is on its device."""

    def setup(self, stage: str) -> None:
        self.ids = self.list_ids()[: self.limit]

    def _shard(self) -> tuple[list[str], Shard]:
        ids = [image_id for image_id in self.ids if image_id not in self.skip]
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return ids, Shard(len(ids), rank, world_size)

    @property
    def num_local_images(self) -> int:
        """How many images this rank will do."""
        return len(self._shard()[1].indices)

    def predict_dataloader(self) -> DataLoader[Any]:
        """This rank's images that are not in `skip`."""
        ids, shard = self._shard()
        return DataLoader(
            Items(self, ids),
            batch_size=self.batch_size,
            sampler=shard,
            num_workers=self.num_workers,
            collate_fn=self._collate,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        )

    def _collate(self, items: list[tuple[str, Tensor | UserError] | None]) -> CPUBatch:
        """The readable items as a batch; what fails is named in `failed`, so that one bad image does not stop a run."""
        tensors = {item[0]: item[1] for item in items if item is not None and isinstance(item[1], Tensor)}
        failed = {item[0]: str(item[1]) for item in items if item is not None and isinstance(item[1], UserError)}
        first = next(iter(tensors.values()), None)
        for image_id, tensor in list(tensors.items()):
            if first is not None and tensor.shape != first.shape:
                failed[image_id] = (
                    f"image {image_id} is {tuple(tensor.shape)}, others of its batch {tuple(first.shape)}: "
                    "set crop or size, or batch_size 1"
                )
                del tensors[image_id]
        if not tensors:
            return CPUBatch([], failed=failed)
        try:
            batch = self.collate(list(tensors), torch.stack(list(tensors.values())))
        except UserError as error:
            return CPUBatch([], failed=failed | {image_id: f"image {image_id}: {error}" for image_id in tensors})
        return replace(batch, failed=failed)

    def on_after_batch_transfer(self, batch: CPUBatch, dataloader_idx: int) -> Batch:
        """The measurement is made here, on the device."""
        if not batch.ids:
            return Batch([], self.seed, None, None, batch.failed)
        return Batch(batch.ids, self.seed, self.measure(batch), batch.truth, batch.failed)


class ImageData(MeasuredData):
    """DataModules with true images: y = A x + noise is made on the fly, from each image's random streams."""

    def collate(self, ids: list[str], items: Tensor) -> CPUBatch:
        shape = tuple(items.shape[1:])
        operator = self.operator.realise(shape, [stream(self.seed, i, -1, "operator") for i in ids])
        noise = torch.stack(
            [torch.randn(operator.measurement_shape, generator=stream(self.seed, i, -1, "noise")) for i in ids]
        )
        return CPUBatch(ids, operator, truth=items, noise=noise)

    def measure(self, batch: CPUBatch) -> Measurement:
        assert batch.truth is not None
        assert batch.operator is not None
        assert batch.noise is not None
        return Measurement.simulate(batch.truth, batch.operator, self.likelihood, batch.noise)
