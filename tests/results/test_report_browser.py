"""The page of a run in a real browser: headless Chromium, if it is installed."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.matrix.comparison import write_matrix_page
from posterior.results import report_explorer
from posterior.results.pictures import save_png, std_colours
from posterior.results.report import write_report
from posterior.results.report_page import write_page
from posterior.results.report_phase import phase_pixels
from tests.results.matrices import SAMPLERS, TASKS, write_matrix
from tests.results.runs import COVERAGE, pixels, psnr, write_journal, write_pictures, write_run
from tests.results.test_report_page import HOSTILE

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
IDS = [f"image_{number}" for number in range(5)]
SIDE = 16


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def look(chromium):
    """Open a page: look(path, width) -> what playwright calls a page; whatever its console says fails the test.

    ``absent``: what the console says of files that are not there is expected.
    """
    contexts, said = [], []

    def start(path, width=1600, scripts=True, scheme="light", absent=False):
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, java_script_enabled=scripts, color_scheme=scheme
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)  # of a busy machine
        expected = "net::ERR_FILE_NOT_FOUND" if absent else None
        page.on("console", lambda message: said.append(message.text) if str(expected) not in message.text else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append("a dialog"))
        page.goto(path.as_uri())
        if scripts:
            page.wait_for_selector("#panels canvas")
        return page

    yield start
    for context in contexts:
        context.close()
    assert said == []


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The page of five images with four samples each."""
    return write_page(write_run(tmp_path_factory.mktemp("runs") / "run", IDS, side=SIDE))


def drawn(page, panel):
    """The pixels on a panel's canvas (H, W, 3)."""
    got = page.evaluate(
        """name => { const shown = document.querySelector(`[data-panel=${name}] canvas`);
        const copy = new OffscreenCanvas(shown.width, shown.height).getContext("2d", { willReadFrequently: true });
        copy.drawImage(shown, 0, 0);
        return [shown.height, shown.width, [...copy.getImageData(0, 0, shown.width, shown.height).data]]; }""",
        panel,
    )
    return np.array(got[2], dtype=np.uint8).reshape(got[0], got[1], 4)[..., :3]


def titles(page):
    """Ids in the strip, in order."""
    return page.eval_on_selector_all("#rail [role=option]", "all => all.map(one => one.title)")


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1600, "light")])
def test_it_opens_flips_sorts_and_zooms(look, run, tmp_path, width, scheme):
    from playwright.sync_api import expect

    page = look(run, width, scheme=scheme)
    assert titles(page) == IDS
    assert page.text_content("#title") == IDS[0]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for panel in ("measurement", "truth", "mean", "sample_000"):
        assert (drawn(page, panel) == pixels(0, panel, SIDE)).all()
    page.focus("#viewer")
    page.keyboard.press("ArrowRight")
    assert (drawn(page, "sample_000") == pixels(0, "sample_001", SIDE)).all()
    page.focus("#flip")
    page.keyboard.press("End")
    assert (drawn(page, "sample_000") == pixels(0, "sample_003", SIDE)).all()
    page.select_option("#metric", "psnr")
    worst = sorted(range(5), key=lambda number: psnr(number, 0))
    assert titles(page) == [IDS[number] for number in worst]
    assert worst[0] != 0
    expect(page.locator("#title")).to_have_text(IDS[worst[0]])  # once its pictures are there
    page.click("#reverse")
    assert titles(page) == [IDS[number] for number in worst[::-1]]
    page.click("#reverse")
    for metric, bad in (("coverage", [abs(c - 0.6) for c in COVERAGE]), ("residual", range(5)), ("seconds", [0] * 5)):
        page.select_option("#metric", metric)
        assert titles(page) == [IDS[number] for number in sorted(range(5), key=lambda number: -bad[number])]
    page.fill("#find", "E_3")
    assert titles(page) == [IDS[3]]
    page.click("#in")
    page.click("#in")
    scales = page.eval_on_selector_all(
        ".pane canvas", "all => all.map(one => new DOMMatrix(getComputedStyle(one).transform).a)"
    )
    assert len(scales) == 8
    assert scales == pytest.approx([2.25] * 8)
    page.focus("#viewer")
    page.keyboard.press("0")
    assert page.text_content("#zoom").startswith("1.0")
    page.screenshot(path=tmp_path / f"report_{width}_{scheme}.png", full_page=True)


