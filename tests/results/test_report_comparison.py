"""The page of several runs, as text: what it holds, what it says of what is missing, what it escapes."""

from __future__ import annotations

import json
import re

import pytest

from benchmarks.__main__ import run as command
from benchmarks.matrix.compare import compare
from benchmarks.matrix.comparison import PLAN, write_comparison, write_matrix_page
from benchmarks.matrix.results import Result
from posterior.errors import UserError
from posterior.results.report_folder import read_run
from posterior.results.report_shell import DotRow, dots, table
from tests.results.matrices import SAMPLERS, TASKS, write_matrix
from tests.results.runs import CONFIG, psnr, write_run
from tests.results.test_report_page import HOSTILE, Parsed, index

IDS = ["a", "sub/b", "c"]


def test_the_values_of_every_method_stand_beside_one_another(tmp_path):
    page = write_matrix_page(write_matrix(tmp_path / "m", IDS)).read_text()
    found = index(page)
    assert found["methods"] == list(SAMPLERS)
    assert [one["name"] for one in found["groups"]] == list(TASKS)
    assert found["ids"] == ["a", "c", "sub/b"] * 2
    assert found["group"] == [0, 0, 0, 1, 1, 1]
    for run in range(6):  # PSNR is better by the number of the run
        task, method = divmod(run, 3)
        means = [one[0] for one in found["values"][method]["psnr"][3 * task : 3 * task + 3]]
        assert means == pytest.approx([run + psnr(IDS.index(i), 0.5) for i in ("a", "c", "sub/b")])
    assert "http-equiv" in page
    assert not [a for _, a in Parsed(page).found if str(a.get("src", "data:")).partition(":")[0] != "data"]


def test_means_have_students_intervals_and_differences_are_paired(tmp_path):
    folder = write_matrix(tmp_path / "m", IDS, ["sr"])
    results = [Result.of_run("sr", name, 0, read_run(folder / "sr" / name / "seed_0")) for name in SAMPLERS]
    page = write_comparison(folder, results, ["told"]).read_text()
    values = [psnr(number, 0.5) for number in range(3)]
    mean = sum(values) / 3
    half = 4.303 * (sum((v - mean) ** 2 for v in values) / 2 / 3) ** 0.5  # t of two degrees of freedom
    assert f"<td>{mean:.4g} ± {half:.2g}</td>" in page
    assert '<th scope="row">kinetic</th><td>exact</td><td>+2</td>' in page  # the same difference on every image
    assert "psnr less that of exact, on the same images" in page


def test_the_samples_of_each_method_and_the_window_of_their_map_are_said(tmp_path):
    runs = [write_run(tmp_path / name, IDS, samples) for name, samples in (("few", 2), ("<many>", 5))]
    page = write_comparison(tmp_path, [Result.of_run("sr", run.name, 0, read_run(run)) for run in runs], []).read_text()
    assert "Samples of each image: few 2, &lt;many&gt; 5. " in page
    assert "Maps of the standard deviation over them are smoothed by 1 pixel." in page
    labels = {a["alt"] for tag, a in Parsed(page).found if tag == "img" and a["alt"].endswith(" of a")}
    assert {"few: mean of 2 of a", "few: standard deviation of 2, smoothed by 1 pixel of a"} < labels
    assert {"<many>: mean of 5 of a", "<many>: standard deviation of 5, smoothed by 1 pixel of a"} < labels
    assert index(page)["groups"][0]["samples"] == [2, 5]


def test_a_matrix_that_was_killed_shows_what_is_there_and_says_so(tmp_path, capsys):
    folder = write_matrix(tmp_path / "m", [f"i{n}" for n in range(4)], begun=5)
    command("report", [str(folder)])
    assert capsys.readouterr().out == f"page: {folder / 'report.html'}\n"
    page = (folder / "report.html").read_text()
    assert "5 of 6 cells of the matrix, made anew from the folder." in page
    assert "This matrix has not come to its end. Not begun: inpainting / kinetic / seed 0." in page
    assert "inpainting/dps/seed_0: This run has not come to its end. 2 images are complete." in page
    values = index(page)["values"]
    assert [one is None for one in values[1]["psnr"]] == [False] * 6 + [True] * 2
    assert [one is None for one in values[2]["psnr"]] == [False] * 4 + [True] * 4
    assert page.count('<section class="image"') == 8


def test_a_matrix_of_which_nothing_is_there_or_whose_plan_is_damaged_is_one_line(tmp_path, capsys):
    folder = write_matrix(tmp_path / "m", IDS, begun=0)
    with pytest.raises(UserError, match="no cell of the matrix has begun"):
        write_matrix_page(folder)
    for damage in ("{", "[]", '{"cells": [["a"]]}', '{"cells": null}', "[" * 100_000):
        (folder / PLAN).write_text(damage)
        with pytest.raises(SystemExit):
            command("report", [str(folder)])
        said = capsys.readouterr().err
        assert said.startswith(f"error: {folder / PLAN} is damaged")
        assert said.count("\n") == 1
    assert not (folder / "report.html").exists()


