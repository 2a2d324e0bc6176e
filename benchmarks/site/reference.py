"""Pages of the API reference: what each package exports, by its docstrings."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.site.cards import Card

PACKAGES = {
    "posterior": "Measurements, streams of random numbers",
    "posterior.samplers": "Samplers, their schedules and steps",
    "posterior.priors": "Priors",
    "posterior.operators": "Operators",
    "posterior.noise": "Noise laws",
    "posterior.one_bit": "Signs",
    "posterior.metrics": "Metrics",
    "posterior.interop": "Objects of azula and deepinv",
    "datamodules": "Images and measurements by id",
}
"""Package or module -> title."""


def exported(root: Path, package: str) -> list[str]:
    """Names that a package exports, or public classes and functions of a module, in their order."""
    place = root.joinpath(*package.split("."))
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    body = ast.parse(file.read_text(encoding="utf-8")).body
    for statement in body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return list(ast.literal_eval(statement.value))
    defined = [one.name for one in body if isinstance(one, (ast.ClassDef, ast.FunctionDef))]
    return [name for name in defined if not name.startswith("_")]


def homes(root: Path) -> dict[str, str]:
    """Name -> the package whose page of the reference has it."""
    return {name: package for package in PACKAGES for name in exported(root, package)}


def address(package: str) -> str:
    """Of a package's page, from docs/."""
    return f"reference/{package}.md"


def page(root: Path, package: str, found: Mapping[str, Sequence[Card]]) -> str:
    """Markdown of a package's page.

    Args:
        root: of the repository.
        package: a key of `PACKAGES`.
        found: class -> cards of the gallery that show it.
    """
    parts = [f"# {PACKAGES[package]}", f"`{package}`"]
    for name in exported(root, package):
        parts.append(f"::: {package}.{name}")
        for card in found.get(name, ()):
            parts.append(f"In the gallery: [{card.title}](../{card.page}).\n\n    {card.run}")
    return "\n\n".join(parts) + "\n"
