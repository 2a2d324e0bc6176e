"""What is said: `--quiet`, moments of a log, colours on a terminal alone."""

from __future__ import annotations

import io
import itertools
import sys
from types import SimpleNamespace

import pytest
import torch

import benchmarks.__main__ as commands
from posterior.callbacks import SamplingProgress
from posterior.terminal import Status, duration, part_of_more, quietly, redraws, remark, say_place, say_result


class Terminal(io.StringIO):
    """A standard error that somebody looks at."""

    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """The time, in seconds; a test moves it."""
    now = SimpleNamespace(value=1000.0)
    monkeypatch.setattr("time.monotonic", lambda: now.value)
    return now


def said_by_everyone():
    say_result("a result")
    say_place("a place")
    remark("a remark")


def test_quietly_only_the_place_is_said(capsys):
    said_by_everyone()
    assert capsys.readouterr() == ("a result\na place\n", "a remark\n")
    with quietly():
        said_by_everyone()
        with quietly(False):  # what is inside cannot make it loud
            said_by_everyone()
    assert capsys.readouterr() == ("a place\na place\n", "")
    with part_of_more():
        said_by_everyone()
        with quietly():
            said_by_everyone()
    assert capsys.readouterr() == ("a result\na place\n", "a remark\n")


def test_a_log_has_lines_at_moments_that_grow_apart_and_no_carriage_return(clock, capsys):
    status, start, moments = Status(first=20.0), clock.value, []
    for second in range(1, 4001):
        clock.value = start + second
        status.tell((0.5, "half"), (None, "of it"))
        if said := capsys.readouterr().err:
            assert said == "half; of it\n"
            moments.append(second)
    assert moments[:5] == [21, 62, 143, 304, 625]
    assert {after - before for before, after in itertools.pairwise(moments[5:])} == {601}
    status.tell((1.0, "all"), end=True)
    assert capsys.readouterr().err == "all\n"


def test_a_status_that_was_made_quietly_says_nothing(clock, capsys):
    with quietly():
        status = Status(first=0.0)
    clock.value += 100
    status.tell((1.0, "all"), end=True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("setting", "drawn", "coloured"),
    [({}, True, True), ({"NO_COLOR": "1"}, True, False), ({"TERM": "dumb"}, False, False)],
)
def test_bars_and_colours_are_for_terminals_that_want_them(monkeypatch, setting, drawn, coloured):
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert redraws(sys.stderr) == drawn
    status = Status(first=0.0)
    status.tell((0.5, "1 of 2 images done"), (0.1, "[bold] is no markup"))
    status.close()
    said = sys.stderr.getvalue()
    assert "1 of 2 images done" in said
    assert "[bold] is no markup" in said
    assert ("━" in said) == drawn
    assert ("\x1b[?25l" in said) == drawn
    assert said.count("\x1b[?25l") == said.count("\x1b[?25h")  # the cursor comes back
    assert ("\x1b[3" in said or "\x1b[38" in said) == coloured


@pytest.mark.parametrize("name", ["try", "judge", "leaderboard", "calibrate"])
def test_the_long_commands_know_quiet_and_short_ones_do_not(monkeypatch, capsys, name):
    given = []
    monkeypatch.setattr(
        commands, "load", lambda asked: lambda words: (given.append((asked, words)), said_by_everyone())
    )
    commands.run(name, ["--quiet", "x"])
    assert capsys.readouterr() == ("a place\n", "")
    commands.run("report", ["--quiet", "x"])
    assert given == [(name, ["x"]), ("report", ["--quiet", "x"])]
    assert capsys.readouterr().out == "a result\na place\n"


def test_no_terminal_no_bar():
    assert not redraws(io.StringIO())


def test_times_are_in_words():
    assert [duration(seconds) for seconds in (0.4, 89, 91, 5399, 9000)] == ["0 s", "89 s", "2 min", "90 min", "2.5 h"]


def test_the_time_that_is_left_comes_from_the_calls_of_what_is_done(clock):
    """Four images of 100 calls each, two a batch, ten calls a second."""
    progress, told = SamplingProgress(0.0), []
    progress.status = SimpleNamespace(tell=lambda *lines: told.append([text for _, text in lines]))
    progress.total, progress.start = 4, clock.value

    def step(stage, number, total, calls):
        clock.value += calls / 10
        progress.cost.forward += calls // 2
        progress.cost.backward += calls - calls // 2
        progress.on_step(stage, number, total, torch.zeros(2, 1, 2, 2))

    for number in range(1, 11):
        step("reverse diffusion", number, 10, 20)
    assert told[0] == ["0 of 4 images done, 10 calls/s", "reverse diffusion, step 1/10"]
    assert told[4] == ["0 of 4 images done, 10 calls/s", "reverse diffusion, step 5/10, ends in 10 s"]
    batch = SimpleNamespace(ids=["a", "b"], failed={})
    progress.on_predict_batch_end(None, None, None, batch, 0)
    assert told[-1] == ["2 of 4 images done, 10 calls/s, about 20 s left", "batch sampled"]
    step("reverse diffusion", 1, 10, 20)
    assert told[-1] == ["2 of 4 images done, 10 calls/s, about 18 s left", "reverse diffusion, step 1/10"]


def test_a_stage_says_its_level_and_goes_on_from_level_to_level(clock, monkeypatch):
    """Four steps, two at each level, a second each; what a long run says fits a terminal of 80 columns."""
    progress, told = SamplingProgress(0.0), []
    progress.status = SimpleNamespace(tell=lambda *lines: told.append([text for _, text in lines]))
    progress.total, progress.start = 50_000, clock.value
    for number, level in enumerate((2, 2, 3, 3), start=1):
        clock.value += 1
        progress.on_step(f"annealed Langevin, level {level}/3", number, 4, torch.zeros(1, 1, 2, 2))
    assert [stage for _, stage in told] == [
        "annealed Langevin, level 2/3, step 1/4",
        "annealed Langevin, level 2/3, step 2/4, ends in 2 s",
        "annealed Langevin, level 3/3, step 3/4, ends in 1 s",
        "annealed Langevin, level 3/3, step 4/4, ends in 0 s",
    ]
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress.status, clock.value = Status(first=0.0), progress.stage_start + 4998 * 45
    progress.cost.forward = 10_000 * 8
    progress.on_step("annealed Langevin, level 501/1000", 4999, 11_000, torch.zeros(1, 1, 2, 2))
    progress.status.close()
    said = sys.stderr.getvalue()
    assert "annealed Langevin, level 501/1000, step 4999/11000, ends in 75.0 h" in said
    assert "0 of 50000 images done, 0.356 calls/s" in said