def test_a_pixel_shows_every_samples_value(look, run):
    page = look(run)
    box = page.locator("[data-panel=truth] .pane").bounding_box()
    x, y = 5, 11
    page.mouse.move(box["x"] + box["width"] * (x + 0.5) / SIDE, box["y"] + box["height"] * (y + 0.5) / SIDE)
    assert page.text_content("#place").startswith(f"Row {y}, column {x}.")
    assert "with probability 60 %" in page.text_content("#place")  # (K - 1) / (K + 1) of K = 4
    values = [pixels(0, f"sample_{k:03d}", SIDE)[y, x] / 127.5 - 1 for k in range(4)]
    truth = pixels(0, "truth", SIDE)[y, x] / 127.5 - 1
    expected = [
        f"{name} {min(v[c] for v in values):.2f} to {max(v[c] for v in values):.2f}, truth {truth[c]:.2f}"
        for c, name in enumerate(("red", "green", "blue"))
    ]
    assert page.get_attribute("#values svg", "aria-label") == "; ".join(expected)
    assert page.locator("#values circle").count() == 12
    page.keyboard.press("Shift+ArrowLeft")
    page.focus("#viewer")
    page.keyboard.press("Shift+ArrowLeft")
    assert page.text_content("#place").startswith(f"Row {y}, column {x - 1}.")


def test_the_two_meet_where_the_slider_is(look, run):
    page = look(run)
    page.fill("#split", "25")
    assert (drawn(page, "split") == pixels(0, "sample_000", SIDE)).all()
    assert page.eval_on_selector(".layer", "one => getComputedStyle(one).clipPath") == "inset(0px 0px 0px 25%)"
    width = page.locator("[data-panel=split] .pane").bounding_box()["width"]
    rule = page.eval_on_selector(".rule", "one => one.offsetLeft")
    assert rule == pytest.approx(0.25 * width, abs=1)


def differing(folder):
    """A run of one image whose four samples differ in a square alone, there by a known standard deviation."""
    base, square = np.full((SIDE, SIDE, 3), 100, np.uint8), (slice(6, 11), slice(3, 8))
    journal, session = write_journal(folder, ["a"], 4)
    write_pictures(folder / "images" / "a", 0, 4, SIDE)
    for k, level in enumerate((60, 90, 110, 140)):
        sample = base.copy()
        sample[square] = level
        save_png(sample, folder / "images" / "a" / f"sample_{k:03d}.png")
    write_report(folder, journal, session)
    return write_page(folder), square


def test_the_raw_map_is_the_standard_deviation_of_each_pixel(look, tmp_path):
    path, square = differing(tmp_path / "run")
    page = look(path)
    assert (drawn(page, "std") == std_colours(np.array(0.1))).all()  # what is on disk, smoothed
    assert page.text_content("[data-panel=std] figcaption").startswith("Std of 4, smoothed by 1 pixel")
    page.click("#raw")
    std = np.zeros((SIDE, SIDE))
    std[square] = np.std(np.array([60, 90, 110, 140]) / 127.5, ddof=1)
    assert np.abs(drawn(page, "std").astype(int) - std_colours(std).astype(int)).max() <= 4  # 256 steps of colour
    assert page.text_content("[data-panel=std] figcaption").startswith(
        "Std of 4, each pixel alone, from 8-bit pictures"
    )


def test_outlines_lie_round_where_samples_disagree(look, tmp_path):
    path, (rows, columns) = differing(tmp_path / "run")
    page = look(path)
    page.click("#outlines")
    path = page.get_attribute("[data-panel=truth] path.line", "d")
    corners = np.array(re.findall(r"M(\d+) (\d+)", path), dtype=int)
    assert np.abs(corners.min(axis=0) - [columns.start, rows.start]).max() <= 1
    assert np.abs(corners.max(axis=0) - [columns.stop, rows.stop]).max() <= 1
    assert page.locator("path.line").count() == 7
    assert page.text_content("#level").startswith("Outlined: the tenth of the pixels")


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (1600, "dark")])
def test_what_the_spread_tells_is_drawn_with_and_without_scripts(look, run, width, scheme):
    contrast = """all => all.map(one => { const of = name => {
        const [r, g, b] = getComputedStyle(name ? one : document.body)[name || "backgroundColor"].match(/[\\d.]+/g)
            .map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.05 + 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const both = [of("fill"), of("")]; return Math.max(...both) / Math.min(...both); })"""
    plain, page = look(run, width, scripts=False, scheme=scheme), look(run, width, scheme=scheme)
    told = [one.get_attribute("aria-label") for one in plain.locator("#i1 .spread svg").all()]
    assert len(told) == 2
    page.evaluate("show(1)")
    for shown, place in ((plain, "#i1"), (page, "#spread")):
        drawings = shown.locator(f"{place} .spread svg")
        assert [one.get_attribute("aria-label") for one in drawings.all()] == told
        assert all(one.is_visible() for one in drawings.all())
        assert min(drawings.locator("text, circle").evaluate_all(contrast)) > 4.5
        heights = drawings.locator("text").evaluate_all("all => all.map(one => one.getBoundingClientRect().height)")
        assert min(heights) >= 12
        cut = """all => all.filter(one => {
            const [own, whole] = [one, one.ownerSVGElement].map(each => each.getBoundingClientRect());
            return own.left < whole.left || own.right > whole.right || own.bottom > whole.bottom; }).length"""
        assert drawings.locator("text").evaluate_all(cut) == 0
        assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_samples_that_differ_everywhere_alike_have_no_outlines(look, tmp_path):
    folder = tmp_path / "run"
    write_run(folder, ["a"], side=SIDE)
    for k, level in enumerate((60, 90, 110, 140)):
        save_png(np.full((SIDE, SIDE, 3), level, np.uint8), folder / "images" / "a" / f"sample_{k:03d}.png")
    page = look(write_page(folder))
    page.click("#outlines")
    assert page.text_content("#level").startswith("Samples differ about equally everywhere")
    assert page.get_attribute("path.line", "d") == ""


