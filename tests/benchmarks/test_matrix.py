"""Matrices of runs: cells, sharing, skipping, the report."""

from __future__ import annotations

import csv
import functools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import lightning_cli
from benchmarks.__main__ import run as command
from benchmarks.matrix.cells import cells, overlaid, read_matrix, read_settings
from benchmarks.matrix.matrix import matrix
from benchmarks.matrix.report import sweeps
from benchmarks.matrix.results import Estimate, Result, metric_rows, paired_rows
from posterior import UserError
from posterior.priors import GaussianFieldPrior
from tests.test_cli import FIELD, write_images

pytestmark = pytest.mark.usefixtures("no_lpips_weights")


def langevin(step_size):
    schedule = {"class_path": "posterior.samplers.PublishedAnnealing", "init_args": {"growth": 0.9, "num_levels": 5}}
    respaced = {"class_path": "posterior.samplers.RespacedSigmas", "init_args": {"respacing": 5}}
    reverse = {"class_path": "posterior.samplers.ReverseDiffusion", "init_args": {"schedule": respaced}}
    arguments = {"step_size": step_size, "schedule": schedule, "reverse": reverse}
    return {"model": {"sampler": {"class_path": "posterior.samplers.AnnealedLangevin", "init_args": arguments}}}


@pytest.fixture
def small(tmp_path) -> Path:
    """A matrix of 2 tasks x 3 samplers x 2 seeds on two 16x16 images; its parts stand in files."""
    images = write_images(tmp_path / "images", ["a", "b/c"])
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "prior.yaml").write_text(yaml.safe_dump(FIELD))
    (tmp_path / "parts" / "langevin.yaml").write_text(yaml.safe_dump(langevin(1e-3)["model"]["sampler"]))
    likelihood = {"class_path": "posterior.noise.GaussianNoise", "init_args": {"sigma_y": 0.1}}
    data = {"class_path": "datamodules.ImageFolder", "init_args": {"root": str(images), "likelihood": likelihood}}

    def task(name, **arguments):
        operator = {"class_path": f"posterior.operators.{name}", "init_args": arguments}
        return {"data": {"init_args": {"operator": operator}}}

    content = {
        "dir": str(tmp_path / "out"),
        "shared": {"model": {"prior": "parts/prior.yaml"}, "data": data, "trainer": {"accelerator": "cpu"}},
        "tasks": {"inpainting": task("RandomInpainting"), "sr": task("SuperResolution", scale=2)},
        "samplers": {
            "exact": {"model": {"sampler": {"class_path": "posterior.samplers.ExactGaussian"}}},
            "slow": {"model": {"sampler": "parts/langevin.yaml"}},
            "fast": {
                "model": {"sampler": {"from": "parts/langevin.yaml", "init_args": {"step_size": 2e-3}}},
                "tasks": {"sr": {"model": {"num_samples": 2}}},
            },
        },
        "seeds": [0, 1],
        "smoke": {"dir": str(tmp_path / "smoke"), "seeds": [0], "shared": {"data": {"init_args": {"limit": 1}}}},
    }
    path = tmp_path / "matrix.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_cells_are_laid_over_one_another_in_order(small):
    found = {(cell.task, cell.sampler, cell.seed): cell for cell in cells(read_matrix(small, smoke=False))}
    assert len(found) == 12
    one, other = found["sr", "fast", 1].config, found["inpainting", "fast", 0].config
    assert one["model"]["prior"] == FIELD
    assert one["model"]["sampler"]["init_args"]["step_size"] == 2e-3
    assert found["sr", "slow", 0].config["model"]["sampler"]["init_args"]["step_size"] == 1e-3
    assert one["model"]["num_samples"] == 2
    assert "num_samples" not in other["model"]
    assert (one["data"]["init_args"]["seed"], other["data"]["init_args"]["seed"]) == (1, 0)
    smoke = list(cells(read_matrix(small, smoke=True)))
    assert len(smoke) == 6
    assert {cell.config["data"]["init_args"]["limit"] for cell in smoke} == {1}


