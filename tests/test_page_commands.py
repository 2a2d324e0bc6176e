"""Every command on every page: the program takes it as it stands, and it runs in small, unless a rule says why not.

Of a command within a sentence the program takes the options; it runs where it stands on a line of its own.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jsonargparse
import numpy as np
import pytest
from PIL import Image

import benchmarks.__main__ as program
import lightning_cli
from benchmarks.judge.command import BUDGETS
from benchmarks.judge.running import Sizes
from posterior.settings import conformed, read_command_line
from tests.pages import ROOT, Command, distinct

ALL = distinct()
LIGHTNING = ("predict", "fit")
PREDICT = lightning_cli.COMMANDS["predict"][2]
AS_IT_SHIPS = re.compile(r"--config (?:configs/)?(?!demo/)[\w/]+(?:\.yaml)?")
PARSED_ONLY = {
    "fit": "trains for hours; tests/test_training.py trains in small",
    "fetch": "downloads; tests/test_hub.py has a hub of its own",
    "matrix": "many runs; tests/benchmarks/test_matrix.py runs --smoke of each file",
    "calibrate": "256 pairs; tests/benchmarks/test_calibrate.py",
    "probe": "half a minute at its least; tests/benchmarks/test_probe.py",
    "hdf5": "of a run of recorded MRI; tests/benchmarks/test_hdf5.py",
    "convert": "of a file that is downloaded; tests/priors has one of its kind",
    **dict.fromkeys(program.BENCHMARKS, "a measurement for these pages; tests/benchmarks has each in small"),
    "reference-features": "of a network that is downloaded; tests/metrics",
}
"""Commands that are parsed and not run, and why."""
BROUGHT = (
    *("paper/", "ffhq256", "imagenet256_classes", "my_folder", "hf://", "edm-", "mine.pt", "ubyte.gz", "digits-"),
    *("digits_conditional", "scans", "FOLDER", "mine.yaml", "latent.yaml", "prior/latent", "task.yaml"),
    *("my_problem.yaml", "slices_small"),
)
"""What the reader brings, downloads or makes first, as words of commands: those commands are parsed and not run."""
LARGE = ("field", "toon-blur", "sampler/dps", "sampler/daps", "annealed_langevin_64", "sampler/fps_smc")
"""Words of commands of `judge` and `leaderboard` that stand for much work: parsed and not run."""
DRAWN = ("GaussianSensing",)
"""Operators that take seconds to draw, as words of `predict`: parsed and not run."""
PARTS = ("predict --help", "--dps.model_config", "README.md: judge --budget quick")
"""What a sentence has of a command: too little for the program, or for another parser (tests/test_dps_files.py)."""
STANDS_FOR = {
    **{"P": "prior/toon_faces32", "T": "task/toon_inpainting", "S": "sampler/conditional"},
    "CONFIG": "demo/super_resolution_dps",
    "F": "demo/super_resolution_dps",
}
"""Placeholders of pages -> what a reader could write."""
SMALL = {
    "predict": ["--data.limit", "1", "--model.num_samples", "2", "--trainer.accelerator", "cpu"],
    "try": ["--num_samples", "2"],
    "draw": ["--shape", "[3,32,32]", "--count", "2", "--num_steps", "3"],
    "judge": ["--problems", "two-modes"],
    "leaderboard": ["--problems", "two-modes", "--curves", "false", "--faces", "0", "--tune", "false"],
}
"""Command -> what is laid over it; --problems only where it names none. Every budget is `TINY`."""
FEW = {
    "MySampler": ["--model.sampler.num_steps", "3"],
    "ConditionalDescent": ["--model.sampler.calls", "55", "--model.sampler.cycles", "0"],
    "PnPDM": ["--model.sampler.num_iterations", "2", "--model.sampler.decay", "0.001"],
}
"""Sampler -> a few steps of it."""
STEPS = {"respacing": "3", "num_steps": "3", "schedule.num_levels": "5"}
"""The end of a setting's name -> a few steps, in the settings of any sampler and of its parts."""
TINY = Sizes(3, 10, 12, 4, sets=2)


