"""Runs that are disturbed leave no process behind, and the same command finishes them."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from benchmarks.campaigns.faults import faults
from benchmarks.campaigns.processes import MARK, contents, left_after, living

SEED = 7
"""With it the moments are: in the middle of the run for a single process, and in its start-up for the second of two."""


def test_a_run_that_is_disturbed_is_finished_by_the_same_command(tmp_path, capsys):
    """The first start of two processes is that of two interpreters; the others are forked, as are all second starts."""
    kinds = ["1 kill first", "1 SIGINT", "2 kill second", "1 full disk"]
    faults(moments=1, seed=SEED, output=tmp_path, kinds=kinds, latest=0.6, forked=[1])
    assert capsys.readouterr().out.count("all in order") == len(kinds)


def test_processes_are_found_by_their_mark_in_another_session_too():
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    process = subprocess.Popen(command, env=os.environ | {MARK: "here"}, start_new_session=True)
    while process.pid not in living(-1, "here"):
        time.sleep(0.01)
    assert living(process.pid, "nowhere").keys() == {process.pid}
    assert len(left_after(-1, "here", seconds=0)) == 1
    assert process.wait() < 0
    assert left_after(-1, "here", seconds=0) == []


def test_what_came_went_and_changed_is_seen(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("1")
    before = contents(tmp_path)
    (tmp_path / "a" / "b").write_text("22")
    (tmp_path / "c").symlink_to("nowhere")
    after = contents(tmp_path)
    assert {path for path in after if before.get(path) != after[path]} == {"a/b", "c"}


def test_an_unknown_disturbance(tmp_path):
    with pytest.raises(ValueError, match="faults: there is no 3 storms"):
        faults(kinds=["3 storms"], output=tmp_path)
