"""Everything that a run leaves on disk, and its resumption."""

from __future__ import annotations

import contextlib
import io
import platform
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

import posterior
from posterior.batch import Batch, Prediction
from posterior.checks import whole
from posterior.errors import StoppedElsewhere, UserError
from posterior.files import below, explained, forget_partial, write_whole
from posterior.ids import natural
from posterior.images import to_pixels
from posterior.listing import Listing
from posterior.metrics import Summary
from posterior.module import PosteriorSampling
from posterior.results.background import BackgroundWorker
from posterior.results.journal import Journal, Record
from posterior.results.loggers import log_batch, log_run
from posterior.results.pictures import make_grid, picture_names, png, std_picture
from posterior.results.report import Session, write_report
from posterior.results.report_page import leave_page
from posterior.results.report_phase import phase_pixels
from posterior.results.table import format_distances, format_table
from posterior.terminal import remark, say_result

MOST_ROWS = 1000
"""Of grid.png."""
MANY = 50
"""Inputs whose comparison is worth a line."""


class MeasuredImages(Protocol):
    """What the callbacks need of a DataModule."""

    ids: list[str]
    skip: set[str]
    has_truth: bool
    listing: Listing | None

    @property
    def num_local_images(self) -> int: ...

    def input_digests(self, ids: list[str]) -> dict[str, str | None]: ...


