"""What a command line answers before the imports, which take seconds (Ctrl-C, --version, --help), and how it fails."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from argparse import ArgumentError, ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import posterior
from posterior.errors import UserError

MAIN = os.getpid()

CLI_HELP = """\
python lightning_cli.py predict --config F    draw posterior samples      (--help: its settings)
python lightning_cli.py fit --config F        train a prior               (--help: its settings)
python lightning_cli.py check F               which classes a file of settings would import
python lightning_cli.py --version

The configuration files of the DPS code run as they are:

python lightning_cli.py predict --dps.model_config F --dps.diffusion_config F --dps.task_config F --dps.save_dir D

posterior-sampling is the same and more: posterior-sampling --help."""

COMMON = """
A part (prior, sampler, operator, ...) is a file of settings, or a class with settings of its own behind a dot:
  --model.sampler sampler/dps    --model.sampler mine.yaml    --model.sampler DPS --model.sampler.scale 0.5
A file is a path, or the name of one that ships: posterior-sampling configs lists them.
Later options are laid over earlier ones, and over --config.

  --calls N             network calls a sample (--model.sampler.calls), of a sampler that divides them up
  --print_config        print all settings with their defaults, and stop
  --allow-local         a file of settings may name classes of files that are not installed
  --quiet               say nothing but warnings and where the results are
  --debug               show where an error comes from
  --help-all            every setting, those of the trainer included
  --model.sampler.help NAME, --data.help NAME, ...    the settings of a class"""

PREDICT_HELP = {
    "--config": "file of settings, such as demo/super_resolution_kinetic",
    "--output.dir": "the run's folder; the same command goes on from what is there",
    "--output.save_samples": "true: float samples as .npy beside the pictures",
    "--output.grid_images": "rows of grid.png (8)",
    "--model.prior": "configs/prior/*.yaml",
    "--model.sampler": "configs/sampler/*.yaml",
    "--model.num_samples": "samples (chains) of each image (1)",
    "--model.pick_best": "true: also report the sample with the least residual",
    "--model.metrics": "list of metrics (L2, PSNR, SSIM, LPIPS, residual)",
    "--data": "ImageFolder, ImageArray, ToonFaces, Phantoms, MRISlices, CTSlices, RecordedMeasurements",
    "--data.root": "folder (or zip) of images, of ImageFolder",
    "--data.operator": "the measurement: configs/operator/*.yaml",
    "--data.likelihood": "GaussianNoise (--data.likelihood.sigma_y 0.05) or PoissonNoise (.rate)",
    "--data.size": "side that images are resized to",
    "--data.limit": "only the first so many images",
    "--data.batch_size": "images at a time; memory grows with batch_size * num_samples",
    "--data.seed": "of noise, operators and chains (0)",
    "--trainer.accelerator": "auto, cpu, gpu",
    "--trainer.devices": "how many",
    "--trainer.precision": "32-true, bf16-mixed (the network's products alone)",
}
"""The settings of `predict` that people use first."""

FIT_HELP = {
    "--config": "file of settings, such as train/toon_faces32",
    "--output.dir": "the run's folder; the same command goes on from what is there",
    "--output.weights": "float32 or float16, of prior.safetensors",
    "--model.prior": "the network to train; its checkpoint, if any, is where it starts",
    "--model.learning_rate": "at its height",
    "--model.warmup_steps": "steps up to it",
    "--model.cooldown_steps": "steps down to 0, at the end",
    "--model.ema_decay": "of the averaged weights",
    "--data.training": "FolderImages or ToonFaceImages",
    "--data.validation": "the same, of held-out images",
    "--data.batch_size": "images of a step, a device",
    "--data.num_workers": "processes that read images",
    "--trainer.max_steps": "steps in all",
    "--trainer.val_check_interval": "steps between two validations",
    "--trainer.gradient_clip_val": "largest norm of a gradient",
    "--trainer.accelerator": "auto, cpu, gpu",
    "--trainer.devices": "how many",
    "--trainer.strategy": "auto, ddp",
    "--trainer.precision": "32-true, bf16-mixed, 16-mixed",
}
"""The settings of `fit` that people use first."""

USAGE = {
    "predict": ("draw posterior samples", PREDICT_HELP),
    "fit": ("train a prior (of a folder of pictures, in so many hours: fit --images FOLDER --help)", FIT_HELP),
}


def interrupted(signum: int, frame: Any) -> None:
    """Ctrl-C: one line, at once, at any moment. What is recorded is complete, and nothing else counts."""
    if os.getpid() == MAIN and int(os.environ.get("LOCAL_RANK", 0)) == 0:
        cursor = "\033[?25h" if os.isatty(2) else ""
        os.write(2, f"{cursor}stopped: the same command goes on from here\n".encode())
    os._exit(130)


class Parser(ArgumentParser):
    """Of a command: a mistake is a `UserError`, one line that begins with its name, the second word of ``prog``."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog.split()[1]}: {message}")


def listed(options: dict[str, str]) -> str:
    """A line for each entry, the second column aligned."""
    width = max(map(len, options))
    return "\n".join(f"  {name:{width}}  {told}" for name, told in options.items())


def answer(arguments: Sequence[str], own_help: str = CLI_HELP) -> str | None:
    """What a command line wants to know that needs no import; None if it wants something else.

    Args:
        arguments: without the program's name.
        own_help: what ``--help`` says.
    """
    if arguments and arguments[0] in ("-V", "--version"):
        return f"posterior-sampling {posterior.__version__}"
    if arguments and arguments[0] in ("-h", "--help"):
        return own_help
    if len(arguments) > 1 and arguments[0] in USAGE and {"-h", "--help"} & set(arguments):
        told, options = USAGE[arguments[0]]
        return f"{arguments[0]}: {told}\n\n{listed(options)}\n{COMMON}"
    return None


def begin(own_help: str = CLI_HELP, asked: Sequence[str] | None = None) -> None:
    """The first thing that a program does: from here on Ctrl-C is one line; a question is answered, and that is all.

    Args:
        own_help: what ``--help`` says.
        asked: where a question may stand; None: in the program's arguments.
    """
    signal.signal(signal.SIGINT, interrupted)
    if (told := answer(sys.argv[1:] if asked is None else asked, own_help)) is not None:
        print(told)
        sys.exit(0)


def in_words(error: BaseException) -> str:
    """What is wrong, in one line: the innermost cause that was meant for people, or else what and where."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and all(
        cause is not one for one in causes
    ):
        causes.append(cause)  # jsonargparse wraps what a constructor raises
    for cause in causes:
        if isinstance(cause, UserError):
            return str(cause)
    for cause in causes:
        if isinstance(cause, OSError) and cause.strerror:
            return f"{cause.strerror}: {cause.filename}" if cause.filename else cause.strerror
        if isinstance(cause, MemoryError):
            return "not enough memory"
    text = " ".join(str(error).split())
    if isinstance(error, ArgumentError):
        return text[-300:]
    frames = traceback.extract_tb(error.__traceback__)
    near = [frame for frame in frames if "site-packages" not in frame.filename and "lib/python" not in frame.filename]
    place = "".join(f" ({Path(frame.filename).name}, line {frame.lineno})" for frame in (near or frames)[-1:])
    return f"{type(error).__name__}: {text[:300]}{place}; --debug shows where it comes from"
