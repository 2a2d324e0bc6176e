"""Measurements by image id: sharding over ranks, skipping what is done, batches on the device."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from posterior.batch import Batch
from posterior.checks import MOST_BATCH, MOST_IMAGES, MOST_WORKERS, whole
from posterior.errors import UserError
from posterior.ids import checked
from posterior.listing import Listing
from posterior.measurement import Measurement
from posterior.noise import Likelihood
from posterior.operators.base import Operator, OperatorFamily
from posterior.random import Streams, stream


@dataclass(frozen=True)
class CPUBatch:
    """A batch before it reaches the device: pictures or measurements, the drawn operator, and noise.

    Args:
        ids: images, all of one shape.
        operator: realised for them.
        truth, y, noise: a row each.
        failed: id -> reason, of images that cannot be used.
        inputs: id -> digest of what was read.
        units: id -> numbers that turn its samples into the units of what was recorded, where these differ.
    """

    ids: list[str]
    operator: Operator | None = None
    truth: Tensor | None = None
    y: Tensor | None = None
    noise: Tensor | None = None
    failed: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    units: dict[str, dict[str, float | None]] = field(default_factory=dict)

    def to(self, device: torch.device | str, **kwargs: Any) -> CPUBatch:
        """All tensors on a device; called by Lightning."""
        operator = None if self.operator is None else self.operator.to(device)
        return replace(self._each(lambda tensor: tensor.to(device, non_blocking=True)), operator=operator)

    def pin_memory(self) -> CPUBatch:
        """In pinned memory, whence copies to a GPU overlap with its work; called by the DataLoader."""
        return self._each(Tensor.pin_memory)

    def rows(self, rows: list[int]) -> CPUBatch:
        """Some of its images."""
        device = next(x.device for x in (self.truth, self.y, self.noise) if x is not None)
        index = torch.tensor(rows, device=device)
        batch = self._each(lambda tensor: tensor[index])
        operator = None if self.operator is None else self.operator.rows(index)
        return replace(batch, ids=[self.ids[row] for row in rows], operator=operator, failed={})

    def _each(self, function: Callable[[Tensor], Tensor]) -> CPUBatch:
        truth, y, noise = (None if x is None else function(x) for x in (self.truth, self.y, self.noise))
        return replace(self, truth=truth, y=y, noise=noise)


@dataclass(frozen=True)
class Item:
    """What reading one image gave: a tensor and its digest, or why it cannot be used."""

    image_id: str
    tensor: Tensor | None = None
    digest: str | None = None
    fault: str | None = None


class Items(Dataset[Item | None]):
    """The `Item` of each id, read by the DataModule; item -1 is nothing.

    Foreign data are read here and nowhere else: whatever a reader raises costs the image and is named, not the run.
    """

    def __init__(self, data: MeasuredData, ids: list[str]) -> None:
        self.data, self.ids = data, ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Item | None:
        if index < 0:
            return None
        image_id = self.ids[index]
        try:
            tensor = self.data.read(image_id)
            if not isinstance(tensor, Tensor) or tensor.numel() == 0:
                return Item(image_id, fault=f"image {image_id}: {type(self.data).__name__}.read gave no tensor")
            return Item(image_id, tensor, digest(tensor))
        except UserError as error:
            return Item(image_id, fault=str(error))
        except Exception as error:
            return Item(image_id, fault=f"image {image_id} cannot be read ({explained(error)}): replace or remove it")


def digest(tensor: Tensor) -> str:
    """Of shape, type and content."""
    whole = hashlib.blake2b(f"{tuple(tensor.shape)} {tensor.dtype}".encode(), digest_size=16)
    whole.update(tensor.detach().flatten().clone().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def explained(error: Exception) -> str:
    """An exception that nobody foresaw, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class OneShape:
    """The batches of a loader, each parted into batches of images of one shape: no image decides for another."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[CPUBatch]:
        for parts in self.loader:
            yield from parts


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
    sources: ClassVar[frozenset[str]] = frozenset({"root", "path"})
    """Settings that name where images are, each of which is known by its own digest."""
    listing: Listing | None = None
    """What the input folder holds, once `setup` has looked; None: no files."""

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
        whole("data", "batch_size", batch_size, 1, MOST_BATCH)
        whole("data", "num_workers", num_workers, 0, MOST_WORKERS)
        if limit is not None:
            whole("data", "limit", limit, 1, MOST_IMAGES)
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
        """Ids enter here, whatever made them: checked, in natural order.

        Raises:
            UserError: naming an id that cannot be the name of a file.
        """
        self.ids = checked(self.list_ids(), type(self).__name__)[: self.limit]

    def _shard(self) -> tuple[list[str], Shard]:
        ids = [image_id for image_id in self.ids if image_id not in self.skip]
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return ids, Shard(len(ids), rank, world_size)

    @property
    def num_local_images(self) -> int:
        """How many images this rank will do."""
        return len(self._shard()[1].indices)

    def reader(self) -> Self:
        """Itself without trainer and hooks, so that a worker process can be handed it, however it is started."""
        other = copy.copy(self)
        other.trainer = None
        return other

    def predict_dataloader(self) -> OneShape:
        """This rank's images that are not in `skip`."""
        ids, shard = self._shard()
        reader = self.reader()
        return OneShape(
            DataLoader[Any](
                Items(reader, ids),
                batch_size=self.batch_size,
                sampler=shard,
                num_workers=min(self.num_workers, len(shard)),
                collate_fn=reader.parts,
                pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            )
        )

    def input_digests(self, ids: list[str]) -> dict[str, str | None]:
        """Digest of what is read now for each id; None where that fails."""
        loader = DataLoader(Items(self.reader(), ids), batch_size=None, num_workers=min(self.num_workers, len(ids)))
        return {item.image_id: item.digest for item in loader}

    def parts(self, items: list[Item | None]) -> list[CPUBatch]:
        """Items as batches of one shape each; images that fail are named, so that one does not stop a run."""
        failed = {item.image_id: item.fault for item in items if item is not None and item.fault is not None}
        groups: dict[tuple[object, ...], list[Item]] = {}
        for item in items:
            if item is not None and item.tensor is not None:
                groups.setdefault((item.tensor.shape, item.tensor.dtype), []).append(item)
        batches = [batch for group in groups.values() for batch in self._collated(group)]
        if failed or not batches:
            batches.append(CPUBatch([], failed=failed))
        return batches

    def _collated(self, group: list[Item]) -> list[CPUBatch]:
        """One batch; if that fails, one for each image alone, so that the outcome does not depend on the others."""
        ids = [item.image_id for item in group]
        try:
            batch = self.collate(ids, torch.stack([item.tensor for item in group if item.tensor is not None]))
        except UserError as error:
            if len(group) > 1:
                return [batch for item in group for batch in self._collated([item])]
            return [CPUBatch([], failed={ids[0]: f"image {ids[0]}: {error}"})]
        return [replace(batch, inputs={item.image_id: str(item.digest) for item in group})]

    def on_after_batch_transfer(self, batch: CPUBatch, dataloader_idx: int) -> Batch:
        """The measurement is made here, on the device."""
        if not batch.ids:
            return Batch([], self.seed, None, None, batch.failed)
        try:
            measurement = self.measure(batch)
            return Batch(batch.ids, self.seed, measurement, batch.truth, batch.failed, batch.inputs, batch.units)
        except UserError as error:  # what an image's neighbours are has no part in it: look at each alone
            failed = {batch.ids[0]: f"image {batch.ids[0]}: {error}"}
            if len(batch.ids) > 1:
                alone = [self.on_after_batch_transfer(batch.rows([row]), 0) for row in range(len(batch.ids))]
                failed = {image_id: reason for one in alone for image_id, reason in one.failed.items()}
            good = [row for row, image_id in enumerate(batch.ids) if image_id not in failed]
            if len(good) == len(batch.ids):
                raise
            if not good:
                return Batch([], self.seed, None, None, batch.failed | failed)
            rest = self.on_after_batch_transfer(batch.rows(good), 0)
            return replace(rest, failed=batch.failed | failed | rest.failed)


class ImageData(MeasuredData):
    """DataModules with true images: y = A x + noise is made on the fly, from each image's random streams."""

    def collate(self, ids: list[str], items: Tensor) -> CPUBatch:
        shape = tuple(items.shape[1:])
        operator = self.operator.realise(shape, [stream(self.seed, i, -1, "operator") for i in ids])
        noise = Streams(self.seed, ids, samples=[-1]).randn("noise", operator.measurement_shape)
        return CPUBatch(ids, operator, truth=items, noise=noise)

    def measure(self, batch: CPUBatch) -> Measurement:
        assert batch.truth is not None
        assert batch.operator is not None
        assert batch.noise is not None
        return Measurement.simulate(batch.truth, batch.operator, self.likelihood, batch.noise)