class ResultWriter(pl.Callback):
    """Writes a run's folder: journal, images, per_image.csv, metrics.json, grid.png, report.html; resumes it.

    Files are written by a thread of its own while the next batch is sampled; at most two batches wait. An image is
    complete once its records are in the journal, which come last.

    Args:
        dir: the run's folder; the same command on the same folder finishes what is missing.
        save_samples: also keep float samples, ``samples/<id>.npy`` (K, C, H, W) float32.
        grid_images: rows of grid.png, >= 1 (the first images by id).

    Raises:
        UserError: if grid_images is out of range.
    """

    def __init__(self, dir: Path, save_samples: bool = False, grid_images: int = 8) -> None:
        whole("output", "grid_images", grid_images, 1, MOST_ROWS)
        self.dir = Path(dir)
        self.save_samples = save_samples
        self.grid_images = grid_images
        self.journal = Journal(self.dir / "journal")
        self.records: list[Record] = []
        self.worker = BackgroundWorker()
        self.done = self.number = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, PosteriorSampling)
        problem: Exception | None = None
        complete: set[str] = set()
        if trainer.is_global_zero:
            try:
                with explained(self.dir):
                    complete = self.resume(trainer, pl_module)
            except Exception as error:  # the other ranks wait to hear of it
                problem = error
        # every rank must list and leave out the same images: rank 0 decides, before anyone writes
        data = self.data(trainer)
        decided = (data.ids, complete, self.number, problem is not None)
        data.ids, data.skip, self.number, stopped = trainer.strategy.broadcast(decided)
        if problem is not None:
            raise problem
        if stopped:
            raise StoppedElsewhere("the first process has said what is wrong")

    def resume(self, trainer: pl.Trainer, pl_module: PosteriorSampling) -> set[str]:
        """The images that are complete, of inputs that are as they were; the others will be done."""
        forget_partial(self.dir)
        self.journal.check()
        self.journal.forget_failures()
        self.number = self.journal.next_session()
        data, labels = self.data(trainer), pl_module.record_labels(self.data(trainer).has_truth)
        recorded = {str(record["id"]) for record in self.journal.read()}
        records = [r for r in self.journal.complete(labels) if self.has_files(str(r["id"]))]
        known = {str(r["id"]): r.get("input") for r in records}
        wanted = [image_id for image_id in data.ids if image_id in known]
        if len(wanted) > MANY:
            remark(f"resuming: comparing {len(wanted)} inputs with what they were")
        now = data.input_digests(wanted)
        changed = [image_id for image_id in wanted if now[image_id] != known[image_id]]
        again = set(changed) | (recorded - known.keys())  # also those whose files are gone
        if again & set(data.ids):
            self.journal.void([image_id for image_id in data.ids if image_id in again], self.number)
        if changed:
            shown = ", ".join(changed[:3]) + (", ..." if len(changed) > 3 else "")
            print(f"{len(changed)} inputs have changed and are done again: {shown}", file=sys.stderr, flush=True)
        self.records = [r for r in records if r["id"] not in set(changed)]
        return {str(record["id"]) for record in self.records}

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, PosteriorSampling)
        data = self.data(trainer)
        if trainer.is_global_zero:
            with explained(self.dir):
                self.journal.begin(self.session(trainer, pl_module).record() | {"session": self.number})
            if data.listing is not None and data.listing.left_out:
                say_result(f"{self.dir.name}: {data.listing.told()}")
        wanted = set(data.ids)
        pl_module.means.count(r for r in self.records if r["id"] in wanted)  # rank 0 has them, others none

    def session(self, trainer: pl.Trainer, pl_module: PosteriorSampling) -> Session:
        """What the journal has to know of this run, so that its report can be made again from there."""
        return Session(
            columns=pl_module.means.columns,
            labels=pl_module.record_labels(self.data(trainer).has_truth),
            samples_per_image=pl_module.num_samples,
            references={d.name: None if d.reference is None else str(d.reference) for d in pl_module.distances},
            device=_device_name(pl_module.device),
            num_devices=trainer.world_size,
            versions={name: version(name) for name in ("torch", "pytorch-lightning", "torchmetrics", "lpips")}
            | {"python": platform.python_version(), "posterior": posterior.__version__},
            left_out={} if (listing := self.data(trainer).listing) is None else dict(listing.left_out),
        )

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
        assert isinstance(pl_module, PosteriorSampling)
        files = self.files(outputs) if outputs.records else []
        if trainer.is_global_zero:
            log_batch(trainer.loggers, pl_module.means.columns, outputs.records, self.done)
        self.done += len(outputs.batch.ids)
        inputs, measured, units = outputs.batch.inputs, _num_measured(outputs.batch), outputs.batch.units
        records = [
            r
            | {"num_measured": measured[str(r["id"])], "input": inputs.get(str(r["id"])), "session": self.number}
            | ({"units": units[str(r["id"])]} if r["id"] in units else {})
            for r in outputs.records
        ]

        def write() -> None:
            with explained(self.dir):
                if outputs.failed:
                    self.journal.fail(outputs.failed, trainer.global_rank)
                for path, content in files:
                    write_whole(path, content())
                if records:
                    self.journal.append(records, trainer.global_rank)

        self.worker.submit(write)

    def files(self, prediction: Prediction) -> list[tuple[Path, Callable[[], bytes]]]:
        """PNG files (and float samples) of one batch: path and what makes the content, later and on the CPU."""
        batch, samples = prediction.batch, prediction.samples.float().cpu()
        assert batch.measurement is not None
        views = batch.measurement.operator.view(batch.measurement.y).cpu()
        drawn = batch.measurement.operator.parameters_view()
        drawn = None if drawn is None else drawn.cpu()
        truth = None if batch.truth is None else batch.truth.cpu()
        picked = {(r["id"], r["sample"]): int(str(r["picked"])) for r in prediction.records if "picked" in r}
        found: list[tuple[Path, Callable[[], bytes]]] = []
        for row, image_id in enumerate(batch.ids):
            chains = samples[:, row]
            pictures = {"measurement": views[row]}
            if drawn is not None:
                pictures["operator"] = drawn[row]
            pictures |= {f"sample_{k:03d}": sample for k, sample in enumerate(chains)}
            if len(chains) > 1:
                pictures["mean"] = chains.mean(dim=0)
            for kind in ("best", "oracle"):
                if (image_id, kind) in picked:
                    pictures[kind] = chains[picked[image_id, kind]]
            if truth is not None:
                pictures["truth"] = truth[row]
            pictures |= {f"{name}_phase": image for name, image in pictures.items() if len(image) == 2}
            folder = below(self.dir, "images", image_id)
            found += [(folder / f"{name}.png", partial(_picture, name, image)) for name, image in pictures.items()]
            if len(chains) > 1:
                found.append((folder / "std.png", partial(_std, chains)))
            if self.save_samples:
                found.append((below(self.dir, "samples", f"{image_id}.npy"), partial(_npy, chains)))
        return found

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, PosteriorSampling)
        self.finish(trainer)
        summary = pl_module.means.compute()  # collective; after it every rank's journal is complete
        problem: Exception | None = None
        if trainer.is_global_zero:
            try:
                self.conclude(trainer, pl_module, summary)
            except Exception as error:
                problem = error
        stopped = trainer.strategy.broadcast(problem is not None)
        if problem is not None:
            raise problem
        if stopped:
            raise StoppedElsewhere("the first process has said what is wrong")

    def conclude(self, trainer: pl.Trainer, pl_module: PosteriorSampling, summary: Summary) -> None:
        """The run's tables, grid and last lines.

        Raises:
            UserError: if images failed.
        """
        wanted = set(self.data(trainer).ids)
        with explained(self.dir):
            report = write_report(self.dir, self.journal, self.session(trainer, pl_module), summary, wanted)
            ids, failed, grid = sorted(report.ids, key=natural), report.failed, self.dir / "grid.png"
            if ids:
                shown = ids[: self.grid_images]
                there = {path.stem for path in (self.dir / "images" / shown[0]).iterdir()}
                rows = [(image_id, self.dir / "images" / image_id) for image_id in shown]
                make_grid(rows, picture_names(pl_module.num_samples, there), grid)
        if ids:
            say_result(f"\n{self.dir.name}: {len(ids)} images, {pl_module.num_samples} samples each")
            say_result(format_table(summary, pl_module.num_samples))
            for line in format_distances(report.distances):
                say_result(line)
            say_result(f"grid: {grid}")
            log_run(trainer.loggers, summary, report, grid)
        leave_page(self.dir)
        if lost := wanted - report.ids - failed.keys():
            raise UserError(f"{len(lost)} of {len(wanted)} images were not done, {min(lost)} for one: start again")
        if failed:
            reason = next(iter(failed.values()))
            more = f" (and {len(failed) - 1} more, named in metrics.json)" if len(failed) > 1 else ""
            rest = ", the others are complete" if ids else ""
            raise UserError(f"{len(failed)} of {len(wanted)} images failed{rest}: {reason}{more}")

    def finish(self, trainer: pl.Trainer) -> None:
        """Wait for this rank's files, and for the other ranks'. Collective.

        Raises:
            UserError: if a rank could not write, on every rank, so that none waits for it.
        """
        problem: BaseException | None = None
        try:
            self.worker.close()
        except Exception as error:
            problem = error
        stopped = torch.tensor(0.0 if problem is None else 1.0, device=trainer.strategy.root_device)
        stopped = trainer.strategy.reduce(stopped, reduce_op="sum")
        if problem is not None:
            raise problem
        if float(stopped) > 0:
            raise StoppedElsewhere("another device's files could not be written")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        with contextlib.suppress(UserError, OSError):  # what is sampled already is kept, if it can be
            self.worker.close()


def _num_measured(batch: Batch) -> dict[str, int]:
    """Image id -> real numbers in its y."""
    if batch.measurement is None or not batch.ids:
        return {}
    numbers = batch.measurement.operator.num_measured().cpu().expand(len(batch.ids))
    return dict(zip(batch.ids, map(int, numbers.tolist()), strict=True))


def _picture(name: str, image: Tensor) -> bytes:
    return png(phase_pixels(image) if name.endswith("_phase") else to_pixels(image))


def _std(chains: Tensor) -> bytes:
    return png(std_picture(chains.std(dim=0)))


def _npy(chains: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, chains.numpy())
    return buffer.getvalue()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
