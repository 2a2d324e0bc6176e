"""The command line.

python lightning_cli.py predict --config configs/demo/super_resolution_dps.yaml    draw posterior samples
python lightning_cli.py fit --config configs/train/toon_faces32.yaml               train a prior
python lightning_cli.py check CONFIG                      which classes a file of settings would import

The configuration files of the DPS code run as they are:

python lightning_cli.py predict --dps.model_config F --dps.diffusion_config F --dps.task_config F --dps.save_dir D

--allow-local lets a file of settings name classes of files that are not installed; --print_config prints the settings
with all defaults; --debug shows where an error comes from. The installed command `posterior-sampling` is the same, and
runs the benchmarks too.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import logging
import os
import re
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from posterior.shell import CLI_HELP, answer, begin, in_words

if __name__ == "__main__":  # before the imports, which take seconds
    begin()

import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy

from datamodules import MeasuredData, TrainingImages
from posterior.callbacks import ResultWriter, SamplingProgress, TrainingWriter
from posterior.callbacks.record import KeepConfig, KeepPredictConfig, KeepTrainingConfig
from posterior.checks import whole
from posterior.dps_files import convert
from posterior.errors import StoppedElsewhere, UserError
from posterior.files import say, write_whole
from posterior.module import PosteriorSampling
from posterior.priors import Prior
from posterior.reading import check_file
from posterior.settings import Origin, conformed, file_digests, named_classes, read_command_line
from posterior.settings.places import CONVERTED
from posterior.terminal import is_quiet, quietly, redraws
from posterior.training import DenoisingTraining

MOST_NODES = 10_000
"""Machines of a run; it waits for all of them."""
LAUNCHER = "POSTERIOR_LAUNCHER"
"""Environment variable: the number of the process that launches the others of a run on this machine."""


@functools.cache
def end_with_parent() -> None:
    """End a process that Lightning has launched when its launcher is gone: killed, that one cannot tell the others."""
    launched = int(os.environ.get("LOCAL_RANK", 0)) > 0
    if "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_PROCID" in os.environ:
        return
    if not launched:
        os.environ[LAUNCHER] = str(os.getpid())
        return
    parent = int(os.environ.get(LAUNCHER, os.getppid()))  # it may be gone already

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, name="parent's watch", daemon=True).start()


def leave_group() -> None:
    """End the process group in order: gloo's threads, still at work when the interpreter ends, abort the process."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class CheckedCLI(LightningCLI):
    """Takes settings that are checked already, and builds the trainer that was asked for, or none.

    Args:
        print_only: print the settings with all defaults, and stop.
    """

    def __init__(self, *args: Any, print_only: bool = False, **kwargs: Any) -> None:
        self.print_only = print_only
        super().__init__(*args, **kwargs | {"parser_kwargs": {"exit_on_error": False}})

    def _add_instantiators(self) -> None:
        """None: they hand all settings, written out twice more, to modules that keep hyperparameters; ours do not."""

    def before_instantiate_classes(self) -> None:
        if self.print_only:
            print(self._parser(self.subcommand).dump(self.config[self.subcommand], skip_unset=False))
            sys.exit(0)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        asked = self.config_init[self.subcommand].trainer
        self.check_trainer(asked)
        if asked.default_root_dir is None:  # what the trainer itself writes, such as the logs of `logger: true`
            kwargs["default_root_dir"] = self.config_init[self.subcommand].output.dir
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except UserError:
            raise
        except Exception as error:  # Lightning's words about devices, strategies and the like
            raise UserError(f"trainer: {' '.join(str(error).split())[:300]}") from error
        if asked.precision in ("16-mixed", 16, "16") and trainer.precision != "16-mixed":  # bfloat16 instead
            raise UserError("trainer.precision 16-mixed needs a GPU: on this machine use bf16-mixed")
        if isinstance(trainer.strategy, DDPStrategy):
            # collectives come when the last image is done: a fast rank may wait long for a slow one
            trainer.strategy._timeout = timedelta(days=7)
        environment = getattr(trainer.strategy, "cluster_environment", None)
        if asked.num_nodes > 1 and isinstance(environment, LightningEnvironment) and "MASTER_ADDR" not in os.environ:
            raise UserError(
                f"trainer.num_nodes {asked.num_nodes}: this machine would wait for others that do not know of it; "
                "start by torchrun or SLURM (docs/pipeline.md), or set MASTER_ADDR, MASTER_PORT and NODE_RANK on each"
            )
        # before anything is read or written, the run must be known to belong into its folder
        trainer.callbacks.sort(key=lambda callback: not isinstance(callback, KeepConfig))  # type: ignore[attr-defined]
        return trainer

    def check_trainer(self, asked: Namespace) -> None:
        """Refuse what the trainer could do and this run cannot.

        Raises:
            UserError: naming the setting.
        """
        whole("trainer", "num_nodes", asked.num_nodes, 1, MOST_NODES)


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

    def __init__(self, *args: Any, share_prior: bool = False, **kwargs: Any) -> None:
        self.share_prior = share_prior
        super().__init__(*args, **kwargs)

    def instantiate_classes(self) -> None:
        if not self.share_prior:
            return super().instantiate_classes()
        self.asked = self.config
        settings = yaml.safe_load(self.parser.dump(self.config, skip_unset=False, skip_validation=True))
        prior = settings[self.subcommand]["model"]["prior"]
        key = yaml.safe_dump([prior, file_digests(prior)])
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

    def check_trainer(self, asked: Namespace) -> None:
        super().check_trainer(asked)
        for name in ("fast_dev_run", "limit_predict_batches", "overfit_batches"):
            whole = isinstance(asked[name], float) and asked[name] == 1.0  # all batches; the number 1 is one
            if asked[name] and not whole:
                raise UserError(f"trainer.{name} is not for predict: set data.init_args.limit to run on a few images")

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        if self.share_prior:
            self.config = self.asked  # what config.yaml is written from
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
        trying = getattr(self.trainer, "fast_dev_run", False)  # a try of a few batches, which leaves nothing
        resumed = str(checkpoint) if checkpoint.exists() and not trying else None
        if resumed:
            check_file(checkpoint, "checkpoint")
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
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
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
    path = given.save_dir / CONVERTED
    write_whole(path, yaml.safe_dump(config, sort_keys=False).encode())
    return ["--config", str(path), *rest]


