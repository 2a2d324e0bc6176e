"""What a run's folder keeps of its settings, and whether a run may be resumed there."""

from __future__ import annotations

import fnmatch
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import yaml
from pytorch_lightning.cli import SaveConfigCallback

import posterior
from posterior import random
from posterior.callbacks.training import TrainingWriter
from posterior.errors import UserError
from posterior.files import FolderLock, explained, forget_partial, write_whole
from posterior.listing import RECORD
from posterior.module import PosteriorSampling
from posterior.results.journal import FORMAT, Journal
from posterior.settings import Folders, code_digests, file_digests, read_yaml
from posterior.settings.places import STARTED_IN
from posterior.shell import in_words

CHANGEABLE = (
    *("data.init_args.limit", "data.init_args.batch_size", "data.init_args.num_workers"),
    *("model.prior.*.checkpoint_activations", "model.prior.init_args.compile", "model.prior.init_args.memory_format"),
)
"""Settings (patterns) that change no result of `predict`, so that a run may be resumed with other ones."""
CHANGEABLE_IN_TRAINING = (
    *("model.learning_rate", "model.warmup_steps", "model.cooldown_steps", "model.ema_decay"),
    *("model.prior.init_args.checkpoint", "model.prior.*.checkpoint_activations"),
    *("data.batch_size", "data.num_workers", "data.training.init_args.cache", "data.validation.init_args.cache"),
)
"""Settings (patterns) that a training run may be resumed with other ones of; they count from then on."""


def changes_nothing(key: str, changeable: Sequence[str] = CHANGEABLE) -> bool:
    """Whether a setting, by its whole dotted key, may differ between two starts of a run."""
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in changeable)


