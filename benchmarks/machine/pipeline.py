"""Where the time and the memory of a whole run go when sampling costs next to nothing."""

from __future__ import annotations

import io
import os
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning.profilers import SimpleProfiler

from datamodules import ImageFolder
from lightning_cli import TRAINER_DEFAULTS
from posterior.callbacks import ResultWriter, SamplingProgress
from posterior.errors import UserError
from posterior.files import write_whole
from posterior.images import to_pixels
from posterior.metrics import L2, PSNR, SSIM, Residual
from posterior.module import PosteriorSampling
from posterior.noise import GaussianNoise
from posterior.operators import RandomInpainting
from posterior.priors import GaussianFieldPrior
from posterior.random import stream
from posterior.samplers import ProximalDenoising, RespacedSigmas


@dataclass(frozen=True)
class Findings:
    """What the benchmark measures."""

    images_per_second: float
    """Decoded, cropped and given their random numbers by one worker."""
    stages: dict[str, float]
    """Seconds an image."""
    seconds: float
    """Of the run."""
    memory: list[tuple[int, float]]
    """(images done, resident memory of the main process in MiB)."""

    def growth(self) -> float:
        """MiB a thousand images over the second half of the run (slope of a line)."""
        half = self.memory[len(self.memory) // 2 :]
        done, used = (np.array(column) for column in zip(*half, strict=True))
        return 1000 * float(np.polyfit(done, used, 1)[0])


class MemoryMeter(pl.Callback):
    """Resident memory after each batch."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []
        self.done = 0

    def on_predict_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        self.done += len(rest[1].ids)
        self.seen.append((self.done, resident_memory()))


def resident_memory() -> float:
    """Of this process, in MiB (Linux).

    Raises:
        UserError: on another system.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError as error:
        raise UserError("pipeline: memory is read from /proc, which only Linux has") from error
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def pipeline(
    num_images: int = 1000,
    size: int = 256,
    batch_size: int = 8,
    num_workers: int = 1,
    output: Path = Path("results/pipeline"),
) -> Findings:
    """Run generated images through the whole pipeline under a trivial prior; writes pipeline.png.

    The images are drawn from a Gaussian field, stored as PNG in a zip, decoded by workers, measured (inpainting),
    sampled by two proximal denoising steps, compared (L2, PSNR, SSIM, residual), and written with journal and tables.

    Args:
        num_images: how many.
        size: side in pixels.
        batch_size: images at a time.
        num_workers: processes that decode.
        output: folder of zip, run and picture.

    Raises:
        UserError: if it holds a run, or memory cannot be read.
    """
    run = output / "run"
    if run.exists():
        raise UserError(f"{run} exists: delete it first, or choose another output")
    prior = GaussianFieldPrior([0.0] * 3, np.eye(3).tolist(), [1e-2] * 3, [2.0] * 3, [0.02] * 3, 0.03)
    archive = output / f"{num_images}x{size}.zip"
    if not archive.exists():
        write_whole(archive, zipped_pictures(prior, num_images, size))
    data = ImageFolder(archive, RandomInpainting(), GaussianNoise(0.05), batch_size=batch_size, num_workers=num_workers)
    rate = decoding_rate(ImageFolder(archive, data.operator, data.likelihood, batch_size=batch_size, num_workers=1))
    sampler = ProximalDenoising(RespacedSigmas(2))
    module = PosteriorSampling(prior, sampler, metrics=[L2(), PSNR(), SSIM(), Residual()])
    meter, profiler = MemoryMeter(), SimpleProfiler()
    trainer = pl.Trainer(
        devices=1,
        callbacks=[SamplingProgress(), ResultWriter(run), meter],
        profiler=profiler,
        inference_mode=False,
        enable_progress_bar=False,
        **TRAINER_DEFAULTS,
    )
    begun = time.perf_counter()
    trainer.predict(module, datamodule=data, return_predictions=False)
    findings = Findings(rate, stages(profiler, module, num_images), time.perf_counter() - begun, meter.seen)
    report(findings, num_images, output / "pipeline.png")
    return findings


def zipped_pictures(prior: GaussianFieldPrior, num_images: int, size: int) -> bytes:
    """A zip of PNG files in folders of a thousand, as StyleGAN's tool makes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(num_images):
            generator = stream(0, str(number), 0, "picture")
            picture = prior.sample_from(torch.randn(1, 3, size, size, generator=generator))[0]
            content = io.BytesIO()
            Image.fromarray(to_pixels(picture)).save(content, format="PNG")
            archive.writestr(f"{number // 1000:05d}/img{number:08d}.png", content.getvalue())
            if number % 100 == 99:
                print(f"\r{number + 1} of {num_images} pictures", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return buffer.getvalue()


def decoding_rate(data: ImageFolder) -> float:
    """Images a second that a worker delivers after its first batch (two more may be waiting by then)."""
    data.setup("predict")
    batches = iter(data.predict_dataloader())
    next(batches)  # the worker is up
    begun = time.perf_counter()
    done = sum(len(batch.ids) for batch in batches)
    return done / (time.perf_counter() - begun)


def stages(profiler: SimpleProfiler, module: PosteriorSampling, num_images: int) -> dict[str, float]:
    """Seconds an image of each stage, from Lightning's profiler and the run's own cost."""
    total = {name: sum(times) for name, times in profiler.recorded_durations.items()}

    def of(*parts: str) -> float:
        return sum(time for name, time in total.items() if all(part in name for part in parts)) / num_images

    sampling = module.means.compute()["sample"]["seconds"]["mean"]
    assert sampling is not None
    return {
        "wait for images": of("predict_next"),
        "measure, to the device": of("Strategy", "batch_to_device"),
        "sample": float(sampling),
        "metrics": of("predict_step") - float(sampling),
        "hand over to the writer": of("ResultWriter", "on_predict_batch_end"),
        "last files, tables, grid": of("ResultWriter", "on_predict_end"),
    }


def report(findings: Findings, num_images: int, path: Path) -> None:
    """Print the stages and draw time and memory."""
    rate = f"one worker delivers {findings.images_per_second:.0f} a second"
    print(f"{num_images} images in {findings.seconds:.0f} s; {rate}")
    for name, seconds in findings.stages.items():
        print(f"{name:28s} {1000 * seconds:8.1f} ms an image")
    done, used = zip(*findings.memory, strict=True)
    print(f"resident memory {used[len(used) // 10]:.0f} MiB after a tenth, {used[-1]:.0f} MiB at the end, ", end="")
    print(f"{findings.growth():+.1f} MiB a thousand images over the second half")
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.barh(list(findings.stages), [1000 * value for value in findings.stages.values()])
    left.invert_yaxis()
    left.set_xlabel("ms an image")
    right.plot(done, used)
    right.set(xlabel="images done", ylabel="resident memory, MiB", ylim=(0, None))
    figure.savefig(path, dpi=100)
    print(f"picture: {path}")