TRAINER_PARTS: dict[str, Any] = {"trainer": pl.Trainer.__init__, "seed_everything": bool | int}
PREDICT_PARTS = {"model": PosteriorSampling.__init__, "data": MeasuredData, "output": ResultWriter.__init__}
FIT_PARTS = {"model": DenoisingTraining.__init__, "data": TrainingImages.__init__, "output": TrainingWriter.__init__}


def predict_options(started: RunStarted) -> dict[str, Any]:
    """How `predict` runs."""
    defaults = TRAINER_DEFAULTS | {
        "inference_mode": False,  # guided samplers need autograd
        "enable_progress_bar": False,  # SamplingProgress is there instead
        "callbacks": [SamplingProgress(), started],
    }
    return {
        "model_class": PosteriorSampling,
        "datamodule_class": MeasuredData,
        "subclass_mode_data": True,
        "save_config_callback": KeepPredictConfig,
        "seed_everything_default": False,
        "trainer_defaults": defaults,
    }


def fit_options(started: RunStarted) -> dict[str, Any]:
    """How `fit` runs."""
    defaults = TRAINER_DEFAULTS | {
        "enable_progress_bar": redraws(sys.stderr) and not is_quiet(),
        "max_epochs": -1,
        "num_sanity_val_steps": 0,
        "check_val_every_n_epoch": None,  # val_check_interval counts steps
        "use_distributed_sampler": False,  # the DataModule gives each rank its images
        "callbacks": [started],
    }
    return {
        "model_class": DenoisingTraining,
        "datamodule_class": TrainingImages,
        "save_config_callback": KeepTrainingConfig,
        "seed_everything_default": 0,
        "trainer_defaults": defaults,
    }


COMMANDS: dict[str, tuple[type[CheckedCLI], Callable[[RunStarted], dict[str, Any]], dict[str, Any]]] = {
    "predict": (PredictCLI, predict_options, PREDICT_PARTS | TRAINER_PARTS),
    "fit": (FitCLI, fit_options, FIT_PARTS | TRAINER_PARTS),
}


