"""The leaderboard: the judge on every sampler of a list, what distance costs, and what each makes of toon faces."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.judge.command import BUDGETS, QUICK, budget_of, contestant_of, of_settings
from benchmarks.judge.leaderboard_faces import AVERAGED
from benchmarks.judge.leaderboard_page import sentences, write_board
from benchmarks.judge.leaderboard_running import Entrant, leaderboard
from benchmarks.judge.problems import Problem, chosen
from benchmarks.judge.running import Contestant
from posterior.checks import whole
from posterior.errors import UserError
from posterior.settings import overlaid, read_settings
from posterior.settings.places import named_file
from posterior.shell import Parser
from posterior.shipped import CONFIGS, near
from posterior.terminal import say_place, say_result

LIST = CONFIGS / "truth" / "leaderboard.yaml"
CURVES = ("mixture32", "toon-inpainting")
"""Problems on which budgets are varied."""
MOST_FACES = 256
GROUPS = ("ours", "peers", "theirs")
PACKAGES = ("azula", "deepinv")
"""Whose code the samplers of `theirs` are."""
FEW = 32
"""Numbers of an image up to which samplers are tuned where nothing else is said."""
SECTIONS = ("judge", "leaderboard", "tune")
"""What may stand beside the settings of a sampler."""
LAST = "**"
"""A pattern of problems that every name fits, for settings that no other shall be laid over."""


def entrant_of(name: str, settings: Any, group: str, allow_local: bool = False) -> Entrant:
    """Of settings of a sampler or a whole experiment, with what stands beside them for judge and leaderboard.

    Under ``leaderboard`` stand settings and their values: ``schedule.init_args.num_levels: [25, 50, 100]``; of several
    settings the first values belong together, the second ones, and so on. Under ``tune`` stand in the same way those
    that are tried, which go before what the ``judge`` section has.

    Raises:
        UserError: if they are not those of a sampler, a section has another name, or settings of a budget have not the
            same number of values.
    """
    if isinstance(settings, dict) and "class_path" not in settings and isinstance(settings.get("model"), dict):
        settings = settings["model"].get("sampler")
    if not isinstance(settings, dict):
        same = of_settings(name, settings, allow_local)
        return Entrant(name, group, same, same)
    if unknown := sorted(map(str, settings.keys() - {"class_path", "init_args", *SECTIONS})):
        raise UserError(f"{name}: {unknown[0]} is no part of a sampler: class_path, init_args, {', '.join(SECTIONS)}")
    rest = {key: value for key, value in settings.items() if key not in ("leaderboard", "tune")}
    bare = {key: value for key, value in rest.items() if key != "judge"}
    if not isinstance(rest.get("init_args") or {}, dict):
        raise UserError(f"{name}: init_args: must hold settings (setting: value)")
    judged = of_settings(name, rest, allow_local)
    if not all(isinstance(pattern, str) for pattern in judged.patterns):
        raise UserError(f"{name}: judge: must hold settings by problem (pattern: {{setting: value}})")
    curve, tune = {}, {}
    for told, values in together(name, "leaderboard", settings).items():
        curve[told] = of_settings(f"{name} ({told})", overlaid(rest, {"init_args": values}), allow_local)
    for told, values in together(name, "tune", settings).items():
        changed = rest | {"judge": (rest.get("judge") or {}) | {LAST: values}}
        tune[told] = of_settings(f"{name} ({told})", changed, allow_local)
    return Entrant(name, group, judged, of_settings(name, bare, allow_local), curve, tune)


def together(name: str, section: str, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Values of a section that belong together: in words -> as ``init_args``.

    Raises:
        UserError: if a setting has no name, they are no lists, or their lengths differ.
    """
    lists = settings.get(section) or {}
    if not isinstance(lists, dict) or not all(
        isinstance(key, str) and isinstance(values, list) for key, values in lists.items()
    ):
        raise UserError(f"{name}: {section}: must hold lists of values by setting (setting: [values])")
    if len({len(values) for values in lists.values()}) > 1:
        raise UserError(f"{name}: {section}: {', '.join(lists)} must have the same number of values")
    found: dict[str, dict[str, Any]] = {}
    for values in zip(*lists.values(), strict=True):
        pairs = list(zip((key.replace(".init_args", "") for key in lists), values, strict=True))
        told = ", ".join(f"{key} {_in_words(value)}" for key, value in pairs)
        found[told] = functools.reduce(overlaid, map(nested, lists, values), {})
    return found


