"""The site: it builds without a warning, asks no host for anything, and has a card for all that ships."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

import posterior.operators
import posterior.samplers
from benchmarks.__main__ import COMMANDS as NAMES
from benchmarks.judge.command import contestant_of
from benchmarks.judge.problems import shipped
from benchmarks.matrix.try_photo import try_command
from benchmarks.site import cards, links, mathematics, reference, sources
from lightning_cli import COMMANDS
from posterior import UserError
from posterior.operators import OperatorFamily
from posterior.samplers import Sampler
from posterior.settings import conformed, read_command_line
from posterior.shipped import CONFIGS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CARDS = cards.cards(DOCS)
FETCHED = {
    "script": ["src"],
    "link": ["href"],
    "img": ["src", "srcset"],
    "iframe": ["src"],
    "source": ["src", "srcset"],
}
"""What a browser asks for by itself; a link to be clicked is none of it."""
NOT_FETCHED = {"canonical", "edit", "license"}


def concrete(module: object, kind: type) -> set[str]:
    """Names of the classes of a kind that a package exports and that can be made."""
    found = {name: value for name, value in vars(module).items() if inspect.isclass(value) and issubclass(value, kind)}
    return {name for name, value in found.items() if not inspect.isabstract(value)}


class Fetches(HTMLParser):
    """Addresses that a page makes a browser ask for, and the inline styles in which there may be more."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and given.get("rel") in NOT_FETCHED:
            return
        self.found += [given[name] or "" for name in FETCHED.get(tag, []) if name in given]
        self.found += re.findall(r"url\(([^)]*)\)", given.get("style") or "")


