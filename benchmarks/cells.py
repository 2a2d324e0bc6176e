"""The cells of a matrix of runs, from its file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

import lightning_cli
from posterior.errors import UserError
from posterior.files import write_whole

KEYS = {"dir", "shared", "tasks", "samplers", "seeds", "smoke"}
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
        """Of the settings that decide results, and of the files that they name (by size and time)."""
        settings = {
            "model": self.config["model"],
            "data": self.config["data"],
            "precision": self.config.get("trainer", {}).get("precision"),
            "save_samples": self.config["output"].get("save_samples"),
        }
        kept = _without(settings, lightning_cli.CHANGEABLE - {"limit"})
        files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in _files(kept)]
        return hashlib.blake2b(json.dumps([kept, files], sort_keys=True).encode(), digest_size=16).hexdigest()

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

    def note(self, finished: bool) -> None:
        """Write that a run has come to its end."""
        write_whole(self.dir / STATE, json.dumps({"digest": self.digest(), "finished": finished}).encode())


def _without(value: Any, names: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(item, names) for key, item in value.items() if key not in names}
    return [_without(item, names) for item in value] if isinstance(value, list) else value


def _files(value: Any) -> Iterator[Path]:
    """The files that settings name and that are there."""
    if isinstance(value, dict):
        for item in value.values():
            yield from _files(item)
    elif isinstance(value, list):
        for item in value:
            yield from _files(item)
    elif isinstance(value, str) and Path(value).is_file():
        yield Path(value)


def read_matrix(path: Path, smoke: bool) -> dict[str, Any]:
    """The matrix's settings with all files read in.

    Raises:
        UserError: if a file or a key is missing or unknown.
    """
    settings = _check_mapping(read_settings(path), str(path))
    small = settings.pop("smoke", None)
    for where in [settings, {} if small is None else small]:
        _check_mapping(where, f"{path}: the matrix")
        unknown = set(where) - KEYS
        if unknown:
            raise UserError(f"{path}: unknown key {', '.join(sorted(unknown))}; there are {', '.join(sorted(KEYS))}")
    if smoke:
        if small is None:
            raise UserError(f"{path} has no smoke version")
        settings = overlaid(settings, small)
    for key in ("dir", "shared", "tasks", "samplers"):
        if not settings.get(key):
            raise UserError(f"{path}: {key} is missing")
    for key in ("tasks", "samplers"):
        for name, value in _check_mapping(settings[key], f"{path}: {key}").items():
            _check_mapping(value, f"{path}: {key}: {name}")
    if not isinstance(settings.setdefault("seeds", [0]), list) or not settings["seeds"]:
        raise UserError(f"{path}: seeds must be a list of numbers, got {settings['seeds']!r}")
    return settings


def _check_mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where} must be a mapping (key: value), got {value!r}")
    return value


def cells(settings: dict[str, Any], limit: int | None = None) -> Iterator[Cell]:
    """All cells: for each task and seed, each sampler.

    Raises:
        UserError: if a sampler names a task that is not there.
    """
    tasks: dict[str, Any] = settings["tasks"]
    for sampler, own in settings["samplers"].items():
        if strange := set(own.get("tasks", {})) - set(tasks):
            raise UserError(f"sampler {sampler}: there is no task {', '.join(sorted(strange))}")
    for task, of_task in tasks.items():
        for seed in settings["seeds"]:
            for sampler, own in settings["samplers"].items():
                laid = {key: value for key, value in own.items() if key != "tasks"}
                config = overlaid(overlaid(settings["shared"], of_task), laid)
                config = overlaid(config, own.get("tasks", {}).get(task, {}))
                fixed: dict[str, Any] = {"seed": seed} | ({} if limit is None else {"limit": limit})
                folder = Path(settings["dir"]) / task / sampler / f"seed_{seed}"
                config = overlaid(config, {"data": {"init_args": fixed}, "output": {"dir": str(folder)}})
                yield Cell(task, sampler, seed, json.loads(json.dumps(config)))


class Whole(dict[str, Any]):
    """Settings that stand in a file of their own: laid over others they replace them."""


def overlaid(below: Any, above: Any) -> Any:
    """Settings laid over others, mapping by mapping; where the class changes nothing of the one below is kept."""
    if not isinstance(below, dict) or not isinstance(above, dict) or isinstance(above, Whole):
        return above
    if below.get("class_path", above.get("class_path")) != above.get("class_path", below.get("class_path")):
        return above
    return below | {key: overlaid(below[key], value) if key in below else value for key, value in above.items()}


def read_settings(path: Path) -> Any:
    """A YAML file with the files that it names read in.

    Raises:
        UserError: if one cannot be read.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return _resolved(content, path.parent)


def _resolved(value: Any, folder: Path) -> Any:
    if isinstance(value, str) and value.endswith(".yaml"):
        return _whole(read_settings(folder / value))
    if isinstance(value, list):
        return [_resolved(item, folder) for item in value]
    if isinstance(value, dict):
        own = {key: _resolved(item, folder) for key, item in value.items() if key != "from"}
        return _whole(overlaid(_resolved(value["from"], folder), own)) if "from" in value else own
    return value


def _whole(value: Any) -> Any:
    return Whole(value) if isinstance(value, dict) else value
