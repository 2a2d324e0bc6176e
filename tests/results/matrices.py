"""Folders of matrices whose runs a test knows (`tests.results.runs`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.matrix.comparison import write_plan
from tests.results.runs import write_run

TASKS, SAMPLERS = ("sr", "inpainting"), ("exact", "dps", "kinetic")


def write_matrix(
    folder: Path,
    ids: Sequence[str],
    tasks: Sequence[str] = TASKS,
    samplers: Sequence[str] = SAMPLERS,
    begun: int | None = None,
    side: int = 16,
) -> Path:
    """Runs of every task and sampler; of one that was killed the first ``begun`` alone, the last of them half done."""
    cells = [(task, sampler, 0) for task in tasks for sampler in samplers]
    write_plan(folder, cells)
    for number, (task, sampler, seed) in enumerate(cells[:begun]):
        half = number + 1 == begun
        own = ids[: len(ids) // 2] if half else ids
        write_run(folder / task / sampler / f"seed_{seed}", own, 2, side, finished=not half, better=number)
    return folder
