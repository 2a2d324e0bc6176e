"""A run that is killed, and what is left of it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.__main__ import run as command
from benchmarks.campaigns.forked import Forked
from benchmarks.campaigns.warm import Warm
from lightning_cli import main
from posterior import files
from posterior.results import Journal
from tests.test_cli import run, samples, write_config, write_images  # noqa: F401

pytestmark = pytest.mark.usefixtures("no_lpips_weights")


def recorded(output: Path) -> int:
    """How many images are complete."""
    return len({record["id"] for record in Journal(output / "journal").read()})


def values(output: Path) -> dict[str, dict[str, dict[str, float]]]:
    """The means of a run but for its seconds."""
    metrics = json.loads((output / "metrics.json").read_text())["metrics"]
    return {kind: {k: v for k, v in means.items() if k != "seconds"} for kind, means in metrics.items()}


def started(
    root: Path, folder: Path, ids: list[str], num_levels: int, warm: Warm | None = None
) -> tuple[subprocess.Popen[bytes] | Forked, Path, dict]:
    """Two processes at work on images (forked, or two interpreters), their run's configuration, and what it changes."""
    images = write_images(folder / "images", ids)
    changes = {"model__sampler__init_args__schedule__init_args": {"growth": 0.02, "num_levels": num_levels}}
    config = write_config(folder / "config.yaml", images, folder / "killed", **changes)
    command = ["lightning_cli.py", "predict", "--config", str(config), "--trainer.devices", "2"]
    command += ["--trainer.strategy", "ddp"]
    if warm is not None:
        return warm.start(command, root, Path(os.devnull), Path(os.devnull)), config, changes
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, *command], cwd=root, start_new_session=True, **quiet), config, changes


def test_two_processes_killed_in_the_middle_and_one_that_goes_on_give_what_an_undisturbed_run_gives(
    root, warm, tmp_path
):
    ids = [f"{folder}/{n}" for folder in "ab" for n in range(6)]
    process, config, changes = started(root, tmp_path, ids, 300, warm)
    begun = time.monotonic()
    while recorded(tmp_path / "killed") < 3:
        assert process.poll() is None, "the run has ended before it could be killed"
        assert time.monotonic() - begun < 300
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)  # both processes at once
    process.wait()
    left = recorded(tmp_path / "killed")
    assert 3 <= left < 12
    assert not (tmp_path / "killed" / "metrics.json").exists()
    main(["predict", "--config", str(config)])
    write_config(tmp_path / "whole.yaml", tmp_path / "images", tmp_path / "whole", **changes)
    main(["predict", "--config", str(tmp_path / "whole.yaml")])
    ours, theirs = samples(tmp_path / "killed"), samples(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    assert len(ours) == 12
    for image_id in ours:
        np.testing.assert_allclose(ours[image_id], theirs[image_id], atol=1e-4)

    def pictures(folder: Path) -> set[str]:
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in (".png", ".npy")}

    assert pictures(tmp_path / "killed") == pictures(tmp_path / "whole")
    for kind, means in values(tmp_path / "whole").items():
        for name, value in means.items():
            other = values(tmp_path / "killed")[kind][name]
            assert other["count"] == value["count"]
            assert other["mean"] == (value["mean"] and pytest.approx(value["mean"], rel=1e-3, abs=1e-5))
    rows = Journal(tmp_path / "killed" / "journal").read()
    assert len({(row["id"], row["sample"]) for row in rows}) == len(rows) == 12 * 3


def test_a_summary_can_be_made_again_from_the_journal_alone(run, tmp_path, capsys):  # noqa: F811
    output = run()
    before = [(output / name).read_bytes() for name in ("metrics.json", "per_image.csv")]
    for name in ("metrics.json", "per_image.csv", "config.yaml"):
        (output / name).unlink()
    capsys.readouterr()
    command("summarise", ["--dir", str(output)])
    assert "3 complete images" in capsys.readouterr().out
    assert [(output / name).read_bytes() for name in ("metrics.json", "per_image.csv")] == before
    with pytest.raises(SystemExit) as ended:
        command("summarise", ["--dir", str(tmp_path)])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'journal'} holds no journal of a run")


def test_processes_end_when_the_one_that_launched_them_is_killed(root, tmp_path):
    process, *_ = started(root, tmp_path, [f"{n:02d}" for n in range(40)], 400)
    while recorded(tmp_path / "killed") < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()  # the first process alone
    process.wait()
    ended = time.monotonic() + 30
    while time.monotonic() < ended:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.2)
    else:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail("a process went on without the one that had launched it")
    assert recorded(tmp_path / "killed") < 40


def test_a_full_disk_is_one_clear_line_and_what_is_complete_stays(run, monkeypatch, capsys):  # noqa: F811
    write, written = files.write_whole, []

    def until_full(path: Path, content: bytes) -> None:
        if path.suffix == ".npy":
            written.append(path.stem)
            if len(written) == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr("posterior.callbacks.results.write_whole", until_full)
    with pytest.raises(SystemExit):
        run()
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: no space left for ")
    assert "start the same command again" in error
    output = Path(yaml.safe_load((run.tmp_path / "config.yaml").read_text())["output"]["dir"])
    assert recorded(output) == 1
    monkeypatch.setattr("posterior.callbacks.results.write_whole", write)
    run()
    assert recorded(output) == 3
    assert json.loads((output / "metrics.json").read_text())["images"] == 3


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path, monkeypatch):
    def full(self: Path, content: bytes) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="full"):
        files.write_whole(tmp_path / "a" / "b.png", b"x")
    assert list((tmp_path / "a").iterdir()) == []