def checked(command: str, settings: dict[str, Any], allow_local: bool = False) -> dict[str, Any]:
    """Settings of ``predict`` or ``fit``, held against what the classes in them take (`conformed`), without running.

    Raises:
        UserError: naming the first setting that is wrong.
    """
    return conformed(settings, COMMANDS[command][2], allow_local)


def run(command: str, settings: dict[str, Any], started: RunStarted, allow_local: bool = False, **more: Any) -> None:
    """Check settings, build what they name, and run it.

    Args:
        command: ``predict`` or ``fit``.
        settings: ``model``, ``data``, ``output``, ``trainer``.
        started: notes that images are being worked on.
        allow_local: whether settings may name classes of files that are not installed.
        more: of the command's CLI.

    Raises:
        UserError: whatever is wrong with the settings. (jsonargparse has the last word and wraps what constructors
            raise: `in_words` finds it.)
    """
    end_with_parent()
    atexit.unregister(leave_group)
    atexit.register(leave_group)  # once, however many runs a process has
    cli, options, _ = COMMANDS[command]
    arguments = {"subcommand": command, command: checked(command, settings, allow_local)}
    try:
        cli(**options(started), **more, args=arguments, auto_configure_optimizers=False)
    finally:  # only now is all written
        while KeepConfig.locks:
            KeepConfig.locks.pop().leave()


def show_help(command: str, arguments: list[str]) -> None:
    """jsonargparse's help: of all settings (``--help-all``), or of a class (``--model.sampler.help NAME``)."""
    cli, options, _ = COMMANDS[command]
    given = ["--help" if word == "--help-all" else word for word in arguments]
    cli(**options(RunStarted()), args=given, auto_configure_optimizers=False)


def check(arguments: list[str]) -> int:
    """Print every class that settings would import, without importing it; 1 if one is of unknown origin."""
    files = [word for word in arguments[:1] if not word.startswith("-")]
    settings, _ = read_command_line([*(f"--config={file}" for file in files), *arguments[len(files) :]])
    found = list(named_classes(settings))
    width = max((len(path) for _, path in found), default=0)
    for key, path in found:
        origin = Origin.of(path)
        say(f"{'  ' if origin.trusted else '! '}{path:{width}}  {origin.value}  ({key})")
    strange = sum(not Origin.of(path).trusted for _, path in found)
    say(f"{len(found)} classes, {strange} of them (marked !) neither ours nor of a package that this one needs")
    return 1 if strange else 0


def quiet() -> None:
    """Lightning's greetings and hints are not for the people who use this program; a warning has one line."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning.*")
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    warnings.filterwarnings("ignore", message="The ``compute`` method")  # a rank may have no image: not a mistake
    warnings.formatwarning = lambda message, *_, **__: f"warning: {' '.join(str(message).split())}\n"


def main(args: list[str] | None = None) -> None:
    """Parse and run. Whatever is wrong with what a user gave is one line, and the exit status 2."""
    quiet()
    started = RunStarted()
    arguments = sys.argv[1:] if args is None else list(args)
    command, *options = arguments or [""]
    try:
        if command == "check":
            sys.exit(check(options))
        if (answered := answer(arguments, CLI_HELP)) is not None:
            print(answered)
            return
        if command not in COMMANDS:
            given = f"there is no command {command!r}" if command else "no command"
            raise UserError(f"{given}: the first word is predict, fit or check (--help says more)")
        if any(re.fullmatch(r"--help-all|--[\w.]+\.help|--print_shtab", word.partition("=")[0]) for word in options):
            show_help(command, arguments)
            return
        settings, flags = read_command_line(with_dps_files(options) if command == "predict" else options)
        more = {"print_only": True} if "--print_config" in flags else {}
        with quietly("--quiet" in flags):
            run(command, settings, started, "--allow-local" in flags, **more)
    except KeyboardInterrupt:
        print("stopped: the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        first = int(os.environ.get("LOCAL_RANK", 0)) == 0
        told = isinstance(error, StoppedElsewhere)
        alike = isinstance(error, UserError) and not started.value  # before the start, all ranks find the same error
        if not told and (first or not alike):
            print(f"error: {in_words(error)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
