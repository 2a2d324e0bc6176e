"""The README and the pages behind it: code runs as it stands, links lead somewhere, commands have names of commands."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS, COMMANDS
from lightning_cli import main
from tests.pages import PAGES, ROOT

README, TEXT = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/guide.md"))
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
    for name in re.findall(r"`(configs/[\w/]+\.(?:yaml|npz|md))`", README + TEXT):
        assert (root / name).is_file(), name


def test_the_readme_begins_with_what_to_do():
    assert len(README.splitlines()) <= 120
    before = README.split("![", 1)[0]
    assert "make demo" in before
    assert "make test" in before


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"https?://", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_that_pages_name_are_there(page):
    known = {*COMMANDS, *BENCHMARKS}
    text = page.read_text(encoding="utf-8") if page.name != "CHANGELOG.md" else ""
    for name in re.findall(r"(?:posterior-sampling|python -m benchmarks) ([a-z][\w-]*)", text):
        assert name in known, name