class Parsed(Exception):
    """The command line was taken; the work would begin now."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a reader: the repository's files, the skeletons, small pictures under the names that pages have."""
    folder = tmp_path_factory.mktemp("home")
    for name in ("configs", "datamodules", "docs"):
        (folder / name).symlink_to(ROOT / name)
    for skeleton in (ROOT / "docs" / "skeletons").glob("*.py"):
        shutil.copy(skeleton, folder)
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    (descent,) = re.findall(r"```python\n([^`]*class GradientDescent.*?)```", guide, re.DOTALL)
    with (folder / "my_sampler.py").open("a") as file:
        file.write(descent)
    (folder / "my_module.py").write_text("def f(images):\n    return images.mean(dim=(1, 2, 3))\n")
    priors = (ROOT / "docs" / "priors.md").read_text(encoding="utf-8")
    for name, content in re.findall(r"```\w+\n# (\w+\.(?:py|yaml))\n(.*?)```", priors, re.DOTALL):
        (folder / name).write_text(content)
    with (folder / "my_network.py").open("a") as file:
        file.write("\n\nBackbone = MyNetwork\n")
    (folder / "edm-ffhq-64x64-uncond-vp.json").write_text('{"from": "prior/toon_faces32"}')
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (1, 32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels[0]).save(folder / "PHOTO.jpg")
    for name in ("my_photographs", "pictures"):
        (folder / name).mkdir()
        Image.fromarray(pixels[0]).resize((48, 48)).save(folder / name / "a.png")
    np.save(folder / "kernel.npy", np.full((3, 3), 1 / 9))
    np.savez(folder / "pictures.npz", images=pixels.transpose(0, 3, 1, 2), ids=["a"])
    np.save(folder / "pictures.npy", pixels)
    Image.fromarray(255 * (rng.random((64, 64)) < 0.5).astype(np.uint8)).save(folder / "mask.png")
    for name, side in {"my_measurements": 16, "measurements": 16, "my_masked": 64}.items():
        (folder / name).mkdir()
        np.save(folder / name / "a.npy", rng.normal(size=(3, side, side)).astype(np.float32) / 3)
    return folder