def _in_words(value: Any) -> str:
    if isinstance(value, dict) and isinstance(value.get("init_args", {}), dict) and "class_path" in value:
        inner = [f"{key} {_in_words(one)}" for key, one in value.get("init_args", {}).items()]
        return " ".join([str(value["class_path"]).rpartition(".")[2], *inner])
    return "null" if value is None else str(value)


def nested(place: str, value: Any) -> Any:
    """Settings in which one stands at a place: ``schedule.init_args.num_levels``."""
    first, _, rest = place.partition(".")
    return {first: nested(rest, value) if rest else value}


def listed(path: Path, allow_local: bool = False) -> list[Entrant]:
    """The samplers of a list: tables ``ours``, ``peers`` and ``theirs``, name -> settings.

    Settings may stand under ``sampler``, beside the ``judge``, ``leaderboard`` and ``tune`` that go with them here.

    Raises:
        UserError: if the file is no such list.
    """
    settings = read_settings(path)
    if not isinstance(settings, dict) or not all(isinstance(settings.get(group, {}), dict) for group in GROUPS):
        raise UserError(f"{path}: a list of samplers has the tables {', '.join(GROUPS)}, name: settings")
    unknown = sorted(settings.keys() - set(GROUPS), key=str)
    if unknown:
        raise UserError(f"{path}: {unknown[0]} is no table of a list of samplers: {', '.join(GROUPS)}")
    unnamed = [name for own in settings.values() for name in own if not isinstance(name, str)]
    if unnamed:
        raise UserError(f'{path}: {unnamed[0]} is no name of a sampler: write "{unnamed[0]}"')
    found = [
        entrant_of(name, _with_notes(own), group, allow_local)
        for group in GROUPS
        for name, own in settings.get(group, {}).items()
    ]
    return [_of_this_version(one) if one.group == "theirs" else one for one in found]


def _of_this_version(entrant: Entrant) -> Entrant:
    """One whose kept samples are of the packages that are installed."""

    def marked(one: Contestant) -> Contestant:
        return replace(one, digest=lambda problem: "-".join([one.digest(problem), *map(_version, PACKAGES)]))

    curve, tune = ({told: marked(one) for told, one in own.items()} for own in (entrant.curve, entrant.tune))
    return replace(entrant, judged=marked(entrant.judged), plain=marked(entrant.plain), curve=curve, tune=tune)


def _version(package: str) -> str:
    try:
        return f"{package}-{metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"no-{package}"


def _with_notes(settings: Any) -> Any:
    """What stands under ``sampler``, with what stands beside it."""
    if not isinstance(settings, dict) or not isinstance(settings.get("sampler"), dict):
        return settings
    return settings["sampler"] | {key: value for key, value in settings.items() if key != "sampler"}


def added(text: str, allow_local: bool = False) -> Entrant:
    """Of what stands behind ``--sampler`` (`contestant_of`).

    Raises:
        UserError: if it is none.
    """
    label, _, place = text.rpartition("=")
    path = named_file(place)
    if path is not None:
        return entrant_of(label or path.stem, read_settings(path), "peers", allow_local)
    one = contestant_of(text, allow_local)
    return Entrant(one.name, "peers", one, one)


