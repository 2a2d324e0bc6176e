"""From nothing to a picture: three tasks, posterior samples of each, DPS beside them on one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning_cli
from benchmarks.matrix.cells import Cell, cells, read_matrix
from benchmarks.matrix.comparison import write_comparison, write_plan
from benchmarks.matrix.matrix import run_cells
from benchmarks.matrix.results import Result
from datamodules.photos import HELD_OUT
from posterior.errors import UserError
from posterior.files import say
from posterior.ids import natural
from posterior.results.pictures import make_grid, picture_names
from posterior.results.report import read_metrics
from posterior.results.report_folder import read_run
from posterior.results.table import cell as told
from posterior.results.table import fitted
from posterior.settings import overlaid, read_settings
from posterior.shipped import CONFIGS
from posterior.terminal import part_of_more, remark

CONFIG = CONFIGS / "benchmark" / "demo.yaml"
TASKS = {
    "super_resolution": "4x super-resolution",
    "random_inpainting": "random inpainting",
    "gaussian_deblurring": "Gaussian deblurring",
}
SHORT = {"super_resolution": "4x super-res.", "random_inpainting": "inpainting", "gaussian_deblurring": "deblurring"}
"""Task -> what stands above its columns of the table."""
PHOTO = {
    "model": {"num_samples": 4},
    "data": {"size": 64, "short_side": 64, "limit": 1},
    "trainer": {"devices": 1},
}
"""What is laid over configs/photos/random_inpainting.yaml: the first held-out photograph in small, 10 s of a core."""
SAMPLERS = {"conditional": "conditional", "dps": "DPS"}


def demo(dir: Path = Path("results/demo"), limit: int = 4, faces: int = 2) -> None:
    """Posterior samples of held-out toon faces under three tasks, and what DPS makes of the first one.

    Runs configs/benchmark/demo.yaml; the same command again goes on from what is there. Each run has a folder below
    ``dir``; ``grid.png`` and ``report.html`` there show all of them. With the extra ``photos`` a photograph is
    restored too, in ``dir/photograph``.

    Args:
        dir: the folder.
        limit: faces that the table is about.
        faces: of these in grid.png.

    Raises:
        UserError: if a run fails.
    """
    lightning_cli.quiet()
    found = list(cells(read_matrix(CONFIG, smoke=False) | {"dir": str(dir)}, limit))
    write_plan(Path(dir), ((cell.task, cell.sampler, cell.seed) for cell in found))
    if failures := run_cells(found):
        name, reason = next(iter(failures.items()))
        raise UserError(f"{name}: {reason}")
    photograph(Path(dir) / "photograph")
    grid = Path(dir) / "grid.png"
    write_grid(found, faces, grid)
    say(f"\n{limit} held-out faces, means ± standard errors over them:")
    say(table(found))
    say("resid.: ||y - A x|| over its noise, about 1 for the truth. NFE: network calls,")
    say("forward + backward.")
    results = [Result.of_run(*title(cell), cell.seed, read_run(cell.dir)) for cell in found]
    lead = f"{limit} held-out toon faces under each task, noise 0.05, and what DPS makes of the first task."
    say(f"page: {write_comparison(Path(dir), results, [lead])}")
    say(f"grid: {grid}")


def photograph(folder: Path) -> None:
    """A third of it seen, in one run; where it is not installed, or the run fails, a line says so."""
    try:
        HELD_OUT[0].located()
        remark(f"a photograph: {HELD_OUT[0].name}, {HELD_OUT[0].credit}")
        settings = overlaid(read_settings(CONFIGS / "photos" / "random_inpainting.yaml"), PHOTO)
        with part_of_more():
            lightning_cli.run("predict", settings | {"output": {"dir": str(folder)}}, lightning_cli.RunStarted())
    except UserError as error:
        say(f"no photograph here ({error})")
        return
    say(f"photograph: {folder / 'grid.png'}")


def title(cell: Cell) -> tuple[str, str]:
    """Of a run, for people: task and sampler."""
    return TASKS[cell.task], SAMPLERS[cell.sampler]


def write_grid(found: Sequence[Cell], faces: int, path: Path) -> None:
    """One picture of all runs: rows are runs and faces."""
    rows = []
    for cell in found:
        task, sampler = title(cell)
        ids = sorted((folder.name for folder in (cell.dir / "images").iterdir()), key=natural)
        rows += [(f"{task}\n{sampler}", cell.dir / "images" / image_id) for image_id in ids[:faces]]
    num_samples = found[0].config["model"]["num_samples"]
    there = {picture.stem for picture in rows[0][1].iterdir()} - {"operator"}
    make_grid(rows, picture_names(num_samples, there, num_samples), path, least_side=96)


def table(found: Sequence[Cell]) -> str:
    """The runs' metrics to three digits, a column each, in 80 columns of text."""
    metrics = {  # of single samples, or of their mean
        "PSNR": ("sample", "psnr"),
        "PSNR, mean": ("mean", "psnr"),
        "LPIPS": ("sample", "lpips_alex_x2"),
        "resid.": ("sample", "residual"),
        "std": ("mean", "std"),
    }
    columns = [["", "", *metrics, "NFE"]]
    for cell in found:
        report = read_metrics(cell.dir)
        known, images = report["metrics"], report["images"]
        values = (told(known[kind].get(name), images, digits=3).replace("+-", "±") for kind, name in metrics.values())
        calls = (f"{known['sample'][name]['mean']:.0f}" for name in ("nfe_forward", "nfe_backward"))
        columns.append([SHORT[cell.task], SAMPLERS[cell.sampler], *values, " + ".join(calls)])
    return fitted(list(zip(*columns, strict=True)))