class KeepConfig(SaveConfigCallback):
    """Writes config.yaml and record.json into the run's folder, and refuses to resume a run that was another.

    The record has what the settings do not show: digests of the files that they name and of code that is not ours, our
    version, the prior's fingerprint.
    """

    command: ClassVar[str] = "predict"
    changeable: ClassVar[Sequence[str]] = CHANGEABLE
    locks: ClassVar[list[FolderLock]] = []
    """Of this process; `run` leaves them when all is written."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.folder = Path(self.config.output.dir)
        self.lock = FolderLock(self.folder)
        self.locks.append(self.lock)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        problem = None
        if trainer.is_global_zero:
            try:
                with explained(self.folder):
                    self.lock.take()
                    problem = self.keep(trainer, pl_module)
            except OSError as error:
                problem = f"cannot write to output.dir: {error}"
            except Exception as error:  # the other ranks wait to hear of it
                problem = in_words(error)
        problem = trainer.strategy.broadcast(problem)
        if problem:
            raise UserError(problem)
        for logger in trainer.loggers:
            logger.log_hyperparams(yaml.safe_load(self.settings()))

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning only notes a SIGTERM and goes on predicting; a run can be killed at any moment, so let it die
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def settings(self) -> str:
        """All settings as YAML; they were checked when they were read."""
        return str(self.parser.dump(self.config, skip_unset=False, skip_validation=True))

    def has_started(self) -> bool:
        """Whether the folder holds something that a resumed run, of either command, would go on from."""
        return (self.folder / TrainingWriter.CHECKPOINT).exists() or Journal(self.folder / "journal").holds_anything()

    def keep(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> str | None:
        """Write the files; or one line that says why this run does not belong into its folder."""
        path, text = self.folder / "config.yaml", self.settings()
        settings, record = yaml.safe_load(text), self.folder / RECORD
        now = self.record(settings, trainer, pl_module)
        if self.has_started():
            for one in (path, record):
                if not one.is_file():
                    return (
                        f"{self.folder} holds results, but not the {one.name} that says of what: choose another "
                        "output.dir, or delete it"
                    )
            found = self._mismatch(path, settings, record, now)
            if found:
                return f"{found}: choose another output.dir, or delete it"
        elif path.exists() and not record.exists():
            return f"{path} is there, but no run that it belongs to: choose another output.dir, or move the file away"
        write_whole(record, (json.dumps(now, indent=2) + "\n").encode())
        write_whole(path, text.encode())
        return None

    def _mismatch(self, path: Path, settings: dict[str, Any], record: Path, now: dict[str, Any]) -> str | None:
        """Why what is there is not this run, if it is not; what was noted of its code is taken over."""
        try:
            before, old = json.loads(record.read_text(encoding="utf-8")), read_yaml(path)
            if before["command"] != now["command"]:
                return f"{self.folder} holds a run of {before['command']}, this is {now['command']}"
            started_in = Path(before.get(STARTED_IN, "."))
            found = (
                self._of_another_version(before, now)
                or self._difference(old, settings, started_in)
                or self._changed(before, now)
            )
            now["code"] = before["code"] | now["code"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, UserError):
                raise
            return f"{record} or {path.name} beside it is damaged"
        return found

    def record(self, settings: dict[str, Any], trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """What decides results beside the settings."""
        counted = {
            part: digests
            for part, folders in self.folders(trainer).items()
            for part, digests in file_digests(settings[part], part, folders).items()
        }
        files = {key: digest for key, digest in counted.items() if not changes_nothing(key, self.changeable)}
        return {
            "command": self.command,
            "format": FORMAT,
            "version": posterior.__version__,
            STARTED_IN: os.getcwd(),
            "random": random.VERSION,
            "files": files,
            "code": code_digests({"model": settings["model"], "data": settings["data"]}),
        }

    def folders(self, trainer: pl.Trainer) -> dict[str, Folders]:
        """How a folder that a part's settings name is known."""
        return {"model": Folders.ALL, "data": Folders.NAMES}

    def _difference(self, old: dict[str, Any], new: dict[str, Any], started_in: Path) -> str | None:
        before, now = dict(self._settings(old)), dict(self._settings(new))
        for key in [*now, *before]:
            if before.get(key) != now.get(key) and not _same_file(before.get(key), now.get(key), started_in):
                return f"{self.folder} holds a run with {key} = {before.get(key)!r}, now it is {now.get(key)!r}"
        return None

    def _of_another_version(self, before: dict[str, Any], now: dict[str, Any]) -> str | None:
        """Whether another version of this program has made the run, in one line."""
        names = {"version": "version", "format": "the format", "random": "the random numbers"}
        for key, name in names.items():
            if before.get(key) != now[key]:
                return f"{self.folder} holds a run of {name} {before.get(key)} of this program, this is {now[key]}"
        return None

    def _changed(self, before: dict[str, Any], now: dict[str, Any]) -> str | None:
        """What has changed behind the settings' back, in one line."""
        for key in now["files"] | before["files"]:
            if before["files"].get(key) != now["files"].get(key):
                return f"{self.folder} holds a run with another content of what {key} names"
        for name, digest in now["code"].items():
            if before["code"].get(name, digest) != digest:
                file = sys.modules[name].__file__
                return f"{self.folder} holds a run with another {name}, whose code ({file}) has changed"
        return None

    def _settings(self, config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """The leaves of a configuration that decide results."""
        for key, value in [*_leaves(config["model"], "model"), *_leaves(config["data"], "data")]:
            if not changes_nothing(key, self.changeable):
                yield key, value
        yield "trainer.precision", config["trainer"]["precision"]


def _same_file(before: Any, now: Any, started_in: Path) -> bool:
    """Whether two paths, the first from the folder where the run was started, lead to the same file or folder."""
    if not isinstance(before, str) or not isinstance(now, str) or not os.path.exists(now):
        return False
    return os.path.realpath(started_in / before) == os.path.realpath(now)


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """The leaves of a part of a configuration, as (dotted key, value)."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}")
    else:
        yield key, value


class KeepPredictConfig(KeepConfig):
    """Also knows the prior itself, and the features that FID is computed from."""

    def folders(self, trainer: pl.Trainer) -> dict[str, Folders]:
        return {"model": Folders.ALL, "data": Folders.NONE}  # images are known one by one

    def keep(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> str | None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        for name in data.sources:
            source = getattr(data, name, None)
            if source is not None and os.path.realpath(source) == os.path.realpath(self.folder):
                return f"output.dir {self.folder} is the folder of the inputs: choose one of its own"
        return super().keep(trainer, pl_module)

    def record(self, settings: dict[str, Any], trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        assert isinstance(pl_module, PosteriorSampling)
        found = super().record(settings, trainer, pl_module)
        data = trainer.datamodule  # type: ignore[attr-defined]
        images = {f"data.init_args.{name}" for name in data.sources}
        found["files"] = {key: digest for key, digest in found["files"].items() if key not in images}
        found["prior"] = pl_module.prior.fingerprint()
        found["features"] = sorted(distance.name for distance in pl_module.distances)
        return found

    def _changed(self, before: dict[str, Any], now: dict[str, Any]) -> str | None:
        if found := super()._changed(before, now):
            return found
        if before["prior"] != now["prior"]:
            return (
                f"{self.folder} holds a run with another prior (the checkpoint, or the images that the prior is fitted "
                "to, have changed)"
            )
        if before["features"] != now["features"]:
            return (
                f"{self.folder} holds a run with the features of {', '.join(before['features']) or 'no network'}, now "
                f"there are those of {', '.join(now['features']) or 'none'} (are its weights there?)"
            )
        return None


class KeepTrainingConfig(KeepConfig):
    """That of a training run, which goes on from its last checkpoint."""

    command = "fit"
    changeable = CHANGEABLE_IN_TRAINING

    def keep(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> str | None:
        forget_partial(self.folder)
        return super().keep(trainer, pl_module)
