import importlib.metadata
import json
import re
import sys

import pytest
import torch

from benchmarks.machine import gpu as module
from benchmarks.machine.gpu import DEMOS, PARTS, Bench, gpu, launch, run_part
from posterior import UserError
from posterior.samplers import DPS, AnnealedLangevin, KineticLangevin


@pytest.fixture(autouse=True)
def _flags():
    """What a part sets for its process."""
    kept, threads = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32), torch.get_num_threads()
    torch.set_num_threads(1)  # tiny networks
    yield
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept


def test_parts_run_in_small():
    assert all(row["largest"] < 1e-2 for row in run_part("agreement", True))  # 0 on a CPU
    rows = run_part("repeats", True)
    assert [row["sampler"] for row in rows] == list(DEMOS)
    assert all(row["same_bits"] for row in rows)
    assert all(row["batch_1"] < 1e-2 for row in rows)
    top, *rows = run_part("speed", True)
    assert top["tflops"] > 0
    assert {row["what"] for row in rows} >= {"float32, contiguous, batch 2", "bf16-mixed, channels_last, batch 2"}
    assert all(row["images_per_second"] > 0 for row in rows)
    assert {row["sampler"] for row in run_part("overhead", True)} == {"DPS", "annealed Langevin", "reverse diffusion"}
    without, checkpointed = run_part("memory", True)
    assert checkpointed["mib_per_image"] < without["mib_per_image"]


def test_the_demos_samplers_are_those_of_its_files():
    _, samplers = Bench(smoke=False).demo()
    assert [type(sampler) for sampler in samplers.values()] == [DPS, AnnealedLangevin, KineticLangevin]


def test_rows_are_kept_when_a_part_is_stopped(tmp_path):
    bench = Bench(True, tmp_path / "it.json")
    bench.put(a=1)
    bench.put(a=2)
    assert json.loads((tmp_path / "it.json").read_text()) == [{"a": 1}, {"a": 2}]


@pytest.fixture
def parts(monkeypatch):
    """Parts that need no process of their own, and how often each was asked for."""
    asked = []

    def stand_in(name, smoke, folder, limit):
        asked.append(name)
        state = "failed: out of memory" if name == "speed" and asked.count("speed") == 1 else "done"
        return {"state": state, "seconds": 1.0, "rows": [{"name": name, "value": 0.123456789}]}

    monkeypatch.setattr(module, "launch", stand_in)
    return asked


def test_it_goes_on_with_what_is_missing(tmp_path, parts):
    found = gpu(tmp_path, smoke=True)
    assert parts == list(PARTS)  # one that fails does not cost the others
    assert found["parts"]["speed"]["state"] == "failed: out of memory"
    assert json.loads((tmp_path / "gpu.json").read_text()) == found
    text = (tmp_path / "gpu.md").read_text()
    assert "## speed" in text
    assert "| speed | 0.1235 |" in text
    assert "failed: out of memory" in text
    gpu(tmp_path, smoke=True)
    assert parts == [*PARTS, "speed"]


def test_no_part_begins_after_the_commands_own_limit(tmp_path, parts):
    found = gpu(tmp_path, smoke=True, minutes=0.0)
    assert parts == []
    assert {entry["state"] for entry in found["parts"].values()} == {"no time was left"}


def test_a_part_that_hangs_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/sleep")  # whose arguments it does not take: it fails at once
    failed = launch("speed", True, tmp_path, 20)
    assert failed["state"].startswith("failed: ")
    hanging = tmp_path / "hang"
    hanging.write_text("#!/bin/sh\nsleep 60 & sleep 60\n")
    hanging.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(hanging))
    stopped = launch("speed", True, tmp_path, 0.5)
    assert stopped["state"] == "stopped after 0.5 s"
    assert stopped["seconds"] < 10


def test_what_cannot_be_run_is_said_in_a_line(tmp_path):
    with pytest.raises(UserError, match="there is no part 'nothing'"):
        gpu(tmp_path, part="nothing")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no CUDA device is here"):
            gpu(tmp_path)


def test_a_part_runs_by_the_command(tmp_path):
    (tmp_path / "parts").mkdir()
    found = launch("memory", True, tmp_path / "parts", 300)
    assert found["state"] == "done"
    assert len(found["rows"]) == 2


def test_the_wheels_to_carry_have_all_that_is_needed(root):
    """Beside a plain PyTorch install."""

    def name_of(line):
        return re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0].lower().replace("_", "-")

    lines = (root / "docs" / "gpu_wheels.txt").read_text(encoding="utf-8").splitlines()
    carried = {name_of(line) for line in lines if not line.startswith("#")}
    needed, todo = set(), ["posterior-sampling"]
    brought = {"torch", "torchvision", "numpy", "pillow", "setuptools", "filelock", "fsspec", "typing-extensions"}
    while todo:
        for line in importlib.metadata.requires(todo.pop()) or []:
            name = name_of(line)
            if "extra ==" not in line and "python_version" not in line and "platform" not in line:
                todo += [name] if name not in needed | brought else []
                needed |= {name} - brought
    assert needed <= carried
