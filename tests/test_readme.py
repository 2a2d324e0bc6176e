"""The README's code and commands run as they stand."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from lightning_cli import main

TEXT = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = dict(enumerate(re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)))

pytest.importorskip("resvg_py", reason="the extra 'faces' is not installed")


def test_the_python_example_runs():
    scope: dict[str, object] = {}
    exec(BLOCKS[0], scope)
    samples, measurement = scope["samples"], scope["measurement"]
    assert samples.shape == (4, 3, 32, 32)
    assert (measurement.repeat(4).relative_residual(samples) < 2).all()


@pytest.mark.usefixtures("no_lpips_weights")
def test_the_samplers_example_runs_by_its_command(tmp_path, monkeypatch, root):
    (tmp_path / "my_sampler.py").write_text(BLOCKS[1])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(root)
    (command,) = re.findall(r"^python lightning_cli\.py (predict .*my_sampler.*)$", TEXT, flags=re.MULTILINE)
    arguments = shlex.split(command)
    arguments[arguments.index("--output.dir") + 1] = str(tmp_path / "mine")
    main([*arguments, "--data.init_args.limit", "1", "--trainer.accelerator", "cpu"])
    metrics = json.loads((tmp_path / "mine" / "metrics.json").read_text())["metrics"]["sample"]
    assert metrics["nfe_forward"]["mean"] == 0
    assert metrics["psnr"]["mean"] > 15


def test_named_files_exist(root):
    for name in re.findall(r"`(configs/[\w/]+\.yaml)`|\((docs/[\w/]+\.png)\)", TEXT):
        assert (root / "".join(name)).is_file(), name
    assert "make demo" in TEXT.split("![", 1)[0]
    assert "make test" in TEXT.split("![", 1)[0]
