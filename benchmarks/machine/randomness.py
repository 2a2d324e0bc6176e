"""Are the random numbers standard normal and independent? Goodness of fit at length, with p-values."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.stats
import torch
from torch import Tensor

from posterior.files import write_whole
from posterior.random import Streams

HIGHEST = 8
"""Order of the last moment."""
TAIL = 5.0
LAGS = (1, 2, 3, 4, 7, 16, 64)
BINS = 100
BLOCK = 1_000_000
"""Numbers at once."""


def randomness(count: int = 100_000_000, seed: int = 0, output: Path = Path("results/randomness")) -> None:
    """Test the normal numbers of `posterior.random`: moments, tails, histogram, correlations.

    Of ``count`` numbers of one stream, draw by draw: moments to order 8, the share beyond 5 standard deviations, a
    histogram in 100 cells of equal probability (chi squared), correlations at seven lags, and of neighbours across
    draws. Of a hundredth as many: correlations of streams whose names differ in one place (image, sample, purpose,
    seed). Each has a two-sided p-value under independent standard normal numbers; they are one more test together,
    of the least of them (Bonferroni).

    Args:
        count: numbers, at least a million.
        seed: of the streams.
        output: folder for randomness.md.
    """
    rows = [*of_one_stream(count, seed), *across_streams(max(BLOCK, count // 100), seed)]
    least = min(p for _, _, p in rows)
    rows.append(("least of all, by Bonferroni", f"{least:.2g}", min(1.0, least * len(rows))))
    table = "\n".join(f"| {name} | {found} | {p:.3g} |" for name, found, p in rows)
    text = f"{count:,} numbers, seed {seed}.\n\n| test | statistic | p |\n| --- | --- | --- |\n{table}\n"
    write_whole(Path(output) / "randomness.md", text.encode())
    print(text)


def of_one_stream(count: int, seed: int) -> Iterator[tuple[str, str, float]]:
    """(test, statistic, p) of the numbers of one stream."""
    rng, blocks = Streams(seed, ["a"]), max(1, count // BLOCK)
    powers, beyond = np.zeros(HIGHEST + 1), 0
    histogram = np.zeros(BINS)
    edges = scipy.stats.norm.ppf(np.arange(1, BINS) / BINS)
    lagged = dict.fromkeys(LAGS, 0.0)
    across, before = 0.0, None
    for number in range(blocks):
        x = rng.randn("p", (BLOCK,))[0].double().numpy()
        powers += [np.sum(x**order) for order in range(HIGHEST + 1)]
        beyond += int(np.sum(np.abs(x) > TAIL))
        histogram += np.bincount(np.searchsorted(edges, x), minlength=BINS)
        for lag in LAGS:
            lagged[lag] += float(x[lag:] @ x[:-lag])
        across += 0.0 if before is None else float(x @ before)
        before = x
        if number % 20 == 19:
            print(f"{number + 1} of {blocks} million", file=sys.stderr, flush=True)
    total = blocks * BLOCK
    for order in range(1, HIGHEST + 1):
        mean, square = _moment(order), _moment(2 * order)
        z = (powers[order] / total - mean) / math.sqrt((square - mean**2) / total)
        yield f"moment {order}", f"{powers[order] / total:.6g} ({mean:g})", _two_sided(z)
    expected = total * 2 * scipy.stats.norm.sf(TAIL)
    p = 2 * min(scipy.stats.poisson.cdf(beyond, expected), scipy.stats.poisson.sf(beyond - 1, expected))
    yield f"beyond {TAIL:g} standard deviations", f"{beyond} ({expected:.1f})", min(1.0, float(p))
    chi2 = float(np.sum((histogram - total / BINS) ** 2) / (total / BINS))
    yield f"histogram of {BINS} cells", f"{chi2:.1f} ({BINS - 1})", _around(scipy.stats.chi2(BINS - 1), chi2)
    for lag, product in lagged.items():
        z = product / math.sqrt(blocks * (BLOCK - lag))
        yield f"correlation at lag {lag}", f"{product / total:.2g}", _two_sided(z)
    if blocks > 1:
        yield "same place in the next draw", f"{across / total:.2g}", _two_sided(across / math.sqrt(total - BLOCK))


def across_streams(count: int, seed: int) -> Iterator[tuple[str, str, float]]:
    """(test, statistic, p) of streams whose names differ in one place."""
    base = Streams(seed, ["a"]).randn("p", (count,))[0].double()
    others: dict[str, Tensor] = {
        "another image": Streams(seed, ["b"]).randn("p", (count,))[0],
        "the next sample": Streams(seed, ["a"], samples=[1]).randn("p", (count,))[0],
        "another purpose": Streams(seed, ["a"]).randn("q", (count,))[0],
        "the next seed": Streams(seed + 1, ["a"]).randn("p", (count,))[0],
    }
    for name, other in others.items():
        product = float(base @ other.double())
        yield f"correlation with {name}", f"{product / count:.2g}", _two_sided(product / math.sqrt(count))
        squares = float((base.square() - 1) @ (other.double().square() - 1))
        yield f"of squares with {name}", f"{squares / count:.2g}", _two_sided(squares / (2 * math.sqrt(count)))
    rows = Streams(seed, [str(number) for number in range(1000)]).randn("rows", (max(10, count // 1000),)).double()
    z = float((rows[1:] * rows[:-1]).sum()) / math.sqrt(rows[1:].numel())
    yield "neighbouring rows of a thousand", f"{z:.2f} sd", _two_sided(z)
    firsts = torch.cat([Streams(seed, [f"image {n}"]).randn("p", (2,)) for n in range(20_000)]).flatten().double()
    yield (
        "first numbers of 20,000 streams (Kolmogorov-Smirnov)",
        f"{scipy.stats.kstest(firsts.numpy(), 'norm').statistic:.2g}",
        float(scipy.stats.kstest(firsts.numpy(), "norm").pvalue),
    )


def _moment(order: int) -> float:
    """Of a standard normal number."""
    return 0.0 if order % 2 else float(math.prod(range(1, order, 2)))


def _two_sided(z: float) -> float:
    return float(2 * scipy.stats.norm.sf(abs(z)))


def _around(law: scipy.stats.rv_continuous, value: float) -> float:
    return float(2 * min(law.cdf(value), law.sf(value)))