def test_complex_images_show_magnitude_and_phase(look, tmp_path):
    folder = write_run(tmp_path / "run", ["a"], side=SIDE)
    picture = phase_pixels(torch.randn(2, SIDE, SIDE, generator=torch.Generator().manual_seed(0)))
    for name in ("sample_000", "truth"):
        save_png(picture, folder / "images" / "a" / f"{name}_phase.png")
    page = look(write_page(folder))
    assert (drawn(page, "truth") == pixels(0, "truth", SIDE)).all()
    page.click("#phase")
    assert (drawn(page, "truth") == picture).all()
    assert (drawn(page, "sample_000") == picture).all()
    assert page.is_visible("#phased")


def test_without_scripts_it_is_a_plain_page(look, run):
    page = look(run, 400, scripts=False)
    assert not page.is_visible("#explorer")
    assert page.locator("#plain h3").all_text_contents() == IDS
    images = page.locator("#plain .pictures img")
    assert images.count() == 5 * 8
    assert all(image.is_visible() and image.get_attribute("alt") for image in images.all()[:8])
    assert page.locator("#plain section table").count() == 5


def test_every_control_has_a_name_and_is_reached_by_keys(look, run):
    page = look(run)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll(
            "button, input, select, canvas[role], [role=img], [role=listbox], [role=option], summary")]
        .filter(one => one.checkVisibility())
        .filter(one => !(one.getAttribute("aria-label") || one.labels?.length || one.textContent.trim()))
        .map(one => one.outerHTML)"""
    )
    assert nameless == []
    page.focus("#strip")
    page.keyboard.press("End")
    page.locator("#title", has_text=IDS[-1]).wait_for()
    assert page.get_attribute("#rail [aria-selected=true]", "title") == IDS[-1]
    assert page.get_attribute("#strip", "aria-activedescendant") == page.get_attribute(
        "#rail [aria-selected=true]", "id"
    )


def test_nothing_of_an_id_or_a_setting_runs(look, tmp_path):
    folder = write_run(tmp_path / "<img src=x onerror=hit=1>", HOSTILE)
    (folder / "config.yaml").write_text("# </pre><script>hit=1</script><img src=x onerror=hit=1>\n")
    page = look(write_page(folder), 400)
    for number in range(len(HOSTILE)):
        page.evaluate("number => show(number)", number)
    assert page.evaluate("typeof hit") == "undefined"
    assert sorted(titles(page)) == sorted(HOSTILE)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_large_run_reads_its_pictures_beside_the_page(look, tmp_path, monkeypatch):
    ids = ["0", "1", "2 %'#?", "3"]
    folder = write_run(tmp_path / "run", ids, side=SIDE)
    one = sum(path.stat().st_size for path in (folder / "images" / "0").iterdir())
    monkeypatch.setattr(report_explorer, "INSIDE_BYTES", int(1.5 * one))
    monkeypatch.setattr(report_explorer, "BESIDE_BYTES", int(2.2 * one))
    monkeypatch.setattr(report_explorer, "MOST_INSIDE", 2)
    page = look(write_page(folder), absent=True)  # of an image without a section names are tried, phases among them
    for number, readable in enumerate([True, True, True, False]):
        page.evaluate("number => show(number)", number)
        assert page.text_content("#title") == ids[number]
        assert page.locator("#panels figure").count() == (7 if readable else 6)  # no difference of what is not read
        assert page.is_visible("#unreadable") != readable
        assert page.is_visible("#raw") == readable
        if readable:
            assert (drawn(page, "truth") == pixels(number, "truth", SIDE)).all()
    assert "psnr" in page.text_content("#table")


def test_of_fifty_thousand_images_only_those_in_sight_are_made(look, tmp_path):
    """What a browser makes of the page does not grow with the images (docs/explorer.md has the seconds)."""
    folder = tmp_path / "run"
    write_journal(folder, [f"part_{n // 1000}/{n:05d}" for n in range(50_000)], 1, cost={})
    for number in range(3):
        write_pictures(folder / "images" / f"part_0/{number:05d}", number, 1, SIDE)
    path = write_page(folder)
    assert path.stat().st_size < 10_000_000
    page = look(path, absent=True)
    assert page.evaluate("document.querySelectorAll('*').length") < 5000
    assert page.locator("#rail [role=option]").count() < 100
    page.select_option("#metric", "psnr")
    assert page.text_content("#count") == "50000 of 50000 images"
    assert page.text_content("#charted") == "psnr over images, 50 at each mark"
    assert page.get_attribute("#chart .marks", "d").count("M") == 1000
    assert page.get_attribute("#chart svg", "aria-label") == "psnr of 50000 images, 30 to 39"  # all of them
    page.fill("#find", "49999")
    assert titles(page) == ["part_49/49999"]
    page.fill("#find", "")
    page.select_option("#metric", "")
    page.eval_on_selector("#strip", "one => { one.scrollLeft = 72 * 49990; }")
    page.locator("#rail [role=option]", has_text="49999").wait_for()


def test_a_damaged_picture_costs_its_panel(look, tmp_path):
    folder = write_run(tmp_path / "run", ["a", "b"], finished=False)
    (folder / "images" / "a" / "truth.png").write_bytes(b"cut off")
    (folder / "images" / "b" / "sample_000.png").write_bytes(b"cut off")
    page = look(write_page(folder))
    assert page.locator("[data-panel=truth]").count() == 0
    assert page.locator("[data-panel=split]").count() == 1
    page.evaluate("show(1)")
    assert page.locator("[data-panel=sample_001]").count() == 1
    assert page.is_visible(".notice")


def test_the_settings_can_be_copied(look, run):
    page = look(run)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("summary:has-text('Settings')")
    page.click("#copy")
    page.locator("#copied", has_text="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == (run.parent / "config.yaml").read_text()
    with Image.open(run.parent / "images" / IDS[0] / "std.png") as std:
        assert std.size == (SIDE, SIDE)


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    """The page of two tasks, three samplers and five images."""
    return write_matrix_page(write_matrix(tmp_path_factory.mktemp("matrices") / "matrix", IDS, side=SIDE))


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (1600, "dark")])
def test_methods_are_flipped_through_and_held_against_each_other(look, matrix, tmp_path, width, scheme):
    from playwright.sync_api import expect

    page = look(matrix, width, scheme=scheme)
    assert titles(page) == [f"{task}: {image_id}" for task in TASKS for image_id in IDS]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for method, name in enumerate(SAMPLERS):
        assert (drawn(page, "method_0") == pixels(0, "sample_000", SIDE, run=method)).all()
        assert (drawn(page, "mean") == pixels(0, "mean", SIDE, run=method)).all()
        assert (drawn(page, "truth") == pixels(0, "truth", SIDE)).all()
        assert page.text_content("[data-panel=method_0] figcaption span") == name
        assert page.text_content("[data-panel=std] figcaption span") == f"{name}, std of 2, smoothed by 1 pixel"
        assert page.text_content("#table tr.now th") == name
        less = pixels(0, "sample_000", SIDE, run=method).astype(int) - pixels(0, "truth", SIDE)
        assert (drawn(page, "difference") == np.clip(128 + less, 0, 255)).all()
        page.focus("#viewer")
        page.keyboard.press("ArrowRight")
    assert (drawn(page, "method_0") == pixels(0, "sample_000", SIDE)).all()  # round to the first
    page.select_option("#group", label=TASKS[1])
    expect(page.locator("#title")).to_have_text(f"{TASKS[1]}: {IDS[0]}")  # its pictures are read by then
    assert titles(page) == [f"{TASKS[1]}: {image_id}" for image_id in IDS]
    assert (drawn(page, "method_0") == pixels(0, "sample_000", SIDE, run=3)).all()  # the fourth run
    page.select_option("#metric", "psnr")
    worst = sorted(range(5), key=lambda number: psnr(number, 0))
    assert titles(page) == [f"{TASKS[1]}: {IDS[number]}" for number in worst]
    assert page.text_content("#count") == "5 of 10 images, by the psnr of exact"
    assert page.locator("#chart .marks").count() == 3
    page.click("#differences")
    assert page.get_attribute("#chart svg", "aria-label") == "psnr of 5 images, -0.1 to 2.1"  # of two samples each
    assert page.text_content("#charted") == "psnr less that of the first method over images"
    page.screenshot(path=tmp_path / f"matrix_{width}_{scheme}.png", full_page=True)


def test_a_methods_pixel_is_read_beside_the_others(look, matrix):
    page = look(matrix)
    page.evaluate("point(5, 11)")
    values = [pixels(0, "sample_000", SIDE, run=method)[11, 5, 0] / 127.5 - 1 for method in range(3)]
    truth = pixels(0, "truth", SIDE)[11, 5, 0] / 127.5 - 1
    told = page.get_attribute("#values svg", "aria-label")
    assert told.startswith(f"red {min(values):.2f} to {max(values):.2f}, truth {truth:.2f}; green")
    assert page.text_content("#place").endswith("a ring round exact. Upright line: truth.")


def test_tables_of_a_comparison_sort_by_a_click_on_a_head(look, matrix):
    page = look(matrix)
    means = page.locator(".sortable table").first
    names = means.locator("tr th[scope=row]")
    assert names.all_text_contents() == list(SAMPLERS)
    head = means.locator("th", has_text="psnr").first
    for expected, told in ((SAMPLERS, "ascending"), (SAMPLERS[::-1], "descending")):
        head.locator("button").click()
        assert names.all_text_contents() == list(expected)
        assert head.get_attribute("aria-sort") == told
    assert page.locator("svg[role=img][aria-label]").count() == len(page.locator("figure.dots svg").all()) + 1


def test_a_comparison_without_scripts_has_every_picture_and_number(look, matrix):
    page = look(matrix, 400, scripts=False)
    assert not page.is_visible("#explorer")
    assert page.locator("#plain h3").all_text_contents() == [f"{task}: {i}" for task in TASKS for i in IDS]
    assert page.locator("#plain .pictures img").count() == 10 * (2 + 3 * 3)
    assert page.locator("figure.dots").first.is_visible()


def test_nothing_of_a_comparisons_names_runs(look, tmp_path):
    names = [name for name in HOSTILE if "/" not in name and len(name.encode()) < 200]
    folder = write_matrix(
        tmp_path / "<img src=x onerror=hit=1>", [*HOSTILE, "i" * 150 + "/" + "j" * 150], ["<b>"], names
    )
    for settings in folder.rglob("config.yaml"):
        settings.write_text("# </pre><script>hit=1</script>\n")
    page = look(write_matrix_page(folder), 400)
    for number in range(len(HOSTILE) + 1):
        page.evaluate("number => show(number)", number)
    assert page.evaluate("typeof hit") == "undefined"
    assert page.locator("#chart .marks").count() == len(names)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_pictures_of_a_large_comparison_are_read_beside_the_page_or_shown_as_files(look, tmp_path, monkeypatch):
    folder = write_matrix(tmp_path / "a b%'#", ["0", "1 ?%'#", "2"], ["sr"], ["exact", "dps"], side=SIDE)
    own = [path for path in folder.rglob("0/*.png") if path.stem in ("sample_000", "mean", "std")]
    shared = [folder / "sr/exact/seed_0/images/0" / name for name in ("measurement.png", "truth.png")]
    one = sum(path.stat().st_size for path in [*own, *shared])
    monkeypatch.setattr(report_explorer, "INSIDE_BYTES", int(1.3 * one))
    monkeypatch.setattr(report_explorer, "BESIDE_BYTES", int(1.2 * one))
    monkeypatch.setattr(report_explorer, "MOST_INSIDE", 1)
    page = look(write_matrix_page(folder), absent=True)
    for number, readable in enumerate([True, True, False]):
        page.evaluate("number => show(number)", number)
        assert page.is_visible("#unreadable") != readable
        assert page.locator("[data-panel=difference]").count() == readable
        assert page.get_attribute("[data-panel=method_0] canvas", "width") == str(SIDE)
        if readable:
            assert (drawn(page, "method_0") == pixels(number, "sample_000", SIDE)).all()
    assert "dps: psnr" in page.text_content("#table")
