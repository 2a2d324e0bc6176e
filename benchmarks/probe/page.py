"""What a probe leaves: probe.json, probe.md, probe.png, score_sigma.yaml."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.probe.measures import Estimate, Measured
from benchmarks.probe.verdict import Verdict, trusted
from benchmarks.tools.html import figure_png, pipes
from benchmarks.tools.tables import spelt
from posterior.files import write_whole
from posterior.results.table import fitted

Rows = list[list[str]]
SHOWN_FAULTS = 4
"""Of the known faults, those that come nearest to an improvement."""
FRAGMENT = "score_sigma.yaml"


def tables(measured: Measured) -> dict[str, Rows]:
    """Heading -> head and rows."""
    nearest = sorted(measured.gains.items(), key=lambda item: item[1].value)[:SHOWN_FAULTS]
    safe = measured.safety
    return {
        "Errors": [
            ["sigma", "error", "linear", "ratio", "bias %", "drift %"],
            *(
                [
                    f"{one.sigma:.3g}",
                    f"{one.rmse.value:.4f}",
                    f"{one.linear:.4f}",
                    spelt(one.against_linear, 2),
                    *(spelt(percent(value), 1) for value in (one.bias, one.drift)),
                ]
                for one in measured.levels
            ),
        ],
        "Faults undone": [
            ["fault", "change of log mean squared error"],
            *([name, spelt(gain, 2, "+")] for name, gain in nearest),
        ],
        "Jacobian": [
            ["sigma", "asymmetry", "smallest eigenvalue", "largest"],
            *(
                [f"{one.sigma:.3g}", *(spelt(value, 2) for value in (one.asymmetry, one.smallest, one.largest))]
                for one in measured.jacobians
            ),
        ],
        "Langevin chains": [
            ["sigma", "bias %", "taken away", "distance", "trusted"],
            *(
                [
                    f"{one.sigma:.3g}",
                    spelt(percent(one.bias), 1),
                    *(spelt(value, 2) for value in (one.removed, one.distance)),
                    "yes" if trusted(one) else "no",
                ]
                for one in measured.chains
            ),
        ],
        "Computation": [
            ["", "found"],
            ["levels that are not finite", str(len(safe.not_finite))],
            ["numbers out of range", f"{safe.beyond:.1%}"],
            ["alone or in a batch", f"{safe.alone:.1e}"],
            ["called again", f"{safe.again:.1e}"],
            ["a sigma for each row", f"{safe.by_row:.1e}"],
            *(
                [f"{name} adds", "- (no network)" if added is None else f"{added:.2%}"]
                for name, added in safe.low_precision.items()
            ),
        ],
    }


def percent(found: Estimate) -> Estimate:
    """In per cent."""
    return Estimate(100 * found.value, 100 * found.error)


def about(measured: Measured) -> str:
    """How much was measured."""
    sizes = measured.sizes
    return (
        f"{sizes.judged} images judged, {sizes.followed} of them followed by chains of {sizes.steps} steps; the linear "
        f"denoiser (stationary covariance around the mean image) was fitted to {measured.fitted} others. "
        "+- is half of a 95 % interval over images."
    )


def as_text(name: str, measured: Measured, verdict: Verdict) -> str:
    """The tables and the verdict for a terminal of 80 columns."""
    parts = [f"{heading}\n{fitted(rows)}" for heading, rows in tables(measured).items() if len(rows) > 1]
    told = [f"{name}: {verdict.sentence}.", *(f"- {other}" for other in verdict.others)]
    return "\n\n".join([*parts, "\n".join(told)])


def as_markdown(name: str, measured: Measured, verdict: Verdict) -> str:
    """The same as a page."""
    lines = [f"# {name}", "", f"{verdict.sentence}.", "", *(f"- {other}" for other in verdict.others), ""]
    lines += [about(measured), "", "![Errors, bias and drift, Jacobian, chains](probe.png)", ""]
    for heading, rows in tables(measured).items():
        if len(rows) > 1:
            lines += [f"## {heading}", "", *pipes(rows), ""]
    return "\n".join(lines)


def plain(value: Any) -> Any:
    """A value as JSON has it: estimates with their names, what is not finite as null."""
    if isinstance(value, Estimate):
        return {"value": plain(value.value), "error": plain(value.error)}
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def fragment(verdict: Verdict) -> str:
    """Settings for a sampler that walks under the score, to be laid over an experiment's."""
    settings = {"model": {"sampler": {"init_args": {"score_sigma": float(f"{verdict.score_sigma:.2g}")}}}}
    return f"# --config EXPERIMENT --config {FRAGMENT}\n{yaml.safe_dump(settings, sort_keys=False)}"


def write_page(folder: Path, name: str, measured: Measured, verdict: Verdict) -> None:
    """Write the files; there is no fragment if no level can be recommended.

    Raises:
        OSError: if they cannot be written.
    """
    found = {"prior": name, "verdict": plain(verdict), "measured": plain(measured)}
    write_whole(folder / "probe.json", (json.dumps(found, indent=1, allow_nan=False) + "\n").encode())
    write_whole(folder / "probe.md", as_markdown(name, measured, verdict).encode())
    write_whole(folder / "probe.png", picture(name, measured))
    if verdict.score_sigma is None:
        (folder / FRAGMENT).unlink(missing_ok=True)
    else:
        write_whole(folder / FRAGMENT, fragment(verdict).encode())


def picture(name: str, measured: Measured) -> bytes:
    """Four panels as PNG: errors; bias and drift; Jacobian; chains."""
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    errors, identities, jacobian, chains = figure.subplots(2, 2).flat
    figure.suptitle(name)
    sigmas = [one.sigma for one in measured.levels]
    errors.plot(sigmas, sigmas, ":", color="grey", label="identity")
    errors.plot(sigmas, [one.linear for one in measured.levels], "--", color="grey", label="linear denoiser")
    _bars(errors, sigmas, [one.rmse for one in measured.levels], "prior")
    errors.set(yscale="log", title="root mean squared error of D")
    _bars(identities, sigmas, [percent(one.bias) for one in measured.levels], "bias of what is taken away")
    _bars(identities, sigmas, [percent(one.drift) for one in measured.levels], "drift to the next level")
    identities.axhline(0, color="grey", linestyle="--")
    identities.set(title="identities, 0 for an exact denoiser [%]")
    places = [one.sigma for one in measured.jacobians]
    _bars(jacobian, places, [one.largest for one in measured.jacobians], "largest eigenvalue")
    _bars(jacobian, places, [one.smallest for one in measured.jacobians], "smallest eigenvalue")
    _bars(jacobian, places, [one.asymmetry for one in measured.jacobians], "asymmetry")
    jacobian.axhline(0, color="grey", linestyle="--")
    jacobian.set(title="dD/dx: symmetric and >= 0 for an exact denoiser")
    places = [one.sigma for one in measured.chains]
    _bars(chains, places, [one.removed for one in measured.chains], "taken away")
    _bars(chains, places, [one.distance for one in measured.chains], "distance to the images")
    chains.axhline(1, color="grey", linestyle="--")
    chains.set(title="Langevin chains, end over start: 1 where they stay put")
    for axes in (errors, identities, jacobian, chains):
        axes.set(xscale="log", xlabel="sigma")
        axes.legend(fontsize="small")
    return figure_png(figure)


def _bars(axes: Axes, places: Sequence[float], values: Sequence[Estimate], label: str) -> None:
    axes.errorbar(places, [v.value for v in values], [v.error for v in values], fmt="o-", capsize=2, ms=4, label=label)
