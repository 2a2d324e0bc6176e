"""Tables of dataclass rows, as CSV files that are read back, and the intervals in them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import numpy as np

from posterior.errors import UserError

T = TypeVar("T")


def read_rows(path: Path, kind: type[T]) -> list[T]:
    """The rows of a table written by `write_rows`; none if there is no such file.

    Raises:
        UserError: if the file has other columns, or a value that its column cannot have.
    """
    if not path.exists():
        return []
    hints = get_type_hints(kind)
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if set(reader.fieldnames or ()) != set(hints):
            raise UserError(f"{path} is a table of another kind or version: choose another place, or delete it")
        try:
            return [kind(**{name: _value(hints[name], text) for name, text in row.items()}) for row in reader]
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error


def _value(hint: Any, text: str) -> Any:
    if hint is str:
        return text
    if hint is bool:
        return text == "True"
    if hint is int:
        return int(text)
    return float(text) if text else None


def write_rows(path: Path, rows: Sequence[Any]) -> None:
    """Write dataclass instances of one kind, floats to six digits; the file appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(rows[0])])
        for row in rows:
            writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in asdict(row).values()])
    partial.replace(path)


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean of independent values and half of its 95 % interval, 1.96 standard errors (NaN for one value)."""
    half = 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return float(np.mean(values)), half


def spelt(value: tuple[float, float] | None, digits: int, sign: str = "") -> str:
    """A mean and the half width of its interval; "-" if there is none."""
    return "-" if value is None else f"{value[0]:{sign}.{digits}f} +- {value[1]:.{digits}f}"
