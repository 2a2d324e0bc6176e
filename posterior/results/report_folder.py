"""What the page of a run shows, read from the run's folder alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from posterior.errors import UserError
from posterior.ids import fault, natural
from posterior.metrics import RecordMeans, Summary
from posterior.results.journal import NO_METRICS, Journal, Record
from posterior.results.pictures import STD_SMOOTHING, picture_names
from posterior.results.report import Session, read_metrics

MAIN = "sample_000.png"
"""The picture that stands for an image."""


@dataclass(frozen=True)
class Picture:
    """A picture of an image, on disk."""

    name: str
    label: str
    path: Path


@dataclass(frozen=True)
class Image:
    """One image of a run.

    Args:
        id: of the image, which leads to no other place (`posterior.ids.fault`).
        run: the run's folder.
        records: value of ``sample`` in the journal, as text -> record; none, if the image is not complete.
    """

    id: str
    run: Path
    records: Mapping[str, Record]

    @property
    def folder(self) -> Path:
        """Of its pictures."""
        return self.run / "images" / self.id

    def values(self, metric: str) -> list[float]:
        """Of the samples 0, 1, ..., where the metric is known."""
        records = (record for label, record in self.records.items() if label.isdecimal())
        return [float(str(record[metric])) for record in records if metric in record]

    def value(self, metric: str) -> tuple[float, float, float] | None:
        """Mean, least and greatest over the samples (of their mean alone: this, three times); None: not known."""
        values = self.values(metric)
        if not values and metric in (mean := self.records.get("mean", {})):
            values = [float(str(mean[metric]))]
        return (math.fsum(values) / len(values), min(values), max(values)) if values else None

    @property
    def num_measured(self) -> int | None:
        """Real numbers in y, if the run has noted it."""
        found = (record.get("num_measured") for record in self.records.values())
        return next((m for m in found if isinstance(m, int)), None)

    def pictures(self, num_samples: int) -> Iterator[Picture]:
        """Those that are there, in the order of grid.png; complex ones with their phase behind them."""
        for name, label in picture_labels(num_samples).items():
            path = self.folder / f"{name}.png"
            if path.is_file():
                yield Picture(name, label, path)


def picture_labels(num_samples: int) -> dict[str, str]:
    """Names of the pictures that an image may have -> what they show."""
    labels = picture_names(num_samples, _All(), num_samples)
    labels["std"] = f"standard deviation of {num_samples}, smoothed by {STD_SMOOTHING:g} pixel"
    own = {name: label for name, label in labels.items() if name not in ("best", "oracle")}  # these are samples already
    return {
        f"{name}{end}": label + told for name, label in own.items() for end, told in (("", ""), ("_phase", ", phase"))
    }


class _All:
    def __contains__(self, name: object) -> bool:
        return True


@dataclass(frozen=True)
class Run:
    """What a folder tells of its run.

    Args:
        folder: the run's.
        session: of the latest start.
        settings: config.yaml as text, empty if it is not there.
        images: the complete ones in natural order of ids, then those that were only begun.
        num_complete: how many are complete.
        failed: image id -> reason.
        summary: means over complete images.
        notice: why this may not be all, in words; None: the run has come to its end.
    """

    folder: Path
    session: Session
    settings: str
    images: list[Image]
    num_complete: int
    failed: dict[str, str]
    summary: Summary
    notice: str | None

    @property
    def metrics(self) -> list[str]:
        """Names of those that are known, in the order of the table."""
        return list(dict.fromkeys(name for kind in ("sample", "mean") for name in self.summary.get(kind, ())))

    def config(self) -> Any:
        """config.yaml as data; None, if it cannot be read."""
        try:
            return yaml.safe_load(self.settings)
        except Exception:  # of a damaged file yaml raises what it likes: ValueError, RecursionError, IndexError
            return None

    def sentence(self) -> str:
        """Task, prior, sampler, images, calls and time."""
        config = self.config()
        data, model = at(config, "data", "init_args"), at(config, "model")
        cost = {name: found["mean"] for name, found in self.summary.get("sample", {}).items()}
        count, samples = self.num_complete, self.session.samples_per_image
        text = f"{count} image{'' if count == 1 else 's'}"
        if operator := class_in_words(at(data, "operator")):
            text += f", measured by {operator}"
        if likelihood := class_in_words(at(data, "likelihood")):
            text += f" with {likelihood}"
        text += f"; {samples} sample{'' if samples == 1 else 's'} of each"
        if sampler := class_in_words(at(model, "sampler"), settings=False):
            text += f" by {sampler}"
        if prior := class_in_words(at(model, "prior"), settings=False):
            checkpoint = at(model, "prior", "init_args", "checkpoint")
            text += f" under {prior}" + (f" ({Path(checkpoint).name})" if isinstance(checkpoint, str) else "")
        if {"nfe_forward", "nfe_backward", "seconds"} <= cost.keys():
            text += f": {cost['nfe_forward']:.4g} network calls forward and {cost['nfe_backward']:.4g} backward, "
            text += f"{cost['seconds']:.3g} s a sample on {self.session.device}"
        return text + "."


def at(tree: Any, *keys: str) -> Any:
    """What stands below keys within one another, None where nothing does."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def class_in_words(tree: Any, settings: bool = True) -> str | None:
    """A class of a configuration in words: its name, and its settings that are a number or a word."""
    path = at(tree, "class_path")
    if not isinstance(path, str):
        return None
    given = at(tree, "init_args") if settings else None
    given = given if isinstance(given, dict) else {}
    told = [f"{key} {value}" for key, value in given.items() if isinstance(value, (int, float, str))]
    parts = path.split(".")  # a class may be followed by a constructor of its own
    first = next((place for place, part in enumerate(parts) if part[:1].isupper()), len(parts) - 1)
    return ".".join(parts[first:]) + (f" ({', '.join(told)})" if told else "")


