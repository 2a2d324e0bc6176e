"""The tables of a run, made again from its journal."""

from __future__ import annotations

import json
from pathlib import Path

from posterior.checks import brief
from posterior.errors import UserError
from posterior.results import Journal
from posterior.results.report import Session, write_report
from posterior.results.report_folder import NO_METRICS


def summarise(dir: Path) -> None:
    """Write a run's metrics.json and per_image.csv from its journal: of a run that was killed, or lost them.

    All complete images of the journal count, whatever the last run's limit.

    Args:
        dir: the run's folder.

    Raises:
        UserError: if it holds no journal, or no complete image; naming file and line, if a record is damaged.
    """
    check_lines(Path(dir) / "journal")
    journal = Journal(Path(dir) / "journal")
    session = Session.last(journal)
    if not journal.complete(session.labels):
        raise UserError(f"{dir}: no image is complete yet")
    report = write_report(Path(dir), journal, session)
    print(f"{dir}: metrics.json and per_image.csv of {len(report.ids)} complete images")


def check_lines(folder: Path) -> None:
    """Refuse records of a journal that no run has written. Lines that a kill has cut off are none.

    Raises:
        UserError: naming the file, the line, and what is wrong in it.
    """
    for path in sorted(path for path in folder.glob("*.jsonl") if path.is_file()):
        text = path.read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), start=1):
            if (told := damage(line)) is not None:
                raise UserError(f"{path}, line {number}: {told}: remove that line")


def damage(line: str) -> str | None:
    """What is wrong in a line of a journal, None if nothing is."""
    try:
        record = json.loads(line)
    except RecursionError:
        return "nested too deeply for a record"
    except ValueError:
        return None
    if not isinstance(record, dict) or not {"id", "sample"} <= record.keys():
        return None
    named = isinstance(record["id"], str) and isinstance(record["sample"], (int, str))
    features = record.get("features", {})
    if not named or not isinstance(features, dict) or not all(isinstance(one, str) for one in features.values()):
        return "id, sample or features are none of a record"
    for name, value in record.items():
        if name not in NO_METRICS and (isinstance(value, bool) or not isinstance(value, (int, float))):
            return f"{name} must be a number, got {brief(value)}"
    return None
