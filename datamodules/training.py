"""Images to learn a prior from: no measurements, no operators."""

from __future__ import annotations

import multiprocessing
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from datamodules.drawn import check_numbers
from datamodules.toon import render_toon_face, require_renderer
from posterior.checks import MOST_BATCH, MOST_IMAGES, MOST_SIDE, MOST_WORKERS, whole
from posterior.errors import UserError
from posterior.images import ImageFile, from_pixels, list_images, load_image, to_pixels
from posterior.random import stream
from posterior.reading import read_array

CHUNK = 500
"""Faces per file of the cache."""


class ImageSet(Dataset[tuple[Tensor, int]], ABC):
    """Images of one size: item i is ((C, H, W) float32 in [-1, 1], i)."""

    def prepare(self) -> None:
        """What one process of a machine does for all, such as rendering."""

    def load(self) -> None:
        """What every process does before it reads items.

        Raises:
            UserError: naming what is missing.
        """

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def image(self, index: int) -> Tensor:
        """Image number ``index``, (C, H, W) in [-1, 1].

        Raises:
            UserError: naming the file, if it cannot be used.
        """

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.image(index), index

    def all(self) -> Tensor:
        """All of them, (N, C, H, W) in [-1, 1], prepared and loaded.

        Raises:
            UserError: naming what is missing or cannot be used, or if images differ in size.
        """
        self.prepare()
        self.load()
        images = [self.image(index) for index in range(len(self))]
        if len(shapes := {tuple(image.shape) for image in images}) > 1:
            raise UserError(f"images of one size are needed, these are {sorted(shapes)}: set a size")
        return torch.stack(images)


class DrawnImages(ImageSet):
    """Base of images that are drawn, numbers ``start`` to ``start + count - 1``: image i of the set is ``start + i``.

    Args:
        size: side in pixels, >= 8.
        start: first number, >= 0: give training and validation other ones.
        count: number of pictures, >= 1.

    Raises:
        UserError: naming the class, if a number is out of range.
    """

    def __init__(self, size: int, start: int, count: int) -> None:
        check_numbers(type(self).__name__, size, start, count)
        self.size, self.start, self.count = size, start, count

    def __len__(self) -> int:
        return self.count


class ToonFaceImages(DrawnImages):
    """Toon faces number ``start`` to ``start + count - 1``, rendered once and kept as 8-bit pixels.

    Args:
        size: side in pixels, >= 8.
        start: first face, >= 0.
        count: number of faces, >= 1.
        cache: folder for the rendered faces (size * size * 3 bytes each); what is there is not rendered again.

    Raises:
        UserError: if a number is out of range; when preparing, if the extra ``faces`` is not installed.
    """

    def __init__(self, size: int = 32, start: int = 0, count: int = 1000, cache: Path = Path("cache/toon")) -> None:
        super().__init__(size, start, count)
        self.cache = Path(cache)
        self.pixels = np.empty((0, 3, size, size), dtype=np.uint8)

    def files(self) -> dict[int, Path]:
        """First face -> file, of every chunk that is needed."""
        first = self.start // CHUNK * CHUNK
        return {
            face: self.cache / f"{self.size}px_{face:07d}.npy" for face in range(first, self.start + self.count, CHUNK)
        }

    def prepare(self) -> None:
        missing = {face: path for face, path in self.files().items() if not path.exists()}
        if not missing:
            return
        require_renderer()
        self.cache.mkdir(parents=True, exist_ok=True)
        workers = min(len(missing), os.cpu_count() or 1)
        print(f"rendering {len(missing) * CHUNK} toon faces into {self.cache}", file=sys.stderr, flush=True)
        try:
            with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
                jobs = [pool.submit(_render_chunk, face, CHUNK, self.size, path) for face, path in missing.items()]
                for job in track(as_completed(jobs), "rendering", len(jobs), console=Console(stderr=True)):
                    job.result()
        except BrokenProcessPool as error:
            raise UserError("a process that renders toon faces was killed: start again, it goes on") from error

    def load(self) -> None:
        chunks = []
        for path in self.files().values():
            try:
                chunk = read_array(path, "toon faces", mmap=True)
            except UserError as error:
                raise UserError(f"{error}; delete the file, and it is rendered again") from error
            if chunk.dtype != np.uint8 or chunk.shape != (CHUNK, 3, self.size, self.size):
                raise UserError(
                    f"toon faces {path} must be uint8[{CHUNK}, 3, {self.size}, {self.size}], they are "
                    f"{chunk.dtype}{list(chunk.shape)}: delete the file, and it is rendered again"
                )
            chunks.append(chunk)
        offset = self.start % CHUNK
        self.pixels = np.concatenate(chunks)[offset : offset + self.count]

    def all(self) -> Tensor:
        self.prepare()
        self.load()
        return from_pixels(self.pixels)

    def image(self, index: int) -> Tensor:
        return from_pixels(self.pixels[index])


def _render_chunk(first: int, count: int, size: int, path: Path) -> None:
    torch.set_num_threads(1)
    faces = [to_pixels(render_toon_face(index, size)[0]) for index in range(first, first + count)]
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.save(file, np.stack(faces).transpose(0, 3, 1, 2))
    partial.replace(path)


