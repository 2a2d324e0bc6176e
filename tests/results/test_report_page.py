import base64
import errno
import json
import logging
import re
import struct
import zlib
from html.parser import HTMLParser

import pytest
import torch
import yaml

import posterior.callbacks.results as results
from benchmarks.__main__ import run as command
from lightning_cli import main
from posterior import Measurement
from posterior.batch import Batch
from posterior.errors import UserError
from posterior.noise import GaussianNoise
from posterior.operators import RandomInpainting
from posterior.results import report_explorer, report_page
from posterior.results.report_page import leave_page, write_page
from posterior.results.report_shell import TEMPLATE
from tests.results.runs import CONFIG, psnr, write_journal, write_pictures, write_run

HOSTILE = [
    '"><script>hit=1<',
    "'onload='hit=1",
    "</script><script>hit=1",
    "<!--<img src=x onerror=hit=1>",
    "%3Cb%3E&lt;",
    "#?",
]
HOSTILE += ["é" * 100, "n" * 150 + "/" + "m" * 150]


class Parsed(HTMLParser):
    """What a browser would find: elements with their attributes, and the text of scripts."""

    def __init__(self, text):
        super().__init__()
        self.found, self.texts, self.inside = [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside in ("script", "pre", "h3"):
            self.texts.setdefault(self.inside, []).append(data)


def index(page):
    return json.loads(Parsed(page).texts["script"][-1])


def test_the_page_holds_every_picture_and_number(tmp_path):
    ids = ["a", "sub/b", "c"]
    page = write_page(write_run(tmp_path / "run", ids)).read_text()
    pictures = list((tmp_path / "run" / "images").rglob("*.png"))
    assert len(pictures) == 3 * 8
    for path in pictures:
        assert base64.b64encode(path.read_bytes()).decode() in page
    found = index(page)
    assert found["ids"] == ["a", "c", "sub/b"]
    assert found["values"][0]["psnr"][0] == pytest.approx([psnr(0, 1.5), psnr(0, 0), psnr(0, 3)])
    assert found["values"][0]["nfe_forward"] == [122] * 3
    assert found["measured"] == [192] * 3
    assert (
        "3 images, measured by SuperResolution (scale 4) with GaussianNoise (sigma_y 0.05); 4 samples of each by "
        in page
    )
    assert (
        "ExactGaussian under GaussianFieldPrior.from_folder (prior.safetensors): 122 network calls forward and 0 "
        in page
    )
    assert not (tmp_path / "run" / "report_files").exists()


def test_the_same_folder_gives_the_same_page(tmp_path):
    folder = write_run(tmp_path / "run", ["a", "b"])
    assert write_page(folder).read_bytes() == write_page(folder).read_bytes()


def test_nothing_of_an_id_or_a_setting_becomes_an_element(tmp_path):
    folder = write_run(tmp_path / "<img src=x onerror=hit=1>", HOSTILE)
    settings = f"{CONFIG}# </pre><script>hit=1</script><!-- \u2028 $policy ${{index}}\n"
    (folder / "config.yaml").write_text(settings)
    page = write_page(folder).read_text()
    plain = write_page(write_run(tmp_path / "plain", [f"i{n}" for n in range(len(HOSTILE))])).read_text()
    found, expected = Parsed(page), Parsed(plain)
    assert [tag for tag, _ in found.found] == [tag for tag, _ in expected.found]
    assert [list(attributes) for _, attributes in found.found] == [list(attributes) for _, attributes in expected.found]
    assert "".join(found.texts["pre"]) == settings
    assert set(index(page)["ids"]) == set(HOSTILE)
    assert set(found.texts["h3"]) >= set(HOSTILE)


def test_nothing_in_the_page_comes_from_a_network(tmp_path):
    folder = write_run(tmp_path / "run", ["a"])
    page = Parsed(write_page(folder).read_text())
    named = [value for _, attributes in page.found for name, value in attributes.items() if name in ("src", "href")]
    assert named
    assert all(value.startswith("data:image/") for value in named)
    policy = next(a["content"] for _, a in page.found if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data: file: 'self'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_a_run_that_was_killed_shows_what_is_there_and_says_so(tmp_path):
    folder = write_run(tmp_path / "run", ["a", "b"], finished=False)
    write_pictures(folder / "images" / "sub" / "begun", 2, samples=2)
    (folder / "images" / "sub" / "begun" / "truth.png").write_bytes(b"cut off")
    page = write_page(folder).read_text()
    assert "This run has not come to its end. 2 images are complete. 1 more were begun" in page
    assert index(page)["ids"] == ["a", "b", "sub/begun"]
    assert index(page)["values"][0]["psnr"][2] is None
    assert "Its numbers are not in the journal" in page


def test_a_run_without_any_image_has_a_page(tmp_path):
    journal, _ = write_journal(tmp_path / "run", [], samples=2)
    journal.fail({"<b>": "image <b>: is no picture"}, 0)
    page = write_page(tmp_path / "run").read_text()
    assert "No image is complete." in page
    assert "image &lt;b&gt;: is no picture" in page


def test_numbers_that_disagree_with_the_journal_are_told(tmp_path):
    folder = write_run(tmp_path / "run", ["a", "b"])
    metrics = json.loads((folder / "metrics.json").read_text()) | {"images": 5}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert "metrics.json counts 5 images, 2 are complete here." in write_page(folder).read_text()
    for damaged in ("{", "[" * 100_000):
        (folder / "metrics.json").write_text(damaged)
        assert "metrics.json cannot be read." in write_page(folder).read_text()


def flipped(picture):
    """One bit of the compressed pixels is another."""
    content = bytearray(picture)
    content[content.index(b"IDAT") + 6] ^= 1
    return bytes(content)


def enormous(picture):
    """The head of a picture says that it has 40000 x 40000 pixels."""
    head = b"IHDR" + struct.pack(">II", 40_000, 40_000) + picture[24:29]
    return picture[:12] + head + struct.pack(">I", zlib.crc32(head)) + picture[33:]


@pytest.mark.parametrize("damage", [flipped, enormous, lambda picture: picture[:40]])
def test_a_damaged_picture_costs_its_thumbnail(tmp_path, damage):
    folder = write_run(tmp_path / "run", ["a", "b"])
    path = folder / "images" / "a" / "sample_000.png"
    path.write_bytes(damage(path.read_bytes()))
    thumbnails = index(write_page(folder).read_text())["thumbnails"]
    assert thumbnails[0] == ""
    whole = (folder / "images" / "b" / "sample_000.png").read_bytes()
    assert thumbnails[1] == f"data:image/png;base64,{base64.b64encode(whole).decode()}"


@pytest.mark.parametrize(
    ("damaged", "told"),
    [
        ("a: 2020-13-45", "2 images; 4 samples of each:"),
        ("a: !!int ''", "2 images; 4 samples of each:"),
        ("[" * 5000, "2 images; 4 samples of each:"),
        (
            "data: {init_args: {operator: {class_path: posterior.operators.SuperResolution, init_args: [1]}}}",
            "2 images, measured by SuperResolution; 4 samples of each:",
        ),
    ],
)
def test_damaged_settings_cost_their_part_of_the_sentence(tmp_path, damaged, told):
    folder = write_run(tmp_path / "run", ["a", "b"])
    (folder / "config.yaml").write_text(damaged)
    page = write_page(folder).read_text()
    assert told in page
    assert damaged.replace("'", "&#x27;") in page


@pytest.mark.parametrize("value", ["null", '"high"', "[1]", "true"])
def test_a_metric_that_is_no_number_costs_this_value_alone(tmp_path, value):
    folder = write_run(tmp_path / "run", ["a", "b"], samples=2)
    journal = folder / "journal" / "rank0.jsonl"
    text, least = journal.read_text(), f'"psnr": {psnr(0, 0)}'
    assert text.count(least) == 1
    journal.write_text(text.replace(least, f'"psnr": {value}'))
    page = write_page(folder).read_text()
    assert index(page)["values"][0]["psnr"] == [psnr(0, 1), pytest.approx([psnr(1, 0.5), psnr(1, 0), psnr(1, 1)])]
    assert index(page)["values"][0]["residual"] == [1, 1.01]


def test_pictures_of_a_large_run_are_beside_the_page(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run", [f"{n}" for n in range(6)])
    one = sum(path.stat().st_size for path in (folder / "images" / "0").iterdir())
    monkeypatch.setattr(report_explorer, "INSIDE_BYTES", int(2.5 * one))
    monkeypatch.setattr(report_explorer, "BESIDE_BYTES", int(2.2 * one))
    page = write_page(folder).read_text()
    assert [index(page)[name] for name in ("inside", "readable")] == [2, 4]
    assert sorted(path.name for path in (folder / "report_files").iterdir()) == ["2.js", "3.js"]
    sample = base64.b64encode((folder / "images" / "3" / "sample_001.png").read_bytes()).decode()
    assert sample not in page
    assert sample in (folder / "report_files" / "3.js").read_text()
    assert 'src="images/5/sample_001.png"' in page
    monkeypatch.undo()
    foreign = [folder / "report_files" / name for name in ("mine.js", "12a.js", "2.json")]
    for path in foreign:
        path.touch()
    (folder / "report.html").unlink()
    (folder / "report.html").mkdir()
    with pytest.raises(IsADirectoryError):
        write_page(folder)
    assert (folder / "report_files" / "2.js").exists()  # an earlier page may still read it
    (folder / "report.html").rmdir()
    write_page(folder)
    assert set((folder / "report_files").iterdir()) == set(foreign)


def test_a_page_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    folder = write_run(tmp_path / "run", ["a"])
    (folder / "report.html").mkdir()
    with caplog.at_level(logging.WARNING):
        leave_page(folder)
    assert "report.html could not be written: IsADirectoryError" in caplog.text
    assert not list(folder.glob(".*.partial"))


def test_the_command_writes_the_page_and_names_what_is_no_run(tmp_path, capsys):
    folder = write_run(tmp_path / "run", ["a"], finished=False)
    command("report", [str(folder)])
    assert capsys.readouterr().out == f"page: {folder / 'report.html'}\n"
    with pytest.raises(SystemExit) as stopped:
        command("report", [str(tmp_path)])
    assert stopped.value.code == 2
    assert "holds no journal of a run" in capsys.readouterr().err
    with pytest.raises(UserError, match="holds no journal"):
        write_page(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(("given", "told"), [([], "arguments are required: FOLDER"), (["--x", "a"], "--x")])
def test_a_mistake_in_the_command_line_is_one_line(capsys, given, told):
    with pytest.raises(SystemExit) as stopped:
        command("report", given)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: report: ")
    assert told in said
    assert said.count("\n") == 1


def test_the_command_goes_on_to_folders_behind_a_mistake(tmp_path, capsys, caplog):
    first, last = (write_run(tmp_path / name, ["a"]) for name in ("first", "last"))
    blocked = write_run(tmp_path / "blocked", ["a"])
    (blocked / "report.html").mkdir()
    with pytest.raises(SystemExit):
        command("report", [str(folder) for folder in (first, tmp_path / "nowhere", blocked, last)])
    said = capsys.readouterr()
    assert said.out == f"page: {first / 'report.html'}\npage: {last / 'report.html'}\n"
    assert said.err.startswith(f"error: {tmp_path / 'nowhere' / 'journal'} holds no journal")
    assert "Is a directory" in caplog.text


def test_the_coverage_of_exact_samples_is_told_and_what_is_far_from_it_is_bad(tmp_path):
    page = write_page(write_run(tmp_path / "four", ["a", "b"], samples=4)).read_text()
    assert "cover.: share of the values of the truth between the least and the greatest of 4 samples." in page
    assert "it is (K - 1) / (K + 1) = 0.6 on average." in page
    worst = {metric["name"]: metric["worst"] for metric in index(page)["metrics"]}
    assert worst["coverage"] == pytest.approx(3 / 5)
    assert worst["residual"] == 1
    assert worst["psnr"] == "low"
    assert worst["seconds"] is None
    assert "cover." not in write_page(write_run(tmp_path / "one", ["a", "b"], samples=1)).read_text()


@pytest.mark.usefixtures("no_lpips_weights")
def test_predict_leaves_the_page_and_outlives_one_that_cannot_be_written(root, tmp_path, monkeypatch, caplog):
    prior, sampler = root / "configs/prior/mixture_toon32.yaml", root / "configs/sampler/exact_mixture.yaml"
    options = ["predict", "--config", str(root / "configs/demo/super_resolution_kinetic.yaml"), "--data.limit", "2"]
    options += ["--model.prior", str(prior), "--model.sampler", str(sampler), "--trainer.accelerator", "cpu"]
    main([*options, "--output.dir", str(tmp_path / "one"), "--model.num_samples", "2"])
    found = index((tmp_path / "one" / "report.html").read_text())
    assert found["ids"] == ["toon_000000", "toon_000001"]
    assert found["measured"] == [3 * 8 * 8] * 2
    assert "num_measured" not in (tmp_path / "one" / "per_image.csv").read_text()  # it is no metric

    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(report_page, "write_page", full)
    main([*options, "--output.dir", str(tmp_path / "two")])
    assert json.loads((tmp_path / "two" / "metrics.json").read_text())["images"] == 2
    assert "report.html could not be written" in caplog.text


def test_records_say_how_many_numbers_were_measured():
    x = torch.zeros(2, 3, 8, 8)
    operator = RandomInpainting(0.3, 0.7).realise((3, 8, 8), [torch.Generator().manual_seed(seed) for seed in (0, 1)])
    measurement = Measurement.simulate(x, operator, GaussianNoise(0.1), torch.zeros(2, 3, 8, 8))
    found = results._num_measured(Batch(["a", "b"], 0, measurement, x))
    kept = operator.forward(torch.ones_like(x)).flatten(1).sum(dim=1)
    assert found == {"a": int(kept[0]), "b": int(kept[1])}
    assert found["a"] != found["b"]


def test_how_to_cite_is_what_the_citation_file_says(root):
    told = " ".join((TEMPLATE / "page.html").read_text().split())
    for reference in yaml.safe_load((root / "CITATION.cff").read_text())["references"]:
        names = ", ".join(f"{author['given-names']} {author['family-names']}" for author in reference["authors"])
        assert f"{names}. {reference['title']}. {reference['collection-title']}, {reference['year']}." in told
        assert reference["identifiers"][0]["value"] in told


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """Of WCAG 2.2, 1 to 21."""
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_text_stands_out_from_its_ground_in_both_schemes():
    blocks = re.findall(r":root \{(.*?)\}", (TEMPLATE / "page.css").read_text(), re.DOTALL)
    assert len(blocks) == 2
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for block in blocks:
        colour = dict(re.findall(r"--(\w+): (#\w{6})", block))
        for text, ground in [
            *((t, g) for t in ("text", "quiet", "accent") for g in ("ground", "panel")),
            ("on", "accent"),
        ]:
            assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground)
        assert contrast(colour["text"], colour["warn"]) >= 4.5
        for name in ("edge", "one", "two", "three", "four", "five", "six"):  # of controls, of methods
            assert contrast(colour[name], colour["ground"]) >= 3, name


def test_the_script_stays_small_enough_to_read_and_is_the_only_one(root):
    assert len((TEMPLATE / "page.js").read_text().splitlines()) < 400
    assert [path.name for path in TEMPLATE.glob("*.js")] == ["page.js"]
    python = [*(root / "posterior").rglob("*.py"), *(root / "benchmarks").rglob("*.py")]
    assert not [path for path in python if "addEventListener" in path.read_text(encoding="utf-8")]
