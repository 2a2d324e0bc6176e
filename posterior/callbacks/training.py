"""What a training run leaves on disk, and its resumption."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import safetensors.torch
import torch
from matplotlib.figure import Figure
from torch import Tensor

import posterior
from posterior.checks import MOST_BATCH, MOST_STEPS, choice, whole
from posterior.files import write_whole
from posterior.priors import DiffusionPrior
from posterior.random import Streams
from posterior.results.pictures import save_png, sheet
from posterior.samplers import DDIM, RespacedSigmas, ReverseDiffusion
from posterior.samplers.reverse_diffusion import initial_noise
from posterior.terminal import remark
from posterior.training import DenoisingTraining


def export(prior: DiffusionPrior, path: Path, dtype: torch.dtype, metadata: dict[str, str]) -> None:
    """Write the network's weights as safetensors; the file appears whole or not at all."""
    state = {name: value.detach().cpu().to(dtype).contiguous() for name, value in prior.network.state_dict().items()}
    write_whole(path, safetensors.torch.save(state, metadata))


def read_losses(path: Path, columns: list[str]) -> list[dict[str, float]]:
    """The rows of a losses.csv that have these columns; none if there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if set(row) == set(columns) and all(row.values())]
    return [{name: float(value) for name, value in row.items()} for row in rows]


def draw_losses(rows: list[dict[str, float]], path: Path) -> None:
    """The columns of losses.csv against images seen: losses, and the error of x0 by noise level."""
    figure = Figure(figsize=(11, 4))  # with fixed margins: to fit them, all labels would be laid out once more
    figure.subplots_adjust(left=0.075, right=0.87, bottom=0.13, top=0.92, wspace=0.5)
    losses, errors = figure.subplots(1, 2)
    for name in list(rows[-1])[4:]:
        axes = errors if name.startswith("rmse") else losses
        label = name.replace("rmse_", "sigma = ").replace("_", "." if axes is errors else " ")
        axes.plot([r["images"] for r in rows], [r[name] for r in rows], ".-", label=label)
    for axes, title in [(losses, "loss"), (errors, "validation error (RMSE) of x0")]:
        axes.set(xlabel="images seen", title=title, yscale="log")
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=100)


Weights = Literal["float32", "float16"]


class TrainingWriter(pl.Callback):
    """Writes a training run's folder at every validation and at the end, and prints a line.

    ``last.ckpt`` (to go on from), ``prior.safetensors`` (the averaged weights, with the step in its metadata),
    ``losses.csv``, ``losses.png``, ``sheets/`` (samples of the averaged prior from the same noise every time).

    Args:
        dir: the run's folder; the same command on the same folder goes on.
        weights: how the exported weights are stored.
        sheet_images: samples on a sheet, 0 for no sheet.
        sheet_steps: DDIM steps of a sample, a number that divides the noise schedule evenly.

    Raises:
        UserError: if a number is out of range; when the run starts, if the schedule has no such respacing.
    """

    CHECKPOINT = "last.ckpt"

    def __init__(
        self,
        dir: Path,
        weights: Weights = "float32",
        sheet_images: int = 32,
        sheet_steps: int = 20,
    ) -> None:
        choice("output", "weights", weights, Weights)
        whole("output", "sheet_images", sheet_images, 0, MOST_BATCH)
        whole("output", "sheet_steps", sheet_steps, 1, MOST_STEPS)
        self.dir = Path(dir)
        self.weights = weights
        self.sheet_images, self.sheet_steps = sheet_images, sheet_steps
        self.started = self.trained = 0.0
        self.images, self.saved_step = 0, -1

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, DenoisingTraining)
        self.reverse(pl_module.prior)  # a bad respacing is found now, not at the first validation

    def state_dict(self) -> dict[str, Any]:
        return {"images": self.images, "trained": self.trained + time.monotonic() - self.started}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.images, self.trained = state_dict["images"], state_dict["trained"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.images += len(batch[0]) * trainer.world_size

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.save(trainer, pl_module, validated=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.saved_step < trainer.global_step:  # max_steps is no multiple of the validation interval
            self.save(trainer, pl_module, validated=False)

    def save(self, trainer: pl.Trainer, pl_module: pl.LightningModule, validated: bool) -> None:
        """Write everything, the losses only if they were measured now; collective."""
        assert isinstance(pl_module, DenoisingTraining)
        if getattr(trainer, "fast_dev_run", False):  # a try: nothing that a run could go on from
            return
        self.saved_step = step = trainer.global_step
        partial = self.dir / f".{self.CHECKPOINT}.partial"
        trainer.save_checkpoint(partial)
        if not trainer.is_global_zero:
            return
        partial.replace(self.dir / self.CHECKPOINT)
        row = {
            "step": step,
            "images": self.images,
            "hours": round(self.state_dict()["trained"] / 3600, 4),
            "rate": trainer.optimizers[0].param_groups[0]["lr"],
            **{name: float(value) for name, value in trainer.callback_metrics.items()},
        }
        if validated:
            self._record(row)
        metadata = {"training": json.dumps(row), "version": posterior.__version__}
        export(pl_module.average, self.dir / "prior.safetensors", getattr(torch, self.weights), metadata)
        if self.sheet_images:
            image_shape = trainer.datamodule.training[0][0].shape  # type: ignore[attr-defined]
            samples = self.sample(pl_module.average, image_shape, pl_module.device)
            save_png(sheet(samples), self.dir / "sheets" / f"step_{step:07d}.png")

    def sample(self, prior: DiffusionPrior, image_shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Unconditional samples, (sheet_images, C, H, W)."""
        reverse = self.reverse(prior)
        rng = Streams(0, [f"sheet {number}" for number in range(self.sheet_images)], device=device)
        sigmas = reverse.schedule.sigmas()
        return reverse.descend(prior, initial_noise(image_shape, sigmas[0], rng), sigmas, rng)

    def reverse(self, prior: DiffusionPrior) -> ReverseDiffusion:
        """How a sheet is sampled."""
        return ReverseDiffusion(RespacedSigmas(f"ddim{self.sheet_steps}", prior.noise_schedule), DDIM())

    def _record(self, row: dict[str, float]) -> None:
        told = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name not in ("step", "rate"))
        remark(f"step {row['step']}: {told}")
        path = self.dir / "losses.csv"
        rows = [*(old for old in read_losses(path, list(row)) if old["step"] < row["step"]), row]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(path, text.getvalue().encode())
        draw_losses(rows, self.dir / "losses.png")
