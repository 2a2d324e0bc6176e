"""The command line.

python lightning_cli.py predict --config configs/demo/super_resolution_dps.yaml    draw posterior samples
python lightning_cli.py fit --config configs/train/toon_faces32.yaml               train a prior

The configuration files of the DPS code run as they are:

python lightning_cli.py predict --dps.model_config F --dps.diffusion_config F --dps.task_config F --dps.save_dir D
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import yaml
from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.strategies import DDPStrategy

from datamodules import MeasuredData, TrainingImages
from posterior.callbacks import Journal, ResultWriter, SamplingProgress, TrainingWriter
from posterior.callbacks.report import Session
from posterior.dps_files import convert
from posterior.errors import StoppedElsewhere, UserError
from posterior.files import write_whole
from posterior.module import PosteriorSampling
from posterior.priors import Prior
from posterior.training import DenoisingTraining

CHANGEABLE = {"limit", "batch_size", "num_workers", "checkpoint_activations"}
"""Settings that change no result of `predict`, so that a run may be resumed with other ones."""
CHANGEABLE_IN_TRAINING = {
    *("learning_rate", "warmup_steps", "cooldown_steps", "ema_decay"),
    *("checkpoint", "batch_size", "num_workers", "cache"),
}
"""Settings that a training run may be resumed with other ones of; they count from then on."""


class KeepConfig(SaveConfigCallback):
    """Writes config.yaml into the run's folder, and refuses to resume a run that had other settings."""

    changeable: ClassVar[set[str]] = CHANGEABLE

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        problem = None
        if trainer.is_global_zero:
            try:
                problem = self.keep(pl_module)
            except OSError as error:
                problem = f"cannot write to output.dir: {error}"
        problem = trainer.strategy.broadcast(problem)
        if problem:
            raise UserError(problem)
        for logger in trainer.loggers:
            logger.log_hyperparams(yaml.safe_load(self.parser.dump(self.config, skip_none=False)))

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning only notes a SIGTERM and goes on predicting; a run can be killed at any moment, so let it die
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def has_started(self, folder: Path) -> bool:
        """Whether the folder holds something that a resumed run would go on from."""
        return bool(Journal(folder / "journal").read())

    def keep(self, pl_module: pl.LightningModule) -> str | None:
        """Write the files; or one line that says why this run does not belong into its folder."""
        folder = Path(self.config.output.dir)
        path, text = folder / "config.yaml", self.parser.dump(self.config, skip_none=False)
        if path.exists() and self.has_started(folder):
            old, new = (dict(self._settings(yaml.safe_load(t))) for t in (path.read_text(encoding="utf-8"), text))
            for key in [*new, *old]:
                if old.get(key) != new.get(key):
                    return (
                        f"{folder} holds a run with {key} = {old.get(key)!r}, now it is {new.get(key)!r}: "
                        "choose another output.dir, or delete it"
                    )
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
        return None

    def _settings(self, config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """The leaves of a configuration that decide results."""
        for key, value in [*_leaves(config["model"], "model"), *_leaves(config["data"], "data")]:
            if key.rpartition(".")[2] not in self.changeable:
                yield key, value
        yield "trainer.precision", config["trainer"]["precision"]


@functools.cache
def end_with_parent() -> None:
    """End a process that Lightning has launched when its launcher is gone: killed, that one cannot tell the others."""
    launched = int(os.environ.get("LOCAL_RANK", 0)) > 0
    if not launched or "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_PROCID" in os.environ:
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, name="parent's watch", daemon=True).start()


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """The leaves of a part of a configuration, as (dotted key, value)."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}")
    else:
        yield key, value


class KeepPredictConfig(KeepConfig):
    """Also refuses another prior behind the same settings."""

    def keep(self, pl_module: pl.LightningModule) -> str | None:
        assert isinstance(pl_module, PosteriorSampling)
        folder, fingerprint = Path(self.config.output.dir), pl_module.prior.fingerprint()
        path, started = folder / "prior.fingerprint", self.has_started(folder)
        if problem := super().keep(pl_module):
            return problem
        if started and path.exists() and path.read_text(encoding="utf-8").strip() != fingerprint:
            return (
                f"{folder} holds a run with another prior (the checkpoint, or the images that the prior is fitted "
                "to, have changed): choose another output.dir, or delete it"
            )
        journal, features = Journal(folder / "journal"), {distance.name for distance in pl_module.distances}
        before = set(Session.last(journal).references) if started and journal.sessions() else features
        if before != features:
            return (
                f"{folder} holds a run with the features of {', '.join(sorted(before)) or 'no network'}, now there are "
                f"those of {', '.join(sorted(features)) or 'none'} (are its weights there?): choose another output.dir"
            )
        write_whole(path, f"{fingerprint}\n".encode())
        return None


class KeepTrainingConfig(KeepConfig):
    """That of a training run, which goes on from its last checkpoint."""

    changeable = CHANGEABLE_IN_TRAINING

    def has_started(self, folder: Path) -> bool:
        return (folder / TrainingWriter.CHECKPOINT).exists()


class CheckedCLI(LightningCLI):
    """Builds the trainer that was asked for, or none."""

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        trainer = super().instantiate_trainer(**kwargs)
        asked = self.config_init[self.subcommand].trainer.precision
        if asked in ("16-mixed", 16, "16") and trainer.precision != "16-mixed":  # bfloat16 instead
            raise UserError("trainer.precision 16-mixed needs a GPU: on this machine use bf16-mixed")
        return trainer


SHARED_PRIORS: dict[str, Prior] = {}
"""Priors of earlier runs in this process, by their settings."""


def shared_prior(key: str) -> Prior:
    """A prior that is loaded already; stands in a configuration in place of its settings."""
    return SHARED_PRIORS[key]


class PredictCLI(CheckedCLI):
    """`predict`: with the run's folder (`output`) and no prediction kept in memory.

    Args:
        share_prior: keep the prior for later runs in this process, and take that of an earlier one with its settings.
    """

    def __init__(self, *args: Any, share_prior: bool, **kwargs: Any) -> None:
        self.share_prior = share_prior
        super().__init__(*args, **kwargs)

    def instantiate_classes(self) -> None:
        if not self.share_prior:
            return super().instantiate_classes()
        self.asked = self.config
        settings = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        key = yaml.safe_dump(settings[self.subcommand]["model"]["prior"])
        if key in SHARED_PRIORS:
            self.config = self.config.clone()
            stand_in = Namespace(class_path=f"{__name__}.shared_prior", init_args=Namespace(key=key))
            self.config[f"{self.subcommand}.model.prior"] = stand_in
        super().instantiate_classes()
        SHARED_PRIORS[key] = self.model.prior

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {"predict": {"model", "dataloaders", "datamodule", "ckpt_path", "return_predictions", "weights_only"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(ResultWriter, "output")

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        if self.share_prior:
            self.config = self.asked  # what config.yaml is written from
        if self.config_init[self.subcommand].trainer.strategy == "ddp":
            # the first collective comes when the last image is done: a fast rank may wait long for a slow one
            kwargs["strategy"] = DDPStrategy(timeout=timedelta(days=7))
        return super().instantiate_trainer(**kwargs)

    def _run_subcommand(self, subcommand: str) -> None:
        self.trainer.predict(self.model, datamodule=self.datamodule, return_predictions=False)


class FitCLI(CheckedCLI):
    """`fit`: goes on from where the run in its folder (`output`) stopped."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule", "ckpt_path", "weights_only"},
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(TrainingWriter, "output")

    def _run_subcommand(self, subcommand: str) -> None:
        checkpoint = Path(self.config_init[subcommand].output.dir) / TrainingWriter.CHECKPOINT
        resumed = str(checkpoint) if checkpoint.exists() else None
        self.trainer.fit(self.model, datamodule=self.datamodule, ckpt_path=resumed)