@pytest.fixture
def here(home, tmp_path, monkeypatch) -> Path:
    """A folder with links to all that is in `home`, and what `probe` recommends."""
    for path in home.iterdir():
        (tmp_path / path.name).symlink_to(path)
    probed = tmp_path / "results" / "probe" / "toon_faces32"
    probed.mkdir(parents=True)
    (probed / "score_sigma.yaml").write_text("model: {sampler: {init_args: {score_sigma: 0.0632}}}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def why_not(command: Command) -> str:
    """The rule by which a command is parsed and not run; empty: it runs."""
    name, *options = command.words
    line = " ".join(options)
    if command.within:
        return "within a sentence, where it may be a part of one"
    if name in PARSED_ONLY:
        return PARSED_ONLY[name]
    if brought := [word for word in BROUGHT if word in line]:
        return f"the reader brings {brought[0]}"
    if name == "predict" and AS_IT_SHIPS.fullmatch(line):
        return "an experiment as it ships: tests/test_configs.py runs it in small"
    if name in ("judge", "leaderboard") and any(word in line for word in LARGE):
        return "much work; tests/benchmarks/test_judge.py"
    if drawn := [word for word in DRAWN if word in line]:
        return f"{drawn[0]} is a large matrix; tests/operators"
    return ""


RUN = [command for command in ALL if not why_not(command)]
PARSED = [command for command in ALL if why_not(command) and not any(part in str(command) for part in PARTS)]


def read(command: Command) -> list[str]:
    """Name and options, with `STANDS_FOR` read in."""
    return [STANDS_FOR.get(word, word) for word in command.words]


def before(command: Command) -> Iterator[list[str]]:
    """Commands that make what a command reads: `predict` a run of the demo, `export` a folder of diffusers."""
    name, *options = command.words
    if name in ("report", "compare", "summarise"):
        for run in re.findall(r"results/(?:demo_)?(\w+)", " ".join(options)):
            demo = run if run != "mine" else "super_resolution_dps"
            yield ["predict", "--config", f"demo/{demo}", *(["--output.dir", "results/mine"] if run == "mine" else [])]
    elif "toon.json" in options:
        yield ["export", "--prior", "prior/toon_faces32", "--output", "toon"]


def small(words: list[str]) -> list[str]:
    """A command with what makes it short."""
    name, *options = words
    more = SMALL.get(name, [])
    if name == "predict":
        sampler = conformed(read_command_line(options)[0], PREDICT)["model"]["sampler"]
        more = [*more, *FEW.get(sampler["class_path"].rpartition(".")[2], []), *few(sampler, "--model.sampler")]
    if name in ("judge", "leaderboard") and "--problems" in options:
        more = more[2:]
    if name == "leaderboard" and "--only" not in options:
        more = [*more, "--only", "conditional"]
    if "--data.crop" in options:
        more = [*more, "--data.crop", "48"]
    return [*words, *more]


def few(part: dict, place: str) -> list[str]:
    """Options that give a few steps to a part of a sampler, and to its parts, wherever its settings have a number."""
    found = []
    for name, value in part.get("init_args", {}).items():
        where = f"{place}.{name}"
        if isinstance(value, dict):
            found += few(value, where)
        found += [word for end, count in STEPS.items() if where.endswith(f".{end}") for word in (where, count)]
    return found


def test_pages_have_commands_and_most_of_them_run():
    assert len(ALL) > 150
    assert len(RUN) > 0.45 * sum(not command.within for command in ALL)
    assert {command.words[0] for command in RUN} >= {*SMALL, "compare", "report", "summarise", "export", "configs"}
    for names in (BROUGHT, LARGE, DRAWN, PARTS):
        assert all(any(name in str(command) for command in ALL) for name in names)
    assert set(PARSED_ONLY) <= {*program.COMMANDS, *program.BENCHMARKS}


@pytest.mark.parametrize("command", PARSED, ids=str)
def test_the_program_takes_it(command, here, monkeypatch):
    name, *options = read(command)
    if name in LIGHTNING and "--images" not in options:
        settings, flags = read_command_line(options)
        assert conformed(settings, lightning_cli.COMMANDS[name][2], "--allow-local" in flags)["data"]
        return
    for parser in (argparse.ArgumentParser, jsonargparse.ArgumentParser):
        monkeypatch.setattr(parser, "parse_args", stopping(parser.parse_args))
    with pytest.raises(Parsed):
        program.run("fit --images" if name == "fit" else name, options)


def stopping(parse_args):
    def parse(*args, **kwargs):
        parse_args(*args, **kwargs)
        raise Parsed

    return parse


@pytest.mark.usefixtures("no_lpips_weights")
@pytest.mark.parametrize("command", RUN, ids=str)
def test_it_runs_in_small(command, here, monkeypatch, capsys):
    pytest.importorskip("resvg_py", reason="the extra 'faces' is not installed")
    for name, budget in list(BUDGETS.items()):
        monkeypatch.setitem(BUDGETS, name, replace(budget, small=TINY, large=TINY))
    for words in (*before(command), read(command)):
        monkeypatch.setattr(sys, "argv", ["posterior-sampling", *small(words)])
        assert ended(program.main) == 0
    told = capsys.readouterr()
    assert "error" not in told.err
    assert told.out
    assert command.words[0] in ("configs", "export", "check") or len(list((here / "results").iterdir())) > 1


def ended(main) -> int:
    """Run a program; its exit status."""
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0