def foreign(text: str) -> list[str]:
    """Addresses of other hosts that a page makes a browser ask for."""
    parser = Fetches()
    parser.feed(text)
    return [one for one in parser.found if re.match(r"(?:[a-z]+:)?//", one.strip("'\" "))]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("mkdocstrings", reason="the extra 'docs' is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    run = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert "WARNING" not in run.stderr
    return folder


def test_a_page_for_each_markdown_file_and_card(site):
    pages = {path.relative_to(site).with_suffix(".md").as_posix() for path in site.rglob("*.html")}
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    outside = {place.replace("README", "index") for place in links.outside_pages(ROOT).values()}  # as MkDocs has it
    assert there | {card.page for card in CARDS} | outside <= pages


def test_no_page_or_style_asks_another_host(site):
    assert foreign('<script src="https://a.example/b.js"></script><p style="background:url(//a.example/c.png)">')
    assert not foreign('<a href="https://a.example">a link</a><img src="here.png">')
    pages = list(site.rglob("*.html"))
    assert pages
    for page in pages:
        assert foreign(page.read_text(encoding="utf-8")) == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", style.read_text(encoding="utf-8")), style


def test_formulas_are_mathematics(site):
    text = (site / "method.html").read_text(encoding="utf-8")
    source = (DOCS / "method").with_suffix(".md").read_text(encoding="utf-8")
    assert text.count('display="block"') == source.count("```math\n") > 10
    assert text.count('display="inline"') == source.count("$`")
    assert "\\frac" not in text
    assert (site / "theme" / mathematics.FONT).stat().st_size > 100_000


def test_the_gallery_shows_numbers_of_the_leaderboard(site):
    text = (
        (DOCS / "leaderboard.md").read_text(encoding="utf-8").partition("## Up to 32 numbers")[2].partition("\n## ")[0]
    )
    (calls,) = re.findall(r"^\| dps \| peer \|.*\| (\d+ \+ \d+) \|", text, re.MULTILINE)
    page = (site / "gallery" / "sampler_dps.html").read_text(encoding="utf-8")
    assert f"{calls} calls of the network a sample" in page


def test_cards_and_entries_of_the_reference_lead_to_each_other(site):
    homes = reference.homes(ROOT)
    for card in CARDS:
        name = card.settings["class"]
        package = site / reference.address(homes[name]).replace(".md", ".html")
        entry = package.read_text(encoding="utf-8").partition(f'id="{homes[name]}.{name}"')[2].partition("<h2")[0]
        place = card.page.replace(".md", ".html")
        assert f'href="../{place}"' in entry, card.name
        assert f'href="../reference/{package.name}#{homes[name]}.{name}"' in (site / place).read_text(encoding="utf-8")


def test_algorithms_stand_beside_the_lines_that_run_them(site):
    marks = sources.MARK.findall((DOCS / "algorithms.md").read_text(encoding="utf-8"))
    assert len(marks) >= 7
    page = (site / "algorithms.html").read_text(encoding="utf-8")
    text = unescape(re.sub(r"<[^>]+>", "", page))
    for file, _, first in marks:
        lines = [line.strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines()]
        assert not first or any(line.startswith(first) and line in text for line in lines)
    assert "x = x + h * target.drift(x)" in text
    assert "<!-- code" not in page


def test_search_works_from_disk(site):
    assert (site / "search" / "search_index.js").is_file()
    assert "iframe-worker.js" in (site / "index.html").read_text(encoding="utf-8")


def test_every_sampler_and_task_has_a_card():
    shown = {kind: {card.settings["class"] for card in CARDS if card.kind == kind} for kind in ("sampler", "task")}
    assert concrete(posterior.samplers, Sampler) - shown["sampler"] == set(), "docs/gallery/cards.yaml has no card for"
    assert concrete(posterior.operators, OperatorFamily) - shown["task"] == set(), "docs/gallery/cards.yaml has no card"


def test_cards_are_short():
    for card in CARDS:
        for text in (card.settings["does"], card.settings["unsure"]):
            assert 1 <= len(re.findall(r"[.!?](?= |$)", text)) <= 3, card.name


@pytest.mark.parametrize("card", CARDS, ids=lambda card: f"{card.kind}_{card.name}")
def test_the_command_of_a_card_parses(card, monkeypatch):
    monkeypatch.chdir(ROOT)
    program, command, *options = shlex.split(card.run)
    assert program == "posterior-sampling"
    assert command in NAMES
    if command == "predict":
        settings, _ = read_command_line(options)
        checked = conformed(settings, COMMANDS["predict"][2])
        if card.kind == "sampler":
            assert checked["model"]["sampler"]["class_path"].endswith(f".{card.settings['class']}")
        else:
            made = {checked["data"]["init_args"][part]["class_path"] for part in ("operator", "likelihood")}
            assert any(one.endswith(f".{card.settings['class']}") for one in made)
    elif command == "judge":
        pairs = list(zip(options[::2], options[1::2], strict=True))
        assert {name for name, _ in pairs} == {"--sampler", "--problems"}
        for name, value in pairs:
            if name == "--sampler":
                contestant_of(value)
            else:
                assert set(value.split(",")) <= shipped().keys()
    else:
        assert command == "try"
        with pytest.raises(UserError, match=r"PHOTO\.jpg does not exist"):
            try_command(options)


def test_pictures_are_small_and_there():
    pictures = [*(DOCS / "gallery").glob("*.png"), DOCS / "flip.webp", DOCS / "mri_first.png"]
    assert sum(path.stat().st_size for path in pictures) < 1_500_000
    assert (DOCS / "flip.webp").stat().st_size < 300_000
    assert {path.name for path in (DOCS / "gallery").glob("*.png")} == {card.picture for card in CARDS if card.picture}


@pytest.mark.parametrize(
    ("link", "on_the_site"),
    [
        ("[a](judge.md#tests)", "[a](judge.md#tests)"),
        ("[a](../README.md)", "[a](project/README.md)"),
        ("[a](../configs/prior)", "a"),
        ("[a](https://a.example/b.md)", "[a](https://a.example/b.md)"),
        ("[a](#here)", "[a](#here)"),
        ("    [a](../README.md)", "    [a](../README.md)"),
    ],
)
def test_links_between_files_become_links_between_pages(link, on_the_site):
    assert links.rewritten(link, "docs/guide.md", {"README.md": "project/README.md"}) == on_the_site


def test_links_of_pages_outside_docs():
    places = {"README.md": "project/README.md", "configs/prior/photos.md": "project/configs/prior/photos.md"}
    assert links.rewritten("[a](docs/guide.md)", "README.md", places) == "[a](../guide.md)"
    assert links.rewritten("[a](../../docs/photos.md)", "configs/prior/photos.md", places) == "[a](../../../photos.md)"


@pytest.mark.parametrize(
    ("said", "as_markdown"),
    [
        ("Args:\n    scale: > 0, a step.", "Args:\n    scale: &gt; 0, a step."),
        ("The product <x, v>.", "The product &lt;x, v>."),
        ("    a <b in code", "    a <b in code"),
        ("`<b>` and x < 3", "`<b>` and x < 3"),
    ],
)
def test_signs_of_docstrings_are_no_quotations(said, as_markdown):
    pytest.importorskip("griffe", reason="the extra 'docs' is not installed")
    from benchmarks.site.docstrings import escaped

    assert escaped(said) == as_markdown


@pytest.mark.parametrize(
    ("said", "in_print"),
    [
        ("variance sigma_y^2 of y", 'variance <i class="letter">&sigma;<sub>y</sub><sup>2</sup></i> of y'),
        ("||A|| <= 1", "&Vert;A&Vert; &le; 1"),
        ("A^T x0", '<i class="letter">A<sup>T</sup></i> <i class="letter">x<sub>0</sub></i>'),
        ("an image's `sigma_y`, num_steps", "an image's `sigma_y`, num_steps"),
        ("    sigma_y in code", "    sigma_y in code"),
        ("[sigma](sigma_y.md)", '[<i class="letter">&sigma;</i>](sigma_y.md)'),
    ],
)
def test_symbols_of_running_text_are_set(said, in_print):
    assert mathematics.lettered(said) == in_print


def test_a_formula_becomes_mathml():
    pytest.importorskip("latex2mathml", reason="the extra 'docs' is not installed")
    text = mathematics.rendered("a\n\n```math\n\\frac{a}{b}\n```\n\nand $`x^2 \\text{ddim\\_eta}`$")
    assert text.count("<math ") == 2
    assert "<mfrac>" in text
    assert "<msup>" in text
    assert "ddim_eta" in text


MODULE = '''
class Walk:
    def go(self, x):
        """Say."""
        y = 2 * x
        for _ in range(3):
            y = y + x
        return y
'''


@pytest.mark.parametrize(
    ("first", "lines"),
    [
        ("", "y = 2 * x\nfor _ in range(3):\n    y = y + x\nreturn y"),
        ("for", "for _ in range(3):\n    y = y + x\nreturn y"),
        ("return", "return y"),
    ],
)
def test_code_of_a_page_is_that_of_its_file(tmp_path, first, lines):
    (tmp_path / "walk.py").write_text(MODULE)
    mark = f'<!-- code: walk.py Walk.go from "{first}" -->' if first else "<!-- code: walk.py Walk.go -->"
    assert sources.included(f"a\n{mark}\nb", tmp_path) == f"a\n```python\n{lines}\n```\nb"


@pytest.mark.parametrize(
    ("mark", "error", "told"),
    [
        ("walk.py Walk.run", ValueError, "there is no function Walk.run"),
        ("walk.py Walk", ValueError, "there is no function Walk"),
        ('walk.py Walk.go from "while"', ValueError, "Walk.go has no statement that begins with 'while'"),
        ("run.py Walk.go", OSError, "run.py"),
    ],
)
def test_code_that_is_not_there_is_named(tmp_path, mark, error, told):
    (tmp_path / "walk.py").write_text(MODULE)
    with pytest.raises(error, match=told):
        sources.included(f"<!-- code: {mark} -->", tmp_path)


def test_tables_are_read_with_their_heading():
    text = "# a\n\n## b\n\nwords\n\n| x | y |\n| --- | --- |\n| 1 | two words |\n"
    assert cards.tables(text) == [("b", [{"x": "1", "y": "two words"}])]


def test_a_card_without_its_picture_is_named(tmp_path):
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "cards.yaml").write_text("samplers: {mine: {title: Mine}}\ntasks: {}\n")
    with pytest.raises(ValueError, match=r"sampler_mine\.png is missing: python -m benchmarks gallery --only \[mine\]"):
        cards.cards(tmp_path)


def test_a_page_that_no_navigation_names_is_a_warning_and_so_an_error(caplog):
    pytest.importorskip("mkdocstrings", reason="the extra 'docs' is not installed")
    from mkdocs.config import load_config
    from mkdocs.structure.files import File, get_files
    from mkdocs.structure.nav import get_navigation

    config = load_config(str(ROOT / "mkdocs.yml"))
    assert config.strict
    config = config.plugins.on_config(config)
    files = config.plugins.on_files(get_files(config), config=config)
    files.append(File.generated(config, "forgotten.md", content="# Forgotten"))
    with caplog.at_level("WARNING"):
        get_navigation(files, config)
    (warning,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert warning.split("\n  - ")[1:] == ["forgotten.md"]


def test_shipped_operators_are_tasks_of_the_gallery():
    text = (DOCS / "gallery" / "cards.yaml").read_text(encoding="utf-8")
    for path in (CONFIGS / "operator").glob("*.yaml"):
        (name,) = re.findall(
            r"^class_path: posterior\.operators\.(\w+)$", path.read_text(encoding="utf-8"), re.MULTILINE
        )
        assert f"class: {name}\n" in text, path.name
