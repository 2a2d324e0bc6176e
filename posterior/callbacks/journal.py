"""The journal of a run: what is complete, in append-only files."""

from __future__ import annotations

import json
import os
from pathlib import Path

Record = dict[str, object]


class Journal:
    """One JSON record a line; every rank appends to a file of its own, all files are read together.

    An image is complete when its records are there, and they are written last and at once. A line cut off by a
    kill is ignored.

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
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"rank{rank}.jsonl"
        text = "".join(json.dumps(record) + "\n" for record in records)
        with path.open("ab+") as file:
            if file.seek(0, os.SEEK_END) > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    text = "\n" + text  # the last run was killed within a line
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[Record]:
        """All records, those of an image together, ordered by image id; an image recorded twice counts once."""
        images: dict[str, dict[str, Record]] = {}
        for path in sorted(self.folder.glob("rank*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:
                    continue
                images.setdefault(record["id"], {})[str(record["sample"])] = record
        return [record for _, records in sorted(images.items()) for record in records.values()]

    def complete(self, num_samples: int) -> list[Record]:
        """The records of images that have all of ``num_samples`` samples (and their mean's, if there are several)."""
        records = self.read()
        wanted = {*map(str, range(num_samples)), *(["mean"] if num_samples > 1 else [])}
        found: dict[object, set[str]] = {}
        for record in records:
            found.setdefault(record["id"], set()).add(str(record["sample"]))
        return [record for record in records if wanted <= found[record["id"]]]