def test_nothing_of_a_name_or_a_setting_becomes_an_element(tmp_path):
    names = [name for name in HOSTILE if "/" not in name and len(name.encode()) < 200]
    pages = []
    for place, ids, task, samplers, comment in (
        ("<img src=x onerror=hit=1>", HOSTILE, "<b>", names, "# </pre><script>hit=1</script> $policy\n"),
        ("plain", [f"i{n}" for n in range(len(HOSTILE))], "b", [f"s{n}" for n in range(len(names))], "# plain\n"),
    ):
        folder = write_matrix(tmp_path / place, ids, [task], samplers)
        for settings in folder.rglob("config.yaml"):
            settings.write_text(CONFIG + comment)
        pages.append(Parsed(write_matrix_page(folder).read_text()))
    found, expected = ([(tag, list(attributes)) for tag, attributes in page.found] for page in pages)
    assert found == expected
    assert json.loads(pages[0].texts["script"][-1])["methods"] == names


def test_compare_leaves_the_page_by_task_and_keeps_its_table(tmp_path, capsys):
    runs = [write_run(tmp_path / name, IDS, samples=2, better=number) for number, name in enumerate(("a", "b", "x/a"))]
    other = CONFIG.replace("SuperResolution, init_args: {scale: 4}", "RandomInpainting")
    (runs[1] / "config.yaml").write_text(other)
    compare(runs, output=tmp_path / "out")
    said = capsys.readouterr().out
    assert said.startswith("run")
    assert max(len(line) for line in said.splitlines()[:-1]) <= 80
    for number in range(3):  # the mean over images and two samples each; one standard deviation of three values
        values = [number + psnr(image, 0.5) for image in range(3)]
        mean = sum(values) / 3
        error = (sum((value - mean) ** 2 for value in values) / 2 / 3) ** 0.5
        assert f"  {mean:.4g} +- {error:.2g}" in said
    assert said.endswith(f"page: {tmp_path / 'out' / 'report.html'}\n")
    found = index((tmp_path / "out" / "report.html").read_text())
    assert found["methods"] == [str(runs[0]), str(runs[2]), "b"]
    assert [one["name"] for one in found["groups"]] == ["SuperResolution (scale 4)", "RandomInpainting"]
    assert found["groups"][0]["files"]["method_1"] == ["../x/a/images/", "/sample_000.png"]
    assert found["groups"][1]["base"] == 2


def test_many_runs_of_long_names_fit_eighty_columns_and_lose_nothing(tmp_path, capsys):
    """As `make compare` has them: names of demos, all their metrics."""
    names = [f"demo_{task}_{end}" for task in ("random_inpainting", "super_resolution") for end in ("dps", "kinetic")]
    compare([write_run(tmp_path / name, IDS, better=number) for number, name in enumerate(names)], output=tmp_path)
    *lines, _ = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    heads = "  ".join(line for line in lines if line.startswith("run"))
    assert {"images", "psnr", "resid.", "NFE fwd", "NFE bwd", "s/sample"} <= set(re.split(" {2,}", heads))
    for name in (name if len(name) <= 28 else f"{name[:12]}...{name[-12:]}" for name in names):
        assert sum(line.startswith(name) for line in lines) == heads.count("run")


def test_a_page_of_runs_that_cannot_be_written_is_a_warning(tmp_path, capsys, caplog):
    run = write_run(tmp_path / "a", IDS)
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    compare([run], output=tmp_path / "out")
    assert "psnr" in capsys.readouterr().out
    assert "no page could be written" in caplog.text


def test_a_drawing_has_its_numbers_in_words_and_stays_small():
    drawn = dots([DotRow("<b>", 1.5, 1.0, 2.0, values=[0.5] * 100_000), DotRow("b" * 300, 3.0)], "a > b", line=1.0)
    assert drawn.count("<circle") <= 400 + 2
    assert 'aria-label="a &gt; b &lt;b&gt; 1.5; ' in drawn
    assert "b" * 30 not in drawn.partition(">")[2].partition(">")[2]  # but in the label
    assert "nan" not in dots([DotRow("one", 0.0)], "of one value")


def test_a_table_says_what_it_is_and_can_be_told_to_sort():
    assert table([["a"], ["<b>"]], '"x"', "sortable").startswith(
        '<div class="wide sortable" tabindex="0" role="region"'
    )
    assert 'aria-label="&quot;x&quot;"' in table([["a"]], '"x"')
    assert '<th scope="row">&lt;b&gt;</th>' in table([["a"], ["<b>"]], "x")
