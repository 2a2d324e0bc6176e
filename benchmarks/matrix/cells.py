"""The cells of a matrix of runs, from its file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import posterior
from posterior import ids
from posterior.callbacks.record import changes_nothing
from posterior.errors import UserError
from posterior.files import write_whole
from posterior.settings import file_digests, module_digests, overlaid, read_settings
from posterior.settings.check import NOTES
from posterior.settings.overlay import Whole

KEYS = {"dir", "shared", "tasks", "samplers", "seeds", "smoke"}
RUN = {"model", "data", "output", "trainer", "seed_everything"}
"""What settings of a run have."""
OF_SAMPLERS = {"tasks", "only"}
"""What a sampler of the matrix may have beside these."""
STATE = "cell.json"
"""In a cell's folder: the settings under which it has run to its end, and whether no image failed."""


@dataclass(frozen=True)
class Cell:
    """One run of the matrix.

    Args:
        task, sampler, seed: its place.
        config: what `lightning_cli.py predict` gets.
    """

    task: str
    sampler: str
    seed: int
    config: dict[str, Any]

    @property
    def dir(self) -> Path:
        """The run's folder."""
        return Path(self.config["output"]["dir"])

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.task} / {self.sampler} / seed {self.seed}"

    @property
    def distributed(self) -> bool:
        """Whether there may be other processes beside this one."""
        trainer = self.config.get("trainer", {})
        devices = trainer.get("devices", "auto")
        alone = torch.cuda.device_count() < 2 if devices == "auto" else devices in (1, "1")
        return not alone or trainer.get("num_nodes", 1) > 1

    def digest(self) -> str:
        """Of the settings that decide results, and of the content of files and folders that they name."""
        settings = {
            "model": self.config["model"],
            "data": self.config["data"],
            "precision": self.config.get("trainer", {}).get("precision"),
            "save_samples": self.config["output"].get("save_samples"),
        }
        kept = _without(settings, "")
        whole = [kept, file_digests(kept), module_digests(kept), posterior.__version__]
        return hashlib.blake2b(json.dumps(whole, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()

    def _state(self) -> dict[str, Any]:
        try:
            state = json.loads((self.dir / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        there = (self.dir / "metrics.json").is_file()
        return state if there and isinstance(state, dict) and state.get("digest") == self.digest() else {}

    @property
    def ended(self) -> bool:
        """Whether a run under these settings came to its end; images may have failed."""
        return bool(self._state())

    @property
    def finished(self) -> bool:
        """Whether all images are complete, under these settings."""
        return bool(self._state().get("finished"))

    def note(self, finished: bool, digest: str) -> None:
        """Write that a run has come to its end, which began with this digest."""
        write_whole(self.dir / STATE, json.dumps({"digest": digest, "finished": finished}).encode())


def _without(value: Any, key: str) -> Any:
    """Settings without those that change no result, but for the limit."""
    if isinstance(value, dict):
        inner = {name: f"{key}.{name}".lstrip(".") for name in value}
        free = {name for name, whole in inner.items() if changes_nothing(whole) and name != "limit"}
        return {name: _without(item, inner[name]) for name, item in value.items() if name not in free}
    return [_without(item, key) for item in value] if isinstance(value, list) else value


def read_matrix(path: Path, smoke: bool, above: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The matrix's settings with all files read in.

    Args:
        path: of its file.
        smoke: whether its small version is laid over it.
        above: settings that are laid over that, such as those of a command line.

    Raises:
        UserError: if a file or a key is missing or unknown.
    """
    settings = dict(_check_mapping(read_settings(path), str(path)))
    small = settings.pop("smoke", None)
    for where in [settings, {} if small is None else small]:
        _check_mapping(where, f"{path}: the matrix")
        _check_keys(where, KEYS, str(path))
    if smoke:
        if small is None:
            raise UserError(f"{path} has no smoke version")
        settings = overlaid(settings, small)
    settings = overlaid(settings, dict(above or {}))
    for key in ("dir", "shared", "tasks", "samplers"):
        if not settings.get(key):
            raise UserError(f"{path}: {key} is missing")
    _check_keys(_check_mapping(settings["shared"], f"{path}: shared"), RUN, f"{path}: shared")
    for key in ("tasks", "samplers"):
        for name, value in _check_mapping(settings[key], f"{path}: {key}").items():
            _check_mapping(value, f"{path}: {key}: {name}")
            _check_keys(value, RUN | (OF_SAMPLERS if key == "samplers" else set()), f"{path}: {key}: {name}")
            if (reason := ids.fault(name)) or "/" in name:
                raise UserError(f"{path}: {key}: {name!r} {reason or 'holds a /'}: it becomes the name of a folder")
    seeds = settings.setdefault("seeds", [0])
    whole = isinstance(seeds, list) and all(isinstance(s, int) and not isinstance(s, bool) for s in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"{path}: seeds must be a list of different whole numbers, got {seeds!r}")
    if isinstance(settings["dir"], Whole):  # a folder that is called like a file that ships
        settings["dir"] = settings["dir"].source
    if not isinstance(settings["dir"], str):
        raise UserError(f"{path}: dir must be a path, got {settings['dir']!r}")
    return settings


def _check_keys(found: dict[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(map(str, set(found) - known)):
        raise UserError(f"{where}: unknown key {', '.join(unknown)}; there are {', '.join(sorted(known))}")


def _check_mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where} must be a mapping (key: value), got {value!r}")
    return value


def cells(settings: dict[str, Any], limit: int | None = None, chosen: Collection[str] | None = None) -> Iterator[Cell]:
    """All cells: for each task and seed, each sampler (one with ``only``: for those tasks).

    Args:
        settings: of the matrix.
        limit: only the first so many images.
        chosen: only these tasks; None: all.

    Raises:
        UserError: if a sampler names a task that is not there, or ``chosen`` does, or none; if a part of a run's
            settings is no mapping.
    """
    tasks: dict[str, Any] = settings["tasks"]
    if chosen is not None and not chosen:
        raise UserError(f"--tasks: names none; there are {', '.join(tasks)}")
    if chosen is not None and (unknown := sorted(set(chosen) - set(tasks))):
        raise UserError(f"--tasks: there is no task {', '.join(unknown)}; there are {', '.join(tasks)}")
    for sampler, own in settings["samplers"].items():
        for task, of_both in _check_mapping(own.get("tasks", {}), f"sampler {sampler}: tasks").items():
            where = f"sampler {sampler}: tasks: {task}"
            _check_keys(_check_mapping(of_both, where), RUN, where)
        only = own.get("only", list(tasks))
        if not isinstance(only, list) or not only or not all(isinstance(task, str) for task in only):
            raise UserError(f"sampler {sampler}: only must be a list of tasks, got {only!r}")
        if strange := {*own.get("tasks", {}), *only} - set(tasks):
            raise UserError(f"sampler {sampler}: there is no task {', '.join(sorted(strange))}")
    for task, of_task in tasks.items():
        if chosen is not None and task not in chosen:
            continue
        for seed in settings["seeds"]:
            for sampler, own in settings["samplers"].items():
                if task not in own.get("only", tasks):
                    continue
                laid = {key: value for key, value in own.items() if key not in OF_SAMPLERS}
                config = overlaid(overlaid(settings["shared"], of_task), laid)
                config = overlaid(config, own.get("tasks", {}).get(task, {}))
                for part in ("model", "data", "output", "trainer"):
                    _check_mapping(config.get(part, {}), f"{task} / {sampler}: {part}")
                fixed: dict[str, Any] = {"seed": seed} | ({} if limit is None else {"limit": limit})
                folder = Path(settings["dir"]) / task / sampler / f"seed_{seed}"
                config = overlaid(config, {"data": {"init_args": fixed}, "output": {"dir": str(folder)}})
                yield Cell(task, sampler, seed, _copied(config))


def _copied(value: Any) -> Any:
    """Settings that nothing else holds, without notes for other commands; what is known of a path stays with it."""
    if isinstance(value, dict):
        notes = NOTES if "class_path" in value else set()
        return {str(name): _copied(item) for name, item in value.items() if name not in notes}
    return [_copied(item) for item in value] if isinstance(value, (list, tuple)) else value
