"""The tables of a run, made again from its journal."""

from __future__ import annotations

from pathlib import Path

from posterior.errors import UserError
from posterior.results import Journal
from posterior.results.report import Session, write_report


def summarise(dir: Path) -> None:
    """Write a run's metrics.json and per_image.csv from its journal: of a run that was killed, or lost them.

    All complete images of the journal count, whatever the last run's limit.

    Args:
        dir: the run's folder.

    Raises:
        UserError: if it holds no journal, or no complete image; naming file and line, if a record is damaged.
    """
    journal = Journal(Path(dir) / "journal")
    journal.check()
    session = Session.last(journal)
    if not journal.complete(session.labels):
        raise UserError(f"{dir}: no image is complete yet")
    report = write_report(Path(dir), journal, session)
    print(f"{dir}: metrics.json and per_image.csv of {len(report.ids)} complete images")
