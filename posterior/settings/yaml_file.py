"""The one reader of YAML: plain data only, of a bounded size, each key once."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, cast

import yaml

from posterior.errors import UserError
from posterior.reading import check_file

MOST_BYTES = 4 * 2**20
MOST_NODES = 100_000
"""After aliases are written out: a few lines of them can stand for billions."""
MOST_LEVELS = 50
FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?$|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"
    r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)
"""YAML 1.2's: 1e-3 is a number (in YAML 1.1, which PyYAML follows, it is text)."""
WHOLE = re.compile(r"[-+]?[0-9]+$|0x[0-9a-fA-F]+$|0o[0-7]+$")
"""YAML 1.2's: 010 is ten and 1:30 is text (in YAML 1.1 they are 8 and 90)."""


class _Loader(yaml.SafeLoader):
    """Safe YAML without dates, with numbers as YAML 1.2 writes them, with tuples as lists, and keys that differ."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key_node.tag != "tag:yaml.org,2002:merge" and isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands there twice", key_node.start_mark)
            seen.add(key if isinstance(key, Hashable) else None)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in found if not tag.endswith((":timestamp", ":float", ":int"))]
    for letter, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789."))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", WHOLE, list("-+0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: _whole(str(node.value)))
_Loader.add_constructor(
    "tag:yaml.org,2002:python/tuple", lambda loader, node: loader.construct_sequence(cast(Any, node), deep=True)
)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file (JSON is YAML too).

    Raises:
        UserError: naming the file and the line, if it cannot be read, is not UTF-8, is no YAML, holds more than plain
            data, names a key twice, or is larger or deeper than settings are.
    """
    if check_file(path, "file of settings") > MOST_BYTES:
        raise UserError(f"file of settings {path} has more than {MOST_BYTES // 2**20} MiB, which no settings have")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "not UTF-8"
        raise UserError(f"{path} is {kind} text: save it as UTF-8") from error
    return load_yaml(text, str(path))


def load_yaml(text: str, where: str) -> Any:
    """The content of YAML text.

    Raises:
        UserError: as `read_yaml`, naming ``where``.
    """
    try:
        _check_size(text, where)
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        problem = error.problem or error.context or "no YAML"
        if "could not determine a constructor" in problem:
            problem = "only plain data is read" + problem.removeprefix("could not determine a constructor")
        raise UserError(f"{where}{place}: {_one_line(problem)}") from error
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{where} is no YAML that can be read: {_one_line(str(error))}") from error


def _whole(text: str) -> int:
    return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


def _line(event: yaml.Event) -> str:
    return "" if event.start_mark is None else f", line {event.start_mark.line + 1}"


def _check_size(text: str, where: str) -> None:
    """Refuse what is too deep, too large or infinite, before any of it is built."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    count = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                if any(anchor == event.anchor for anchor, _ in open_nodes):
                    raise UserError(f"{where}{_line(event)}: *{event.anchor} holds itself")
                continue  # the composer names an alias of nothing
            count += sizes[event.anchor]
        elif isinstance(event, yaml.NodeEvent):
            count += 1
            if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                open_nodes.append((event.anchor, count))
            elif event.anchor is not None:
                sizes[event.anchor] = 1
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = count - before + 1
        if len(open_nodes) > MOST_LEVELS:
            raise UserError(f"{where}{_line(event)}: more than {MOST_LEVELS} levels deep")
        if count > MOST_NODES:
            raise UserError(f"{where}: more than {MOST_NODES} entries (aliases written out), which no settings have")
