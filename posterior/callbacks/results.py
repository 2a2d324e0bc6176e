"""Everything that a run leaves on disk, and its resumption."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
import pytorch_lightning as pl
import torch

import posterior
from posterior.batch import Batch, Prediction
from posterior.callbacks.journal import Journal, Record
from posterior.callbacks.pictures import make_grid, picture_names, save_png, std_picture
from posterior.callbacks.table import format_table
from posterior.errors import UserError
from posterior.images import to_pixels
from posterior.module import PosteriorSampling


class MeasuredImages(Protocol):
    """What the callbacks need of a DataModule."""

    ids: list[str]
    skip: set[str]
    has_truth: bool

    @property
    def num_local_images(self) -> int: ...


class ResultWriter(pl.Callback):
    """Writes a run's folder: journal, images, per_image.csv, metrics.json, grid.png; resumes what is there.

    Args:
        dir: the run's folder; the same command on the same folder finishes what is missing.
        save_samples: also keep float samples, ``samples/<id>.npy`` (K, C, H, W) float32.
        grid_images: rows of grid.png, >= 1 (the first images by id).

    Raises:
        UserError: if grid_images < 1.
    """

    def __init__(self, dir: Path, save_samples: bool = False, grid_images: int = 8) -> None:
        if grid_images < 1:
            raise UserError(f"output: grid_images must be >= 1, got {grid_images}")
        self.dir = Path(dir)
        self.save_samples = save_samples
        self.grid_images = grid_images
        self.journal = Journal(self.dir / "journal")
        self.records: list[Record] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, PosteriorSampling)
        complete: set[str] = set()
        if trainer.is_global_zero:
            self.journal.forget_failures()
            labels = pl_module.record_labels(self.data(trainer).has_truth)
            self.records = [r for r in self.journal.complete(labels) if self.has_files(str(r["id"]))]
            complete = {str(record["id"]) for record in self.records}
        # every rank must leave out the same images: rank 0 decides, before anyone writes
        self.data(trainer).skip = trainer.strategy.broadcast(complete)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, PosteriorSampling)
        wanted = set(self.data(trainer).ids)
        pl_module.count([record for record in self.records if record["id"] in wanted])  # rank 0 has them, others none

    @staticmethod
    def data(trainer: pl.Trainer) -> MeasuredImages:
        """The run's DataModule."""
        return trainer.datamodule  # type: ignore[attr-defined]

    def has_files(self, image_id: str) -> bool:
        """Whether the files that this run promises for an image are there."""
        expected = [self.dir / "images" / image_id / "measurement.png"]
        if self.save_samples:
            expected.append(self.dir / "samples" / f"{image_id}.npy")
        return all(path.is_file() for path in expected)

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Prediction | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if outputs is None:
            return
        if outputs.failed:
            self.journal.fail(outputs.failed, trainer.global_rank)
        if outputs.records:
            self.write_images(outputs)
            self.journal.append(outputs.records, trainer.global_rank)

    def write_images(self, prediction: Prediction) -> None:
        """PNG files (and float samples) of one batch."""
        batch, samples = prediction.batch, prediction.samples
        assert batch.measurement is not None
        views = batch.measurement.operator.view(batch.measurement.y)
        drawn = batch.measurement.operator.parameters_view()
        picked = {(r["id"], r["sample"]): int(str(r["picked"])) for r in prediction.records if "picked" in r}
        for row, image_id in enumerate(batch.ids):
            folder, chains = self.dir / "images" / image_id, samples[:, row]
            save_png(to_pixels(views[row]), folder / "measurement.png")
            if drawn is not None:
                save_png(to_pixels(drawn[row]), folder / "operator.png")
            for k, sample in enumerate(chains):
                save_png(to_pixels(sample), folder / f"sample_{k:03d}.png")
            if len(chains) > 1:
                save_png(to_pixels(chains.mean(dim=0)), folder / "mean.png")
                save_png(std_picture(chains.std(dim=0)), folder / "std.png")
            for kind in ("best", "oracle"):
                if (image_id, kind) in picked:
                    save_png(to_pixels(chains[picked[image_id, kind]]), folder / f"{kind}.png")
            if batch.truth is not None:
                save_png(to_pixels(batch.truth[row]), folder / "truth.png")
            if self.save_samples:
                path = self.dir / "samples" / f"{image_id}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                buffer = io.BytesIO()
                np.save(buffer, chains.float().cpu().numpy())
                write_whole(path, buffer.getvalue())

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, PosteriorSampling)
        summary = pl_module.summary()  # collective; after it every rank's journal is complete
        if not trainer.is_global_zero:
            return
        wanted = set(self.data(trainer).ids)
        labels = pl_module.record_labels(self.data(trainer).has_truth)
        records = [r for r in self.journal.complete(labels) if r["id"] in wanted]
        ids = sorted({str(record["id"]) for record in records})
        failed = self.journal.failed()
        report = {
            "images": len(ids),
            "failed": failed,
            "samples_per_image": pl_module.num_samples,
            "metrics": summary,
            "device": _device_name(pl_module.device),
            "versions": {name: version(name) for name in ("torch", "pytorch-lightning", "torchmetrics", "lpips")}
            | {"python": platform.python_version(), "posterior": posterior.__version__},
        }
        write_whole(self.dir / "metrics.json", (json.dumps(report, indent=2) + "\n").encode())
        write_whole(self.dir / "per_image.csv", _csv(records).encode())
        if ids:
            grid = self.dir / "grid.png"
            shown = ids[: self.grid_images]
            there = {path.stem for path in (self.dir / "images" / shown[0]).iterdir()}
            make_grid(self.dir / "images", shown, picture_names(pl_module.num_samples, there), grid)
            print(f"\n{self.dir.name}: {len(ids)} images, {pl_module.num_samples} samples each")
            print(format_table(summary, pl_module.num_samples))
            print(f"grid: {grid}", flush=True)
        if failed:
            reason = next(iter(failed.values()))
            more = f" (and {len(failed) - 1} more, named in metrics.json)" if len(failed) > 1 else ""
            rest = ", the others are complete" if ids else ""
            raise UserError(f"{len(failed)} of {len(wanted)} images failed{rest}: {reason}{more}")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")  # several ranks may write the same file
    partial.write_bytes(content)
    partial.replace(path)


def _csv(records: Iterable[Record]) -> str:
    records = list(records)
    columns = list(dict.fromkeys(name for record in records for name in record))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
