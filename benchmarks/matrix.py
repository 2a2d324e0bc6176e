"""Whole validation sets under tasks x samplers x seeds, by the same predict path as a single run."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import lightning_cli
from benchmarks.matrix_report import write_matrix_report
from posterior.callbacks.files import write_whole
from posterior.errors import UserError
from posterior.priors import Prior

KEYS = {"dir", "shared", "tasks", "samplers", "seeds", "smoke"}


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

    def digest(self) -> str:
        """Of the settings that decide results."""
        settings = self.config | {"trainer": {"precision": self.config.get("trainer", {}).get("precision")}}
        return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16).hexdigest()

    @property
    def finished(self) -> bool:
        """Whether all images are complete, under these settings."""
        try:
            return (self.dir / "finished").read_text(encoding="utf-8").strip() == self.digest()
        except OSError:
            return False


def matrix(
    config: Path,
    smoke: bool = False,
    dir: Path | None = None,
    limit: int | None = None,
    devices: int | None = None,
    num_nodes: int = 1,
) -> None:
    """Run every cell that is not finished, then write table.csv, table.md and report.html into the matrix's folder.

    The file has the keys ``dir``; ``shared``, settings of all cells as `lightning_cli.py predict` has them; ``tasks``
    and ``samplers``, name -> settings laid over them (a sampler's ``tasks``: task -> settings laid over those again);
    ``seeds``; and ``smoke``, the same keys, laid over everything by ``--smoke``. A value that ends in .yaml is a file
    of settings, its path relative to the file it stands in, and replaces what is below it; ``from`` beside other keys
    is such a file with those keys laid over it.

    Every sampler of a task and seed sees the same measurements (the report checks it). The prior is loaded once. The
    same command again goes on where it was stopped, also on another number of devices.

    Args:
        config: the matrix's file.
        smoke: the small version, for CI.
        dir: another folder than the file says.
        limit: only the first so many images.
        devices: devices a node; with more than one, or more nodes, by DDP. None: as the file says.
        num_nodes: started by torchrun or SLURM (`docs/pipeline.md`).

    Raises:
        UserError: if the file is bad or a cell fails; the others are run first, unless there are several processes.
    """
    lightning_cli.quiet()
    settings = read_matrix(Path(config), smoke)
    if dir is not None:
        settings["dir"] = str(dir)
    if devices is not None:
        strategy = "ddp" if devices * num_nodes > 1 else "auto"
        trainer = {"devices": devices, "num_nodes": num_nodes, "strategy": strategy}
        settings["shared"] = overlaid(settings["shared"], {"trainer": trainer})
    found = list(cells(settings, limit))
    finished = {cell.name for cell in found if cell.finished}  # decided before any runs: ranks must agree
    first = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))) == 0
    priors: dict[str, Prior] = {}
    failures = {}
    for number, cell in enumerate(found, start=1):
        done = cell.name in finished
        if first:
            print(f"[{number}/{len(found)}] {cell.name}{': finished already' if done else ''}", file=sys.stderr)
        if done:
            continue
        try:
            run_cell(cell, priors)
        except UserError as error:
            if int(os.environ.get("WORLD_SIZE", 1)) > 1:
                raise
            failures[cell.name] = str(error)
            print(f"{cell.name}: {error}", file=sys.stderr)
    if first:
        write_matrix_report(
            Path(settings["dir"]), [(cell.task, cell.sampler, cell.seed, cell.config) for cell in found]
        )
    if failures:
        name, reason = next(iter(failures.items()))
        raise UserError(f"{len(failures)} of {len(found)} cells failed, first {name}: {reason}")


def run_cell(cell: Cell, priors: dict[str, Prior]) -> None:
    """Run one cell, and note that it is finished.

    Raises:
        UserError: whatever stops it, or images that failed.
    """
    path = cell.dir / "cell.yaml"
    write_whole(path, yaml.safe_dump(cell.config, sort_keys=False).encode())
    try:
        lightning_cli.predict(["predict", "--config", str(path)], lightning_cli.RunStarted(), priors)
    except SystemExit as error:
        raise UserError(f"its settings, {path}, are not accepted (the reason is printed above)") from error
    write_whole(cell.dir / "finished", f"{cell.digest()}\n".encode())


def read_matrix(path: Path, smoke: bool) -> dict[str, Any]:
    """The matrix's settings with all files read in.

    Raises:
        UserError: if a file or a key is missing or unknown.
    """
    settings = read_settings(path)
    small = settings.pop("smoke", None)
    for where in [settings, small or {}]:
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
    return settings


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
        for seed in settings.get("seeds", [0]):
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
