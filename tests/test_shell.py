"""What a command line answers at once, and what it imports for that."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest

import posterior
from benchmarks.__main__ import BENCHMARKS, COMMANDS, HELP, fits_images, load
from benchmarks.__main__ import main as program
from lightning_cli import main
from posterior.shell import FIT_HELP, PREDICT_HELP, answer

HEAVY = {"torch", "numpy", "pytorch_lightning", "jsonargparse", "matplotlib", "scipy", "yaml", "lightning_cli"}
COUNTED = """
import atexit, json, runpy, sys
atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))
name, sys.argv = sys.argv[1], sys.argv[1:]
runpy.run_path(name, run_name="__main__") if name.endswith(".py") else runpy.run_module(name, run_name="__main__")
"""


def modules(root, *command: str) -> tuple[str, set[str]]:
    """Standard output of a program, and what it had imported at its end."""
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, *command], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("program", ["benchmarks", "lightning_cli.py"])
@pytest.mark.parametrize("asked", [["--help"], ["--version"], ["predict", "--help"], ["fit", "--help"]], ids=" ".join)
def test_help_and_version_import_nothing_heavy(program, asked, root):
    told, imported = modules(root, program, *asked)
    assert not imported & (HEAVY - ({"lightning_cli"} if program != "benchmarks" else set()))
    assert len(imported) < 250
    assert len(told.splitlines()) <= 40  # one screen
    assert max(map(len, told.splitlines())) <= 120
    assert "--version" not in asked or told == f"posterior-sampling {posterior.__version__}\n"


def test_the_list_of_what_ships_imports_nothing_heavy(root):
    told, imported = modules(root, "benchmarks", "configs")
    assert "  super_resolution_kinetic " in told
    assert not imported & HEAVY
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "configs", "show", "sampler/dpss"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no file of settings 'sampler/dpss' ships: did you mean sampler/dps")
    assert done.stderr.count("\n") == 1


def test_the_console_script_is_the_module(root):
    text = (root / "pyproject.toml").read_text()
    assert 'posterior-sampling = "benchmarks.__main__:main"' in text
    assert answer(["--help"], HELP) == HELP


def test_every_command_is_there_and_in_the_help():
    for name in COMMANDS | BENCHMARKS:
        assert callable(load(name))
        line = rf"^  {name} +\w" if name in COMMANDS else rf"^  \w+ .*[ ]{name}(,|$)"
        assert re.search(line, HELP, flags=re.MULTILINE)


@pytest.mark.parametrize(("command", "shown"), [("predict", PREDICT_HELP), ("fit", FIT_HELP)])
def test_the_settings_that_help_shows_exist(command, shown, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help-all"])
    told = capsys.readouterr().out
    if command == "predict":
        with pytest.raises(SystemExit):
            main([command, "--data.help", "ImageFolder"])
        told += capsys.readouterr().out.replace("init_args.", "")
    assert len(shown) <= 20
    for option in shown:
        assert re.search(rf"^ *(-\w[\w ]*, )?{re.escape(option)}\b", told, flags=re.MULTILINE), option


@pytest.mark.parametrize("images", [["--images", "pictures"], ["--images=pictures"]], ids=["word", "equals"])
def test_the_help_of_fit_with_pictures_is_its_own(images, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["posterior-sampling", "fit", *images, "--help"])
    with pytest.raises(SystemExit) as ended:
        program()
    told = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(option in told for option in ("--images", "--hours", "--size", "--output"))
    assert "--data.training" not in told
    for command in (["fit", "--help"], ["probe", *images, "--help"]):
        assert not fits_images(command)
    assert "fit --images FOLDER --help" in answer(["fit", "--help"])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nonsense"], "error: there is no command 'nonsense': posterior-sampling --help lists them\n"),
        ([], "error: no command: posterior-sampling --help lists them\n"),
        (["compare", "--nonsense", "3"], "error: unrecognized arguments: --nonsense 3\n"),
        (["predict", "--nonsense", "3"], "error: nonsense: "),
    ],
    ids=["command", "nothing", "option", "setting"],
)
def test_what_is_not_there_is_one_line(arguments, line, root, warm):
    done = warm.run(["-m", "benchmarks", *arguments], root)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.lower().startswith(line)
    assert done.stderr.count("\n") == 1


def test_ctrl_c_while_modules_are_imported_is_one_line(root):
    command = [sys.executable, "-X", "importtime", "-m", "benchmarks", "compare", "--runs", "[x]"]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "jsonargparse" not in process.stderr.readline():
            pass
        os.kill(process.pid, signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert [line for line in rest.splitlines() if not line.startswith("import time")] == [
        "stopped: the same command goes on from here"
    ]