def test_settings_of_the_command_line_are_laid_over_those_that_all_cells_share(small, monkeypatch):
    found = {}
    monkeypatch.setattr(
        "benchmarks.matrix.matrix.run_cells",
        lambda all_of_them, _: found.update(
            {(cell.task, cell.sampler, cell.seed): cell.config for cell in all_of_them}
        ),
    )
    monkeypatch.setattr("benchmarks.matrix.matrix.rank", lambda: 1)  # which writes no report
    words = ["--shared.data.size", "8", "--tasks", "[sr]", "--shared.model.num_samples=3", "--limit", "1"]
    command("matrix", ["--config", str(small), *words])
    assert set(found) == {("sr", sampler, seed) for sampler in ("exact", "slow", "fast") for seed in (0, 1)}
    for (_, sampler, _), config in found.items():
        assert config["data"]["init_args"]["size"] == "8"  # read by the type of its setting
        assert config["data"]["init_args"]["likelihood"]["init_args"] == {"sigma_y": 0.1}
        assert config["data"]["init_args"]["limit"] == 1
        assert config["model"]["num_samples"] == (
            2 if sampler == "fast" else "3"
        )  # what a sampler has of its own stays
    with pytest.raises(UserError, match="--tasks: there is no task blur; there are inpainting, sr"):
        matrix(small, tasks=["blur"])
    with pytest.raises(UserError, match="--tasks: names none; there are inpainting, sr"):
        matrix(small, tasks=[])
    with pytest.raises(UserError, match="shared: unknown key modell"):
        matrix(small, above={"shared": {"modell": 1}})


def test_a_matrix_of_other_pictures(small, tmp_path):
    """Another class of data on the command line: its settings are its own, the operator is the task's."""
    np.savez(tmp_path / "own.npz", images=np.full((1, 3, 16, 16), 77, dtype=np.uint8), ids=["own"])
    words = ["--shared.data", "ImageArray", "--shared.data.path", str(tmp_path / "own.npz")]
    words += ["--shared.data.likelihood", "GaussianNoise", "--shared.data.likelihood.sigma_y", "0.2"]
    command("matrix", ["--config", str(small), "--smoke", "--tasks", "[sr]", *words])
    (row, *others) = csv.DictReader((tmp_path / "smoke" / "table.csv").open())
    assert {row["task"], *(one["task"] for one in others)} == {"sr"}
    run = tmp_path / "smoke" / "sr" / "exact" / "seed_0"
    likelihood = yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]["likelihood"]
    assert likelihood["init_args"]["sigma_y"] == 0.2
    assert (run / "images" / "own" / "truth.png").is_file()


def test_a_sampler_may_run_on_some_tasks_only(small):
    content = yaml.safe_load(small.read_text())
    content["samplers"]["slow"]["only"] = ["sr"]
    small.write_text(yaml.safe_dump(content))
    found = [(cell.task, cell.sampler) for cell in cells(read_matrix(small, smoke=True))]
    assert found == [("inpainting", "exact"), ("inpainting", "fast"), ("sr", "exact"), ("sr", "fast"), ("sr", "slow")]
    for wrong, told in (
        (["blur"], "there is no task blur"),
        ("sr", "only must be a list of tasks"),
        ([], "only must be"),
    ):
        content["samplers"]["slow"]["only"] = wrong
        small.write_text(yaml.safe_dump(content))
        with pytest.raises(UserError, match=told):
            list(cells(read_matrix(small, smoke=True)))


def test_what_is_laid_over_another_class_keeps_nothing_of_it():
    below = {"class_path": "A", "init_args": {"x": 1, "y": 2}}
    assert overlaid(below, {"init_args": {"x": 3}}) == {"class_path": "A", "init_args": {"x": 3, "y": 2}}
    assert overlaid(below, {"class_path": "B", "init_args": {"z": 1}}) == {"class_path": "B", "init_args": {"z": 1}}
    assert below == {"class_path": "A", "init_args": {"x": 1, "y": 2}}


