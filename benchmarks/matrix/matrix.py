"""Whole validation sets under tasks x samplers x seeds, by the same predict path as a single run."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities.rank_zero import rank_zero_only

import lightning_cli
from benchmarks.matrix.cells import Cell, cells, read_matrix
from benchmarks.matrix.comparison import write_plan
from benchmarks.matrix.report import write_matrix_report
from posterior.errors import UserError
from posterior.settings import config_file, overlaid
from posterior.terminal import part_of_more, remark


def rank() -> int:
    """This process's, as torchrun, SLURM or Lightning have set it."""
    return int(getattr(rank_zero_only, "rank", 0))


def matrix(
    config: Path,
    smoke: bool = False,
    dir: Path | None = None,
    limit: int | None = None,
    devices: int | None = None,
    num_nodes: int = 1,
    tasks: list[str] | None = None,
    above: dict[str, Any] | None = None,
    allow_local: bool = False,
) -> None:
    """Run every cell that is not finished, then write table.csv, table.md and report.html into the matrix's folder.

    The file has the keys ``dir``; ``shared``, settings of all cells as `lightning_cli.py predict` has them; ``tasks``
    and ``samplers``, name -> settings laid over them (a sampler's ``tasks``: task -> settings laid over those again;
    its ``only``: a list of the tasks that it runs on); ``seeds``; and ``smoke``, the same keys, laid over everything by
    ``--smoke``. A value that names a file of settings (a path relative to the file it stands in, or a name that ships)
    replaces what is below it; ``from`` beside other keys is such a file with those keys laid over it. Settings on the
    command line, ``--shared.data.size 256`` say, are laid over the file's ``shared``, as `predict` lays them over its.

    Every sampler of a task and seed sees the same measurements (the report checks it). The prior is loaded once. The
    same command again goes on where it was stopped, also on another number of devices.

    Args:
        config: the matrix's file, or the name of one that ships.
        smoke: the small version, for CI.
        dir: another folder than the file says.
        limit: only the first so many images.
        devices: devices a node; with more than one, or more nodes, by DDP. None: as the file says.
        num_nodes: started by torchrun or SLURM (`docs/pipeline.md`).
        tasks: only these tasks of the file; None: all. Table and report have them and those that the folder has already
            of the others under these settings.
        above: settings laid over the file's.
        allow_local: whether the file may name classes of files that are not installed.

    Raises:
        UserError: if the file is bad or settings of a cell are, before any runs; if a cell fails, after the others have
            run, unless there are several processes.
    """
    lightning_cli.quiet()
    settings = read_matrix(config_file(str(config)), smoke, above)
    if dir is not None:
        settings["dir"] = str(dir)
    if devices is None and num_nodes > 1:
        raise UserError("matrix: num_nodes needs devices, the number on each node")
    if devices is not None:
        strategy = "ddp" if devices * num_nodes > 1 else "auto"
        trainer = {"devices": devices, "num_nodes": num_nodes, "strategy": strategy}
        settings["shared"] = overlaid(settings["shared"], {"trainer": trainer})
    found = list(cells(settings, limit, tasks))
    names = {cell.name for cell in found}
    shown = [cell for cell in cells(settings, limit) if cell.name in names or cell.ended]
    if rank() == 0:
        write_plan(Path(settings["dir"]), ((cell.task, cell.sampler, cell.seed) for cell in shown))
    failures = run_cells(found, allow_local)
    if rank() != 0:
        return
    if len(failures) < len(found):
        write_matrix_report(Path(settings["dir"]), shown)
    if failures:
        name, reason = next(iter(failures.items()))
        raise UserError(f"{len(failures)} of {len(found)} cells failed, first {name}: {reason}")


def run_cells(found: Sequence[Cell], allow_local: bool = False) -> dict[str, UserError | OSError]:
    """Run those that are not finished; names and reasons of the ones that fail.

    Raises:
        UserError: before any runs, if the settings of one are not those of a run.
    """
    finished = {cell.name for cell in found if cell.finished}  # decided before any runs: ranks must agree
    for cell in found:
        if cell.name not in finished:
            try:
                lightning_cli.checked("predict", cell.config, allow_local)
            except UserError as error:
                raise UserError(f"{cell.name}: {error}") from error
    failures: dict[str, UserError | OSError] = {}
    for number, cell in enumerate(found, start=1):
        done = cell.name in finished
        if rank() == 0:
            told = ": finished already" if done else ""
            remark(f"[{number}/{len(found)}] {cell.name}{told}")
        if done:
            continue
        try:
            with part_of_more():
                run_cell(cell, allow_local)
        except (UserError, OSError) as error:
            if cell.distributed:  # the others may be elsewhere: all have to stop
                raise
            if str(error) not in map(str, failures.values()):  # once, however many cells it stops
                print(f"{cell.name}: {error}", file=sys.stderr)
            failures[cell.name] = error
    return failures


def run_cell(cell: Cell, allow_local: bool = False) -> None:
    """Run one cell, and note that it came to its end.

    Raises:
        UserError: whatever stops it, or images that failed.
    """
    begun, digest = time.time(), cell.digest()
    try:
        lightning_cli.run("predict", cell.config, lightning_cli.RunStarted(), allow_local, share_prior=True)
    except Exception as error:
        metrics = cell.dir / "metrics.json"
        if rank() == 0 and metrics.is_file() and metrics.stat().st_mtime >= begun:
            cell.note(finished=False, digest=digest)  # images have failed, the others are there
        if isinstance(error, (UserError, OSError)):
            raise
        raise UserError(lightning_cli.in_words(error)) from error
    if rank() == 0:
        cell.note(finished=True, digest=digest)