def read_run(folder: Path) -> Run:
    """All that a folder holds, of a run that is finished, at work, or was killed.

    Raises:
        UserError: if it holds no journal of a run, or one of another format.
    """
    journal = Journal(folder / "journal")
    session = Session.last(journal)
    by_image: dict[str, dict[str, Record]] = {}
    for record in journal.complete(session.labels):
        by_image.setdefault(str(record["id"]), {})[str(record["sample"])] = _numeric(record)
    by_image = {image_id: found for image_id, found in by_image.items() if fault(image_id) is None}
    records = [record for found in by_image.values() for record in found.values()]
    complete = [Image(image_id, folder, found) for image_id, found in by_image.items()]
    notice = _unfinished(folder, len(complete))
    begun = [] if notice is None else [Image(i, folder, {}) for i in _begun(folder) if i not in by_image]
    if begun:
        notice = f"{notice} {len(begun)} more were begun: their pictures are here, their numbers are not."
    kinds = {"sample" if isinstance(record["sample"], int) else str(record["sample"]) for record in records}
    there = {name for record in records for name in record}
    means = RecordMeans(
        {kind: [n for n in names if n in there] for kind, names in session.columns.items() if kind in kinds}, local=True
    )
    means.count(records)
    try:
        settings = (folder / "config.yaml").read_text(encoding="utf-8", errors="replace")
    except OSError:
        settings = ""
    return Run(folder, session, settings, complete + begun, len(complete), journal.failed(), means.compute(), notice)


def _numeric(record: Record) -> Record:
    """A record without metrics that are no number: a damaged line costs its value alone."""
    return {
        name: value
        for name, value in record.items()
        if name in NO_METRICS or (isinstance(value, (int, float)) and not isinstance(value, bool))
    }


def _unfinished(folder: Path, complete: int) -> str | None:
    """Why a run has not come to its end, or None."""
    if not (folder / "metrics.json").exists():
        return f"This run has not come to its end. {complete} images are complete."
    try:
        counted = read_metrics(folder)["images"]
    except (UserError, KeyError, RecursionError):
        return f"metrics.json cannot be read. {complete} images are complete."
    if counted != complete:
        return f"metrics.json counts {counted} images, {complete} are complete here."
    return None


def _begun(folder: Path) -> list[str]:
    """Ids of images with pictures."""
    found = {path.parent for path in (folder / "images").rglob("measurement.png")}
    ids = (path.relative_to(folder / "images").as_posix() for path in found)
    return sorted((image_id for image_id in ids if fault(image_id) is None), key=natural)
