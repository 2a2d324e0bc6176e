"""The journal of a run: what is complete, in append-only files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from posterior.checks import brief
from posterior.errors import UserError
from posterior.ids import natural

Record = dict[str, object]
VOID = "void"
NO_METRICS = {"id", "sample", "picked", "features", "input", "session", "num_measured", "units"}
"""Fields of a record that are no metric."""
FORMAT = 2
"""Of what a run leaves: journal, record.json, metrics.json. It changes when one of another version cannot be read."""


def check_format(found: Mapping[str, object], place: Path) -> None:
    """Refuse what another version has written in another form; version 0.2.0 wrote this one without saying so.

    Args:
        found: a session of a journal, or metrics.json.
        place: where it stands.

    Raises:
        UserError: naming both formats.
    """
    if found.get("format", FORMAT) != FORMAT:
        raise UserError(
            f"{place} has format {found['format']}, this version of the program reads format {FORMAT}: use the version "
            "that made it, or start the run again in another folder"
        )


class Journal:
    """One JSON record a line; every rank appends to a file of its own, all files are read together.

    An image is complete when its records are there, and they are written last and at once. A line cut off by a
    kill is ignored. Records have the number of the session (start of the run) that wrote them: of an image that was
    done again, those of the latest session count, and no other.

    Args:
        folder: where the files are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def append(self, records: list[Record], rank: int) -> None:
        """Add the records of whole images, safely on disk on return.

        Raises:
            OSError: if the disk is full or not writable.
        """
        self._write(self.folder / f"rank{rank}.jsonl", records)

    def _write(self, path: Path, records: list[Record]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(record) + "\n" for record in records)
        with path.open("ab+") as file:
            if file.seek(0, os.SEEK_END) > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    text = "\n" + text  # the last run was killed within a line
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def check(self) -> None:
        """Refuse records that no run has written. Lines that a kill has cut off are none.

        Raises:
            UserError: naming the file, the line, and what is wrong in it.
        """
        for path, number, line in _texts(self.folder.glob("*.jsonl")):
            if (told := _damage(line)) is not None:
                raise UserError(f"{path}, line {number}: {told}: remove that line")

    def read(self) -> list[Record]:
        """All records that count, those of an image together, in natural order of ids; none twice."""
        images: dict[str, tuple[int, dict[str, Record]]] = {}
        for record in _lines(self.folder.glob("rank*.jsonl")):
            if {"id", "sample"} <= record.keys():
                image_id, number = str(record["id"]), _number(record)
                latest, records = images.get(image_id, (number, {}))
                if number > latest:
                    latest, records = number, {}
                if number == latest:
                    records[str(record["sample"])] = record
                images[image_id] = latest, records
        ordered = sorted(images.items(), key=lambda pair: natural(pair[0]))
        return [r for _, (_, records) in ordered for r in records.values() if r["sample"] != VOID]

    def holds_anything(self) -> bool:
        """Whether there is a line of any kind."""
        return any(path.stat().st_size for path in self.folder.glob("*.jsonl"))

    def begin(self, session: Record) -> None:
        """Note that a run starts, or goes on, and with what."""
        self._write(self.folder / "sessions.jsonl", [session])

    def next_session(self) -> int:
        """The number of a session that begins now."""
        return 1 + max(map(_number, _lines(self.folder.glob("*.jsonl"))), default=0)

    def void(self, image_ids: Iterable[str], session: int) -> None:
        """Note that what is recorded of these images counts no more from this session on."""
        self.append([{"id": image_id, "sample": VOID, "session": session} for image_id in image_ids], 0)

    def sessions(self) -> list[Record]:
        """All that `begin` has noted, in order."""
        return list(_lines(self.folder.glob("sessions.jsonl")))

    def fail(self, failed: dict[str, str], rank: int) -> None:
        """Note images of this run that have no samples: id -> reason."""
        self._write(self.folder / f"failed{rank}.jsonl", [{"id": i, "reason": r} for i, r in failed.items()])

    def failed(self) -> dict[str, str]:
        """The images that failed in this run: id -> reason, in order of ids."""
        found = [r for r in _lines(self.folder.glob("failed*.jsonl")) if {"id", "reason"} <= r.keys()]
        return {str(r["id"]): str(r["reason"]) for r in sorted(found, key=lambda r: natural(str(r["id"])))}

    def forget_failures(self) -> None:
        """A new run starts: what failed before is tried again."""
        for path in self.folder.glob("failed*.jsonl"):
            path.unlink()

    def complete(self, wanted: set[str]) -> list[Record]:
        """The records of images that have all ``wanted`` ones: "0", "1", ..., "mean" and so on."""
        records = self.read()
        found: dict[object, set[str]] = {}
        for record in records:
            found.setdefault(record["id"], set()).add(str(record["sample"]))
        return [record for record in records if wanted <= found[record["id"]]]


def _texts(paths: Iterable[Path]) -> Iterator[tuple[Path, int, str]]:
    """File, number and text of each line."""
    for path in sorted(paths):
        if not path.is_file():  # reading a pipe would wait for its other end
            raise UserError(f"{path} is no file: remove it")
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            yield path, number, line


def _lines(paths: Iterable[Path]) -> Iterator[Record]:
    """The records of some files; lines that are none (cut off, or garbled by a crash) are passed over."""
    for _, _, line in _texts(paths):
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            continue
        if isinstance(record, dict):
            yield record


def _damage(line: str) -> str | None:
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


def _number(record: Record) -> int:
    number = record.get("session", 0)
    return number if isinstance(number, int) else 0
