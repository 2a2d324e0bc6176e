"""`summarise` of journals that are damaged: the file, the line and what is wrong in it, in one line."""

from __future__ import annotations

import json

import pytest

from benchmarks.matrix.summarise import summarise
from posterior import UserError
from posterior.results.report import read_metrics
from tests.results.runs import write_run

RECORD = {"id": "b", "sample": 0, "psnr": 30.0, "session": 1}


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", ["a", "b"], samples=2)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("[" * 100_000, "nested too deeply for a record"),
        (json.dumps(RECORD)[:-1] + ', "x": ' + "[" * 100_000, "nested too deeply for a record"),
        (json.dumps(RECORD | {"psnr": None}), "psnr must be a number, got None"),
        (json.dumps(RECORD | {"psnr": [[1.0]]}), r"psnr must be a number, got \[\[1.0\]\]"),
        (json.dumps(RECORD | {"psnr": True}), "psnr must be a number, got True"),
        (json.dumps(RECORD | {"id": ["b"]}), "id, sample or features are none of a record"),
        (json.dumps(RECORD | {"sample": None}), "id, sample or features are none of a record"),
        (json.dumps(RECORD | {"features": {"inception": None}}), "id, sample or features are none of a record"),
    ],
)
def test_a_damaged_record_is_named(run, line, told):
    journal, before = run / "journal" / "rank0.jsonl", (run / "metrics.json").read_bytes()
    count = len(journal.read_text().splitlines())
    with journal.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(UserError, match=rf"^.*rank0\.jsonl, line {count + 1}: {told}: remove that line$"):
        summarise(run)
    assert (run / "metrics.json").read_bytes() == before


@pytest.mark.parametrize("line", ["null", "3", json.dumps(RECORD)[:20], "{}"])
def test_lines_that_are_no_records_are_passed_over(run, line):
    with (run / "journal" / "rank0.jsonl").open("a") as file:
        file.write(line)
    before = read_metrics(run)
    summarise(run)
    assert read_metrics(run) == before