def test_a_matrix_runs_reports_and_skips_what_is_finished(small, tmp_path, monkeypatch, capsys):
    loaded = []
    start = GaussianFieldPrior.__init__

    @functools.wraps(start)
    def counted(self, *args, **kwargs):
        loaded.append(1)
        start(self, *args, **kwargs)

    monkeypatch.setattr(GaussianFieldPrior, "__init__", counted)
    monkeypatch.setattr(lightning_cli, "SHARED_PRIORS", {})  # that of other tests
    matrix(small)
    assert len(loaded) == 1  # shared by all twelve cells
    rows = list(csv.DictReader((tmp_path / "out" / "table.csv").open()))
    assert len(rows) == 12
    assert {row["images"] for row in rows} == {"2"}
    for row in rows:
        folder = tmp_path / "out" / row["task"] / row["sampler"] / f"seed_{row['seed']}"
        report = json.loads((folder / "metrics.json").read_text())["metrics"]
        several = (row["task"], row["sampler"]) == ("sr", "fast")
        for column, name in (("psnr_of_mean", "psnr"), ("residual_of_mean", "residual"), ("coverage", "coverage")):
            found = float(row[column]) if row[column] else None
            assert found == (pytest.approx(report["mean"][name]["mean"], rel=1e-5) if several else None)
        metrics = report["sample"]
        assert float(row["residual"]) == pytest.approx(metrics["residual"]["mean"], rel=1e-5)
        assert float(row["psnr"]) == pytest.approx(metrics["psnr"]["mean"], rel=1e-5)
        assert float(row["psnr_half95"]) == pytest.approx(12.706 * metrics["psnr"]["sem"], rel=1e-3)  # t, 1 degree
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('<section class="image"') == 2 * 2 * 2  # of each task and seed
    assert page.count('<figure class="plot"') == 1  # the step sizes
    assert not re.search(r"""src=['"](?!data:)""", page)  # nothing outside the file
    linked = re.findall(r'href="([^"]*)"', page)
    assert len(linked) == 12
    assert all((tmp_path / "out" / place).is_file() for place in linked)
    assert linked[0] == "inpainting/exact/seed_0/report.html"
    assert "16 pictures of measurements compared between samplers, all the same" in page
    assert "| sr | fast | exact | " in (tmp_path / "out" / "table.md").read_text()
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("metrics.json")}
    (tmp_path / "out" / "sr" / "slow" / "seed_1" / "cell.json").unlink()
    capsys.readouterr()
    matrix(small)
    error = capsys.readouterr().err
    assert error.count("finished already") == 11
    assert "[11/12] sr / slow / seed 1\n" in error or "sr / slow / seed 1\n" in error
    command("matrix", ["--config", str(small), "--quiet"])
    assert capsys.readouterr() == (f"report: {tmp_path / 'out' / 'report.html'}\n", "")
    changed = {path.parent.parent.name for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp}
    assert changed == {"slow"}


def test_paths_in_a_matrix_are_relative_to_it_and_its_folder_to_the_working_directory(
    small, tmp_path, monkeypatch, capsys
):
    content = yaml.safe_load(small.read_text())
    content["shared"]["data"]["init_args"]["root"] = "images"
    content |= {"dir": "out", "seeds": [0], "samplers": {"exact": content["samplers"]["exact"]}}
    small.write_text(yaml.safe_dump(content))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        matrix(small, dir=None if name == "one" else Path("../one/out"))
    assert capsys.readouterr().err.count("finished already") == 2
    assert len(list((tmp_path / "one" / "out").rglob("cell.json"))) == 2
    assert not list((tmp_path / "two").iterdir())
    with pytest.raises(UserError, match=r"does not exist: did you mean benchmark/ffhq256"):
        matrix(Path("benchmark/ffhq"))


def test_two_processes_run_a_matrix_too_and_one_goes_on(small, root, warm, tmp_path):
    command = ["-m", "benchmarks", "matrix", "--config", str(small), "--smoke", "--limit", "2"]
    done = warm.run([*command, "--devices", "2"], root)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report: ") == 1
    rows = list(csv.DictReader((tmp_path / "smoke" / "table.csv").open()))
    assert [row["images"] for row in rows] == ["2"] * 6
    assert len(list((tmp_path / "smoke").rglob("rank1.jsonl"))) == 6
    done = warm.run(command, root)  # one process
    assert done.stderr.count("finished already") == 6, done.stderr


def test_two_processes_stop_at_a_bad_image_and_leave_its_cell_unfinished(small, root, warm, tmp_path):
    (tmp_path / "images" / "z.png").write_bytes(b"no picture")
    command = ["-m", "benchmarks", "matrix", "--config", str(small), "--smoke", "--limit", "3"]
    done = warm.run([*command, "--devices", "2"], root)
    assert done.returncode == 2
    assert done.stderr.count("1 of 3 images failed") == 1
    states = [json.loads(path.read_text()) for path in (tmp_path / "smoke").rglob("cell.json")]
    assert [state["finished"] for state in states] == [False]
    (tmp_path / "images" / "z.png").unlink()
    done = warm.run([*command, "--devices", "2"], root)
    assert done.returncode == 0, done.stderr
    assert "finished already" not in done.stderr


