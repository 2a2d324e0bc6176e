"""The report of a run, made from its journal: metrics.json and per_image.csv."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from posterior.errors import UserError
from posterior.files import write_whole
from posterior.metrics import RecordMeans, Summary, distances
from posterior.results.journal import FORMAT, Journal, Record, check_format


@dataclass(frozen=True)
class Session:
    """What a start of a run writes into its journal.

    Args:
        columns: metrics of each kind of sample (`RecordMeans`).
        labels: values of ``sample`` in the records of a complete image, as text.
        samples_per_image: K.
        references: feature network -> file of reference features, None for the run's truth.
        device, num_devices, versions: what the run is made with.
        left_out: files of the input folder that are no inputs, by kind.
    """

    columns: dict[str, list[str]]
    labels: set[str]
    samples_per_image: int
    references: dict[str, str | None]
    device: str
    num_devices: int
    versions: dict[str, str]
    left_out: dict[str, int] = field(default_factory=dict)

    def record(self) -> Record:
        """As a line of the journal."""
        return asdict(self) | {"labels": sorted(self.labels), "format": FORMAT}

    @classmethod
    def last(cls, journal: Journal) -> Session:
        """The latest one in a journal.

        Raises:
            UserError: if there is none that can be read, or it has another format.
        """
        try:
            found = dict(journal.sessions()[-1])
            check_format(found, journal.folder)
            for name in ("session", "format"):
                found.pop(name, None)
            labels = found.pop("labels")
            assert isinstance(labels, list)
            return cls(labels=set(labels), **found)  # type: ignore[arg-type]
        except (IndexError, KeyError, TypeError) as error:
            raise UserError(
                f"{journal.folder} holds no journal of a run (or one of an earlier version: start that run once more)"
            ) from error


def read_metrics(folder: Path) -> dict[str, Any]:
    """The metrics.json of a finished run.

    Raises:
        UserError: if there is none that can be read, or it has another format.
    """
    path = folder / "metrics.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no finished run ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{folder} holds no finished run ({path.name} is damaged)")
    check_format(found, path)
    return found


@dataclass(frozen=True)
class Report:
    """What there is to say about a run."""

    ids: set[str]
    """The complete images."""
    failed: dict[str, str]
    """Image id -> reason."""
    distances: dict[str, dict[str, float | int | str | None]]


def write_report(
    folder: Path, journal: Journal, session: Session, summary: Summary | None = None, wanted: set[str] | None = None
) -> Report:
    """Write metrics.json and per_image.csv.

    Args:
        folder: where to.
        journal: the records of all ranks.
        session: what ran.
        summary: means over the images; None: computed from the journal.
        wanted: the images that count; None: all that are complete.

    Raises:
        UserError: if a file of reference features is gone.
    """
    records = [r for r in journal.complete(session.labels) if wanted is None or r["id"] in wanted]
    if summary is None:
        means = RecordMeans(session.columns, local=True)
        means.count(records)
        summary = means.compute()
    ids = {str(record["id"]) for record in records}
    report = Report(ids, journal.failed(), distances(records, session.references))
    content = {
        "format": FORMAT,
        "images": len(ids),
        "failed": report.failed,
        "left_out": session.left_out,
        "samples_per_image": session.samples_per_image,
        "metrics": summary,
        "distances": report.distances,
        "device": session.device,
        "num_devices": session.num_devices,
        "versions": session.versions,
    }
    write_whole(folder / "metrics.json", (json.dumps(content, indent=2) + "\n").encode())
    write_whole(folder / "per_image.csv", _csv(records).encode())
    return report


def _csv(records: Iterable[Record]) -> str:
    inner = {"features", "input", "num_measured", "session", "units"}
    rows = [{k: v for k, v in record.items() if k not in inner} for record in records if record["sample"] != "truth"]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