def leaderboard_command(arguments: Sequence[str]) -> None:
    """Read the command line, run, write leaderboard.md, leaderboard.html and leaderboard.json."""
    parser = Parser(
        prog="posterior-sampling leaderboard",
        description="Which sampler is right, from y alone, and at what cost: every one of a list, and your own.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--sampler",
        action="append",
        default=[],
        metavar="[NAME=]WHAT",
        help="joins those of the list: a class, a file of settings, or a plain function; may be given again",
    )
    parser.add_argument("--list", default=str(LIST), help="a file of samplers (truth/leaderboard)")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="of the list, these alone; may be given again (all)"
    )
    parser.add_argument("--output", type=Path, default=Path("results/leaderboard"), help="folder (results/leaderboard)")
    parser.add_argument("--budget", default="quick", help=f"of the judge: {', '.join(BUDGETS)} (quick)")
    parser.add_argument("--problems", action="append", default=[], help="as those of judge (six)")
    parser.add_argument("--seed", type=int, default=0, help="of measurements and samples (0)")
    parser.add_argument("--device", default="cpu", help="where samplers run (cpu)")
    parser.add_argument(
        "--curves", default=",".join(CURVES), help=f"problems of the picture, or false ({', '.join(CURVES)})"
    )
    parser.add_argument(
        "--tune",
        metavar="PROBLEMS",
        help=f"those on which settings are chosen for each sampler, or false (those of at most {FEW} numbers)",
    )
    parser.add_argument("--faces", type=int, default=32, help="toon faces a task, a sample each; 0: none (32)")
    parser.add_argument("--mean-faces", type=int, default=8, help=f"toon faces a task with {AVERAGED} samples each (8)")
    parser.add_argument("--allow-local", action="store_true", help="files may name classes that are not installed")
    options = parser.parse_args(list(arguments))
    whole("leaderboard", "seed", options.seed, 0, 2**63)
    whole("leaderboard", "faces", options.faces, 0, MOST_FACES)
    whole("leaderboard", "mean-faces", options.mean_faces, 0, MOST_FACES)
    budget, entrants = budget_of(options.budget), _asked(options)
    problems = chosen(_names("--problems", options.problems) or QUICK, options.allow_local)
    drawn = [] if options.curves == "false" else _names("--curves", [options.curves])
    curves = chosen(drawn, options.allow_local, "--curves") if drawn else []
    board = leaderboard(
        entrants,
        problems,
        budget,
        options.seed,
        options.output,
        options.device,
        curves,
        options.faces,
        options.mean_faces,
        tune=_tuned(options.tune, problems),
    )
    write_board(options.output, board, problems)
    say_result("\n".join(sentences(board)))
    say_place(f"leaderboard: {options.output / 'leaderboard.html'}")
    if all(one.failure is not None for found in board.found.values() for one in found):
        sys.exit(2)


def _asked(options: argparse.Namespace) -> list[Entrant]:
    """Those of the list that are wanted, and those that join."""
    path = named_file(options.list)
    if path is None:
        raise UserError(f"--list: the file of samplers {options.list} does not exist{near(options.list)}")
    entrants, wanted = listed(path, options.allow_local), _names("--only", options.only)
    names = [one.name for one in entrants]
    for name in wanted:
        if name not in names:
            raise UserError(f"--only: {path} has no sampler {name!r}; it has {', '.join(names)}")
    kept = [one for one in entrants if not wanted or one.name in wanted]
    return [*kept, *(added(text, options.allow_local) for text in options.sampler)]


def _tuned(wanted: str | None, problems: Sequence[Problem]) -> list[Problem]:
    """Those of the problems that ``--tune`` names.

    Raises:
        UserError: if it names another.
    """
    if wanted is None:
        return [one for one in problems if one.dimension <= FEW]
    names, there = [] if wanted == "false" else _names("--tune", [wanted]), [one.name for one in problems]
    for name in names:
        if name not in there:
            raise UserError(f"--tune: {name!r} is none of the problems that are judged: {', '.join(there)}")
    return [one for one in problems if one.name in names]


def _names(option: str, texts: Sequence[str]) -> list[str]:
    """Those that texts have with commas between them.

    Raises:
        UserError: if a text has none.
    """
    found = [[name.strip() for name in text.split(",") if name.strip()] for text in texts]
    if not all(found):
        raise UserError(f"{option} names nothing")
    return [name for names in found for name in names]