class RunStarted(pl.Callback):
    """Notes that images are being worked on: from then on ranks may fail each for a reason of its own."""

    value = False

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.value = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.value = True


TRAINER_DEFAULTS: dict[str, Any] = {
    "accelerator": "auto",
    "logger": False,
    "enable_checkpointing": False,  # the callbacks under `output` know what to keep
    "enable_model_summary": False,
}


DPS_FILES = ("model_config", "diffusion_config", "task_config", "save_dir")


def with_dps_files(arguments: list[str]) -> list[str]:
    """Arguments of `predict` with the files of ``--dps.*`` replaced by one config of ours, written into save_dir.

    Raises:
        UserError: if one of the four is missing, or the files cannot be converted.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in DPS_FILES:
        parser.add_argument(f"--dps.{name}", type=Path, dest=name)
    given, rest = parser.parse_known_args(arguments)
    if not any(vars(given).values()):
        return arguments
    absent = [f"--dps.{name}" for name in DPS_FILES if getattr(given, name) is None]
    if absent:
        raise UserError(f"DPS configuration: {', '.join(absent)} missing")
    config = convert(**vars(given))
    given.save_dir.mkdir(parents=True, exist_ok=True)
    path = given.save_dir / "from_dps.yaml"
    write_whole(path, yaml.safe_dump(config, sort_keys=False).encode())
    command, *rest = rest
    return [command, "--config", str(path), *rest]


def predict(args: list[str], started: RunStarted, share_prior: bool = False) -> None:
    """Draw posterior samples."""
    end_with_parent()
    defaults = TRAINER_DEFAULTS | {
        "inference_mode": False,  # guided samplers need autograd
        "enable_progress_bar": False,  # SamplingProgress is there instead
        "callbacks": [SamplingProgress(), started],
    }
    PredictCLI(
        PosteriorSampling,
        MeasuredData,
        subclass_mode_data=True,
        save_config_callback=KeepPredictConfig,
        seed_everything_default=False,
        auto_configure_optimizers=False,
        trainer_defaults=defaults,
        args=args,
        share_prior=share_prior,
    )


def fit(args: list[str], started: RunStarted) -> None:
    """Train a prior."""
    end_with_parent()
    defaults = TRAINER_DEFAULTS | {
        "enable_progress_bar": sys.stderr.isatty(),
        "max_epochs": -1,
        "num_sanity_val_steps": 0,
        "check_val_every_n_epoch": None,  # val_check_interval counts steps
        "use_distributed_sampler": False,  # the DataModule gives each rank its images
        "callbacks": [started],
    }
    FitCLI(
        DenoisingTraining,
        TrainingImages,
        save_config_callback=KeepTrainingConfig,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        trainer_defaults=defaults,
        args=args,
    )


def quiet() -> None:
    """Lightning's greetings and hints are not for the people who use this program."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning.*")
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    warnings.filterwarnings("ignore", message="The ``compute`` method")  # a rank may have no image: not a mistake


def main(args: list[str] | None = None) -> None:
    """Parse and run. A `UserError`, or one of the file system, is printed as one line; the exit status is then 2."""
    quiet()
    started = RunStarted()
    arguments = sys.argv[1:] if args is None else list(args)
    command = arguments[0] if arguments else None
    try:
        if command == "fit":
            fit(arguments, started)
        elif command == "predict":
            predict(with_dps_files(arguments), started)
        else:
            print(__doc__.strip(), "\n\nOptions: python lightning_cli.py predict --help, ... fit --help")
            sys.exit(0 if command in ("-h", "--help") else 2)
    except (ValueError, OSError) as error:
        cause: BaseException | None = error  # jsonargparse wraps what a constructor raises
        while cause is not None and not isinstance(cause, (UserError, OSError)):
            cause = cause.__cause__
        if cause is None:
            raise
        first = int(os.environ.get("LOCAL_RANK", 0)) == 0
        told = isinstance(cause, StoppedElsewhere)
        if not told and (first or started.value):  # before the start, all ranks find the same error
            print(f"error: {cause}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