class FolderImages(ImageSet):
    """PNG and JPEG files of a folder and its subfolders, in the order of their ids, decoded when they are asked for.

    Args:
        root: the folder.
        crop: side in pixels of the central square to cut out, or None.
        size: side in pixels to resize square images to, after the crop, or None.
        start: first image: give training and validation other stretches of the same folder.
        count: number of images, or None for all from ``start`` on.

    Raises:
        UserError: if a number is out of range; when loading, if the folder is missing or holds too few images.
    """

    def __init__(
        self,
        root: Path,
        crop: int | None = None,
        size: int | None = None,
        start: int = 0,
        count: int | None = None,
    ) -> None:
        whole("FolderImages", "start", start, 0, MOST_IMAGES)
        for name, value, most in (("count", count, MOST_IMAGES), ("crop", crop, MOST_SIDE), ("size", size, MOST_SIDE)):
            if value is not None:
                whole("FolderImages", name, value, 1, most)
        self.root, self.crop, self.size, self.start, self.count = Path(root), crop, size, start, count
        self.paths: list[ImageFile] = []

    def load(self) -> None:
        found = list(list_images(self.root).values())
        self.paths = found[self.start :][: self.count]
        if not self.paths or (self.count is not None and len(self.paths) < self.count):
            wanted = "one" if self.count is None else self.count
            raise UserError(
                f"image folder {self.root} holds {len(found)} images, too few for {wanted} from {self.start}"
            )

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> Tensor:
        return load_image(self.paths[index], self.crop, self.size)


class TrainingOrder(Sampler[list[int]]):
    """This rank's batches, without end: epoch after epoch, each a fresh permutation that (seed, epoch) decides.

    Batch number n of a rank is the same whenever it is asked for, so that a resumed run sees the images it would have
    seen. What does not fill a batch on every rank is left out of an epoch.

    Args:
        num_images: how many there are.
        batch_size: images a batch and rank.
        rank, world_size: this rank, and their number.
        seed: of the permutations.
        first: number of the first batch.
    """

    def __init__(
        self, num_images: int, batch_size: int, rank: int, world_size: int, seed: int, first: Callable[[], int]
    ) -> None:
        self.num_images, self.batch_size, self.seed, self.first = num_images, batch_size, seed, first
        self.rank, self.world_size = rank, world_size
        self.batches_per_epoch = num_images // (batch_size * world_size)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, batch = divmod(self.first(), self.batches_per_epoch)
        while True:
            order = torch.randperm(self.num_images, generator=stream(self.seed, f"epoch {epoch}", -1, "order"))
            mine = order[self.rank :: self.world_size].tolist()
            while batch < self.batches_per_epoch:
                yield mine[batch * self.batch_size :][: self.batch_size]
                batch += 1
            epoch, batch = epoch + 1, 0


class TrainingImages(pl.LightningDataModule):
    """Batches to learn a prior from; ranks get disjoint images (the trainer must not shard them again).

    Args:
        training: images to learn from.
        validation: images never learned from, on which the loss is watched.
        batch_size: images per step and device, >= 1.
        num_workers: processes that decode images.
        seed: of the order of images.

    Raises:
        UserError: if a number is out of range, or there are fewer images than one step takes.
    """

    def __init__(
        self,
        training: ImageSet,
        validation: ImageSet,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        whole("TrainingImages", "batch_size", batch_size, 1, MOST_BATCH)
        whole("TrainingImages", "num_workers", num_workers, 0, MOST_WORKERS)
        self.training, self.validation = training, validation
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed

    @property
    def ranks(self) -> tuple[int, int]:
        """This rank and their number."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def prepare_data(self) -> None:
        self.training.prepare()
        self.validation.prepare()

    def setup(self, stage: str) -> None:
        self.training.load()
        self.validation.load()
        step = self.batch_size * self.ranks[1]
        if len(self.training) < step or len(self.validation) < self.ranks[1]:
            raise UserError(
                f"{len(self.training)} training and {len(self.validation)} validation images are too few "
                f"for steps of {step} images"
            )

    def train_dataloader(self) -> DataLoader[tuple[Tensor, int]]:
        """This rank's batches, without end, from where the trainer stands."""
        order = TrainingOrder(len(self.training), self.batch_size, *self.ranks, self.seed, self._batches_done)
        return self._loader(self.training, order)

    def _batches_done(self) -> int:
        return self.trainer.global_step * self.trainer.accumulate_grad_batches if self.trainer else 0

    def val_dataloader(self) -> DataLoader[tuple[Tensor, int]]:
        """This rank's share of the validation images, in order."""
        rank, world_size = self.ranks
        share = range(rank, len(self.validation), world_size)
        return self._loader(self.validation, BatchSampler(share, self.batch_size, drop_last=False))

    def _loader(self, images: ImageSet, batches: Sampler[list[int]]) -> DataLoader[tuple[Tensor, int]]:
        return DataLoader(
            images,
            batch_sampler=batches,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
