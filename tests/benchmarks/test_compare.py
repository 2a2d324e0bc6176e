"""`compare`: only runs of the same measurements are held against one another."""

from __future__ import annotations

import json

import pytest
import yaml

from benchmarks.matrix.compare import results_of
from tests.results.runs import CONFIG, write_run


@pytest.mark.parametrize(
    ("changes", "alike"),
    [
        ({"root": "elsewhere"}, False),
        ({"seed": 1}, False),
        ({"likelihood": {"class_path": "posterior.noise.GaussianNoise", "init_args": {"sigma_y": 0.1}}}, False),
        ({"limit": 1, "batch_size": 7, "num_workers": 2}, True),
    ],
)
def test_runs_stand_together_if_their_data_are_the_same(changes, alike, tmp_path):
    """Images of the same names in another folder are others; how many, and how they are read, makes no difference."""
    runs = [write_run(tmp_path / name, ["x", "y"], samples=2) for name in "ab"]
    for run, own in zip(runs, ({}, changes), strict=True):
        config = yaml.safe_load(CONFIG)
        config["data"]["init_args"] |= {"root": "pictures", "seed": 0} | own
        (run / "config.yaml").write_text(yaml.safe_dump(config))
    first, second = (one.task for one in results_of(runs))
    assert (first == second) is alike


def test_a_folder_is_the_same_by_whatever_path(tmp_path):
    """Relative to where each run was started, which its record says; of two names of that kind in two places, not."""
    for name in ("pictures", "other/pictures"):
        (tmp_path / name).mkdir(parents=True)
    paths = {"a": "pictures", "b": str(tmp_path / "pictures"), "c": "../pictures", "d": "pictures"}
    started = {"a": tmp_path, "b": tmp_path, "c": tmp_path / "other", "d": tmp_path / "other"}
    for name, path in paths.items():
        run = write_run(tmp_path / name, ["x", "y"], samples=2)
        config = yaml.safe_load(CONFIG)
        config["data"]["init_args"] |= {"root": path, "seed": 0}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        (run / "record.json").write_text(json.dumps({"started_in": str(started[name])}))
    first, *same, other = (one.task for one in results_of([tmp_path / name for name in paths]))
    assert same == [first, first]
    assert other != first


def test_runs_whose_settings_cannot_be_read_stand_alone(tmp_path):
    runs = [write_run(tmp_path / name, ["x"], samples=2) for name in "ab"]
    for run in runs:
        (run / "config.yaml").unlink()
    assert [one.task for one in results_of(runs)] == ["runs", "runs (2)"]
