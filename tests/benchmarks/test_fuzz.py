"""Spoilt settings, command lines and files end in a result or in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.campaigns.fuzz_bases import bases, pictures
from benchmarks.campaigns.fuzz_cases import intact_png
from benchmarks.campaigns.mutations import settings

COUNTS = {"configs": 300, "files": 100, "matrices": 15}
SEED = 0


@pytest.fixture(scope="module")
def report(root, tmp_path_factory) -> dict[str, Any]:
    """That of a small campaign; it forks, so it needs a process without threads."""
    output = tmp_path_factory.mktemp("fuzz")
    call = f"from pathlib import Path; fuzz(**{COUNTS}, seed={SEED}, output=Path({str(output)!r}), jobs=2)"
    command = [sys.executable, "-c", f"from benchmarks.campaigns.fuzz import fuzz; {call}"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=1200)
    path = output / "fuzz.json"
    assert path.is_file(), done.stderr
    found = json.loads(path.read_text())
    assert (done.returncode == 0) == (not found["bad"]), done.stderr
    return found


def none_bad(report: dict[str, Any], *families: str) -> None:
    """Fail with all bad cases of some families, in full."""
    bad = [case for case in report["bad"] if case["family"] in families]
    told = [f"{c['number']} ({c['base']}) {c['kind']}, {c['told']}: {c['problems']}\n{c['stderr']}" for c in bad]
    if bad:
        pytest.fail(f"{len(bad)} bad cases\n" + "\n".join(told), pytrace=False)


def test_undisturbed_runs_end_well(report):
    none_bad(report, "base")


def test_spoilt_settings_and_command_lines_end_in_one_line(report):
    none_bad(report, "config")


def test_spoilt_files_end_in_one_line(report):
    none_bad(report, "file")


def test_spoilt_matrix_files_end_in_one_line(report):
    none_bad(report, "matrix")


def test_the_settings_of_a_run_are_found_in_the_signatures():
    found = {setting.name: setting.kind for setting in settings(bases()["dps"].config, training=False)}
    assert found["model.sampler.init_args.scale"] == "number"
    assert found["model.prior.init_args.network.init_args.dropout"] == "number"  # not in the file
    assert found["model.prior.init_args.checkpoint"] == found["data.init_args.root"] == "path"
    assert found["data.init_args.operator.class_path"] == "class_path"
    assert found["trainer.max_time"] == "list"


def test_a_png_with_a_flipped_bit_is_not_intact(tmp_path: Path):
    pictures(tmp_path)
    content = (tmp_path / "images" / "a.png").read_bytes()
    assert intact_png(content)
    assert intact_png(content + b"more")
    assert not intact_png(content[:-1])
    assert not intact_png(content[:60] + bytes([content[60] ^ 1]) + content[61:])