def test_results_of_other_settings_are_not_shown_as_these(small, tmp_path):
    matrix(small, smoke=True)
    content = yaml.safe_load(small.read_text())
    content["samplers"]["fast"]["model"]["sampler"]["init_args"]["step_size"] = 4e-3  # its folder holds other samples
    small.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=r"2 of 6 cells failed, first inpainting / fast .* holds a run with"):
        matrix(small, smoke=True)
    rows = list(csv.DictReader((tmp_path / "smoke" / "table.csv").open()))
    assert {row["sampler"] for row in rows} == {"exact", "slow"}


def test_what_changes_no_result_does_not_run_a_cell_again(small):
    settings = read_matrix(small, smoke=True)
    (one, *_), (two, *_) = (
        list(cells(s)) for s in (settings, overlaid(settings, {"shared": {"data": {"init_args": {"batch_size": 2}}}}))
    )
    assert one.digest() == two.digest()
    other = next(iter(cells(settings, limit=2)))
    assert one.digest() != other.digest()


def test_when_all_cells_fail_the_reason_is_told(small):
    content = yaml.safe_load(small.read_text())
    content["shared"]["data"]["init_args"]["root"] = "nowhere"
    small.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=r"12 of 12 cells failed, first .*: image folder nowhere does not exist"):
        matrix(small)


def test_the_published_matrix_has_the_papers_cells(root):
    """configs/benchmark/ffhq256.yaml and configs/paper, configs/dps say the same."""
    found = {(c.task, c.sampler): c.config for c in cells(read_matrix(root / "configs/benchmark/ffhq256.yaml", False))}
    for task in ("random_inpainting", "super_resolution", "gaussian_deblurring"):
        for sampler, folder in (("langevin_5e-6", "paper"), ("dps", "dps")):
            path = root / "configs" / folder / f"{task}.yaml"
            one, other = read_settings(path), found[task, sampler]
            assert other["model"]["prior"] == one["model"]["prior"]
            assert other["model"]["sampler"] == {
                key: one["model"]["sampler"][key] for key in ("class_path", "init_args")
            }
            ours, theirs = other["data"]["init_args"], one["data"]["init_args"]
            assert all(ours[key] == theirs[key] for key in ("operator", "likelihood", "seed", "size", "limit"))


def test_a_cell_that_fails_is_named_and_the_others_are_run(small, tmp_path, capsys):
    content = yaml.safe_load(small.read_text())
    content["tasks"]["broken"] = {
        "data": {
            "init_args": {"operator": {"class_path": "posterior.operators.SuperResolution", "init_args": {"scale": 7}}}
        }
    }
    content["seeds"] = [0]
    small.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="3 of 9 cells failed, first broken / exact / seed 0"):
        matrix(small)
    assert len(list(csv.DictReader((tmp_path / "out" / "table.csv").open()))) == 9  # with their failures counted
    assert "failed images" in (tmp_path / "out" / "report.html").read_text()


def test_settings_that_no_class_takes_are_one_line_before_any_cell_runs(small, tmp_path, capsys):
    """Of one sampler's, and of those that all share: not a line a cell, nor a night of the others first."""
    with pytest.raises(UserError, match=r"^inpainting / exact / seed 0: data\.init_args\.sise: .*size"):
        matrix(small, above={"shared": {"data": {"sise": 8}}})
    content = yaml.safe_load(small.read_text())
    content["samplers"]["slow"] = {"model": {"sampler": {"class_path": "posterior.samplers.Nothing"}}}
    small.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=r"inpainting / slow / seed 0: model\.sampler: .* has no Nothing"):
        matrix(small)
    assert capsys.readouterr().err == ""
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_dir()]


