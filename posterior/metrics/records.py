"""Means of a run's records, by kind of sample and by metric."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from posterior.metrics.base import MeanOverImages

Summary = dict[str, dict[str, dict[str, float | int | None]]]
"""Kind -> metric -> mean, sem, count."""


class RecordMeans(nn.Module):
    """A `MeanOverImages` for each metric of each kind of sample.

    Args:
        columns: names of the metrics of each kind: "sample" (samples 0, 1, ... of an image are averaged first), "mean",
            "best", "oracle".
        local: `compute` is of this process alone, and no collective.
    """

    def __init__(self, columns: Mapping[str, Sequence[str]], local: bool = False) -> None:
        super().__init__()
        self.means = {kind: {name: MeanOverImages(local) for name in names} for kind, names in columns.items()}
        self._modules_of_means = nn.ModuleList([mean for means in self.means.values() for mean in means.values()])

    @property
    def columns(self) -> dict[str, list[str]]:
        """Kind -> names of its metrics."""
        return {kind: list(means) for kind, means in self.means.items()}

    def reset(self) -> None:
        """Forget everything."""
        for means in self.means.values():
            for mean in means.values():
                mean.reset()

    def count(self, records: Iterable[Mapping[str, object]]) -> None:
        """Add whole images' records, each a dictionary with ``id``, ``sample`` and metric values."""
        groups: dict[tuple[str, object, str], list[float]] = defaultdict(list)
        for record in records:
            kind = "sample" if isinstance(record["sample"], int) else str(record["sample"])
            for name in self.means.get(kind, ()):
                if name in record:
                    groups[kind, record["id"], name].append(float(str(record[name])))
        images: dict[tuple[str, str], list[float]] = defaultdict(list)
        for (kind, _, name), values in groups.items():
            images[kind, name].append(sum(values) / len(values))
        for (kind, name), values in images.items():
            self.means[kind][name].update(torch.tensor(values))

    def compute(self) -> Summary:
        """Means over all ranks' images; collective."""
        return {kind: {name: mean.compute() for name, mean in means.items()} for kind, means in self.means.items()}
