"""The wheel is the product: built, installed into an empty folder, and used from another one, without a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from posterior.shipped import listing

pytestmark = pytest.mark.usefixtures("no_lpips_weights")

SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "lightning_cli.py")
PACKAGES = ("posterior", "datamodules", "benchmarks")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
ORIGINS = "import sys; from importlib.util import find_spec; print(*(find_spec(name).origin for name in sys.argv[1:]))"
OWN = """
from posterior.samplers import Sampler


class OnlyNoise(Sampler):
    def __call__(self, prior, measurement, rng, observe=lambda *state: None):
        return rng.randn("x", measurement.image_shape)
"""
STEPS = "--model.sampler.init_args"
FEW = (f"{STEPS}.schedule.init_args.num_levels=3", f"{STEPS}.warm_start.init_args.schedule.init_args.num_levels=2")


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory) -> Path:
    """Built from a copy: a build leaves files beside its sources, and takes what an earlier one has left."""
    sources, folder = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        shutil.copy(root / name, sources / name)
    for name in (*PACKAGES, "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(root / name, sources / name, symlinks=True, ignore=ignored)
    command = [sys.executable, "-c", BUILD, str(folder)]
    done = subprocess.run(command, cwd=sources, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """Where pip has put it; what it needs is that of the tests."""
    target = tmp_path_factory.mktemp("target")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index"]
    command += ["--no-deps", "--no-compile", "--target", str(target), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def start(installed, tmp_path) -> Callable[..., str]:
    """Run a program of the installed wheel in an empty folder; what it prints."""

    def run(*command: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(installed)}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_wheel_holds_the_packages_and_the_configs(root, wheel):
    with zipfile.ZipFile(wheel) as archive:
        found = set(archive.namelist())
    modules = {path.relative_to(root).as_posix() for name in PACKAGES for path in (root / name).rglob("*.py")}
    data = {f"posterior/{path.relative_to(root).as_posix()}" for path in (root / "configs").glob("*/*")}
    ours = {name for name in found if ".dist-info/" not in name}
    parts = ("page.html", "page.css", "page.js", "explorer.html")
    page = {f"posterior/results/report_files/{part}" for part in parts}
    assert ours == modules | data | page | {"lightning_cli.py", "datamodules/toon_faces32.npz"}


def test_what_is_installed_is_what_runs(installed, start):
    origins = start(sys.executable, "-c", ORIGINS, *PACKAGES, "lightning_cli").split()
    assert [Path(origin).relative_to(installed).parts[0].removesuffix(".py") for origin in origins] == [
        *PACKAGES,
        "lightning_cli",
    ]


def test_the_installed_command_lists_the_same_names(installed, start):
    assert start(str(installed / "bin" / "posterior-sampling"), "configs") == f"{listing()}\n"


def test_predict_takes_a_shipped_name_in_an_empty_folder(installed, start, tmp_path):
    options = ("--data.limit=1", "--trainer.accelerator=cpu", *FEW)
    start(
        str(installed / "bin" / "posterior-sampling"), "predict", "--config", "demo/super_resolution_kinetic", *options
    )
    output = tmp_path / "results" / "demo_super_resolution_kinetic"
    assert json.loads((output / "metrics.json").read_text())["images"] == 1
    config = yaml.safe_load((output / "config.yaml").read_text())
    data, prior = config["data"]["init_args"]["path"], config["model"]["prior"]["init_args"]["checkpoint"]
    assert all(Path(path).is_relative_to(installed / "posterior" / "configs") for path in (data, prior))


def test_judge_takes_a_sampler_of_the_users_own_in_an_empty_folder(installed, start, tmp_path):
    (tmp_path / "my_sampler.py").write_text(OWN)
    options = ("--budget", "quick", "--problems", "ring", "--output", "judged")
    told = start(str(installed / "bin" / "posterior-sampling"), "judge", "--sampler", "my_sampler.OnlyNoise", *options)
    assert "OnlyNoise: Refuted" in told
    assert (tmp_path / "judged" / "report.html").stat().st_size > 1000