def test_tasks_that_are_run_one_after_the_other_stand_in_one_table(small, tmp_path):
    def told() -> set[tuple[str, str]]:
        rows = csv.DictReader((tmp_path / "smoke" / "table.csv").open())
        return {(row["task"], row["sampler"]) for row in rows}

    def every(*tasks: str) -> set[tuple[str, str]]:
        return {(task, sampler) for task in tasks for sampler in ("exact", "slow", "fast")}

    matrix(small, smoke=True, tasks=["sr"])
    assert told() == every("sr")
    matrix(small, smoke=True, tasks=["inpainting"])
    assert told() == every("sr", "inpainting")
    assert "inpainting" in (tmp_path / "smoke" / "report.html").read_text()
    other = {"shared": {"data": {"init_args": {"size": 8}}}}  # these settings make other samples of inpainting
    with pytest.raises(UserError, match="holds a run with"):
        matrix(small, smoke=True, tasks=["sr"], above=other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": {}}, "unknown key sampler; there are dir, samplers, "),
        ({"tasks": None}, "tasks is missing"),
        ({"samplers": {"x": {"tasks": {"nowhere": {}}}}}, "sampler x: there is no task nowhere"),
        ({"shared": "nothing.yaml"}, r"nothing\.yaml is not there"),
        ({"samplers": {"dps": None}}, "samplers: dps must be a mapping"),
        ({"seeds": None}, "seeds must be a list of different whole numbers, got None"),
        ({"seeds": [0, 0]}, r"seeds must be a list of different whole numbers, got \[0, 0\]"),
        ({"shared": {"trainer": "x"}}, "trainer must be a mapping"),
        (
            {"samplers": {"x": {"tasks": {"inpainting": float("inf")}}}},
            r"tasks: inpainting must be a mapping \(key: value\), got inf",
        ),
        ({"samplers": {"../x": {}}}, "'../x' .*it becomes the name of a folder"),
        ({"tasks": {"x": {"class_path": "y"}}}, "tasks: x: unknown key class_path"),
    ],
)
def test_bad_matrices_are_named(small, change, message):
    small.write_text(yaml.safe_dump(yaml.safe_load(small.read_text()) | change))
    with pytest.raises(UserError, match=message):
        matrix(small)


def result(sampler, values, step=None, tmp=Path("x"), seed=0):
    arguments = {} if step is None else {"step_size": step, "other": 1}
    config = {"model": {"sampler": {"class_path": "S", "init_args": arguments}}}
    report = {"images": 2, "failed": {}, "distances": {"vgg16": {"fid": 3.0, "kid": None}}}
    return Result("task", sampler, seed, config, tmp, report, {"l2": values})


def test_seeds_are_averaged_over_an_image_and_differences_are_paired():
    base = [result("dps", {"a": 1.0, "b": 5.0}, seed=0), result("dps", {"a": 3.0, "b": 7.0}, seed=1)]
    ours = [result("mine", {"a": 1.5, "b": 5.5}, seed=0), result("mine", {"a": 3.5, "b": 7.5}, seed=1)]
    rows = metric_rows([*base, *ours])
    assert rows[1][3] == Estimate.of([2.0, 6.0]).text() == "4 ± 25"
    assert rows[0][-1] == "FID (vgg16)"
    assert rows[1][-1] == "3"
    assert paired_rows([*base, *ours])[1] == ["task", "mine", "dps", "+0.5 ± 0"]


def test_only_samplers_that_differ_in_their_step_size_are_a_sweep():
    values = {"a": 1.0, "b": 2.0}
    found = sweeps([result("dps", values), result("x", values, 1e-6), result("y", values, 1e-5)])
    assert found == [{"x": 1e-6, "y": 1e-5}]
    assert sweeps([result("dps", values), result("x", values, 1e-6)]) == []
    by_task = [result("x", values, 1e-6), result("y", values, 1e-5)]
    for one in [result("x", values, 1e-6), result("y", values, 1e-5)]:
        one.config["model"]["sampler"]["init_args"]["other"] = 2  # another scale for another task
        by_task.append(one)
    assert sweeps(by_task) == [{"x": 1e-6, "y": 1e-5}]


def test_a_measurement_that_differs_is_named(small, tmp_path):
    matrix(small)
    path = tmp_path / "out" / "sr" / "fast" / "seed_0" / "images" / "a" / "measurement.png"
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(path)
    with pytest.raises(UserError, match=r"1 of 16 measurements differ .* sr, seed 0, image a: fast and exact"):
        matrix(small)
    assert "1 NOT the same" in (tmp_path / "out" / "report.html").read_text()


def test_the_smoke_of_the_published_matrix_runs_every_cell(root, warm, tmp_path):
    """What CI runs: configs/benchmark/ffhq256.yaml in small."""
    command = ["-m", "benchmarks", "matrix", "--config", "configs/benchmark/ffhq256.yaml", "--smoke"]
    done = warm.run([*command, "--dir", str(tmp_path / "out")], root, timeout=900)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").rglob("cell.json"))) == 3 * 7
    assert done.stdout.rstrip().endswith(f"report: {tmp_path / 'out' / 'report.html'}")
    bad = warm.run([*command[:-2], "nowhere.yaml"], root)
    assert bad.returncode == 2
    assert bad.stderr.startswith("error: file of settings nowhere.yaml does not exist")
