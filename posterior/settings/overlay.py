"""Settings laid over settings: files that name files, and what the command line says on top."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from posterior.errors import UserError
from posterior.hub import hub_settings, on_hub
from posterior.settings.places import SUFFIXES, beside, config_file, named_file, placed, real, start_of
from posterior.settings.yaml_file import MOST_LEVELS, load_yaml, read_yaml
from posterior.shipped import near

PARTS = {"class_path", "init_args", "dict_kwargs"}


class Given(str):
    """Text that stands on the command line: read by the type of its setting, and by whom it names."""


class Whole(dict[str, Any]):
    """Settings that stand in a file of their own, or start anew: laid over others they replace them.

    `source` is what named the file, for a setting that wants text; `path` where it is, for one that wants a path.
    """

    source: str | None = None
    path: str | None = None


def overlaid(below: Any, above: Any) -> Any:
    """Settings laid over others, mapping by mapping; where the class changes nothing of the one below is kept."""
    if isinstance(below, dict) and "class_path" in below and isinstance(above, str) and above != "null":
        return below | {"class_path": above} if below["class_path"] == above else {"class_path": above}
    if not isinstance(below, dict) or not isinstance(above, dict) or isinstance(above, Whole):
        return above
    if below.get("class_path", above.get("class_path")) != above.get("class_path", below.get("class_path")):
        return above
    if "class_path" in below and not above.keys() & PARTS:  # --model.sampler.scale 0.3, without init_args
        above = {"init_args": above}
    return below | {key: overlaid(below[key], value) if key in below else value for key, value in above.items()}


def read_settings(path: Path, inside: Sequence[Path] = ()) -> Any:
    """A YAML file with the files that it names read in.

    A value that names a file of settings (`named_file`: relative to the file that says so, in the working directory, or
    one that ships) is replaced by its content; ``from`` beside other keys is such a file with those keys laid over it.
    Other text that is the path of something there, relative to the file, is marked so (`Beside`). The path
    ``hf://owner/name`` stands for the settings of that prior.

    Raises:
        UserError: if one is missing or cannot be read, or files name each other in a circle.
    """
    if on_hub(path):
        return hub_settings(path)
    if real(path) in inside or len(inside) > MOST_LEVELS:
        raise UserError(f"{path} names files of settings that lead back to itself")
    return _resolved(read_yaml(path), start_of(path), (*inside, real(path)))


def _resolved(value: Any, folder: Path, inside: Sequence[Path]) -> Any:
    if isinstance(value, str):
        file = named_file(value, folder)
        if file is not None:
            return _content(value, file, inside)
        if value.endswith(SUFFIXES):
            told = near(value)
            raise UserError(f"{inside[-1]}: the file of settings {value} is not there (relative to this one){told}")
        return beside(value, folder)
    if isinstance(value, list):
        return [_resolved(item, folder, inside) for item in value]
    if isinstance(value, dict):
        own = {key: _resolved(item, folder, inside) for key, item in value.items() if key != "from"}
        if "from" not in value:
            return own
        base = _resolved(value["from"], folder, inside)
        if not isinstance(base, dict):
            raise UserError(f"{inside[-1]}: from: {value['from']!r} is no file of settings beside it")
        return Whole(overlaid(dict(base), own))
    return value


def _content(text: str, file: Path, inside: Sequence[Path] = ()) -> Any:
    """What a file of settings holds that some text names."""
    content = read_settings(file, inside)
    if not isinstance(content, dict):
        return content
    whole = Whole(content)
    whole.source = text
    whole.path = None if file == Path(text) else placed(file)
    return whole


def read_command_line(arguments: Sequence[str]) -> tuple[dict[str, Any], set[str]]:
    """Options as settings, each laid over those before it.

    ``--config F`` is a file of settings (`config_file`); ``--a.b.c VALUE`` (or ``=VALUE``) one setting;
    ``--a.b+ VALUE`` one more entry of a list; `SHORT` has other names of settings. A value may name a file of settings
    (`named_file`), or be YAML in brackets.

    Returns:
        The settings, what the command line says itself as `Given`, and the flags that have no value (`FLAGS`).

    Raises:
        UserError: naming the option that cannot be understood, or the file.
    """
    settings: dict[str, Any] = {}
    flags: set[str] = set()
    for option, value in _options(arguments):
        if option in FLAGS:
            if value is not None:
                raise UserError(f"{option} takes no value, got {value!r}")
            flags.add(option)
        elif value is None:
            raise UserError(f"{option} needs a value")
        elif option in ("-c", "--config"):
            content = read_settings(config_file(value))
            if not isinstance(content, dict):
                raise UserError(f"{value} must be a mapping (key: value), it holds {_told(content)}")
            settings = overlaid(settings, dict(content))
        else:
            settings = _with(settings, SHORT.get(option, option), value)
    return settings, flags


SHORT = {"--calls": "--model.sampler.calls"}
"""Option -> the setting that it stands for."""
FLAGS = {"--allow-local", "--print_config", "--debug", "--quiet"}


def _told(value: Any) -> str:
    return "nothing" if value is None else f"a {'list' if isinstance(value, list) else 'single value'}"


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word in ("-", "--"):
            raise UserError(f"{word!r} stands where an option is expected (--config FILE, --key VALUE)")
        option, equals, value = word.partition("=")
        if equals:
            yield option, value
        elif option in FLAGS or not rest or (rest[0].startswith("--") and len(rest[0]) > 2):
            yield option, None
        else:
            yield option, rest.pop(0)


def _with(settings: dict[str, Any], option: str, text: str) -> dict[str, Any]:
    """Settings with one option laid over them."""
    keys = option.removeprefix("--").split(".")
    append = keys[-1].endswith("+")
    keys[-1] = keys[-1].removesuffix("+")
    if not option.startswith("--") or not all(keys) or len(keys) > MOST_LEVELS:
        raise UserError(f"{option} is no option (--config FILE, --key VALUE)")
    value = _value(text, option)
    below: Any = settings
    if append:
        for key in keys:
            below = below.get(key, (below.get("init_args") or {}).get(key, {})) if isinstance(below, dict) else {}
        value = [*(below if isinstance(below, list) else []), *(value if isinstance(value, list) else [value])]
    return _nested(settings, keys, value)


def _nested(below: Any, keys: Sequence[str], value: Any) -> Any:
    """One value at dotted keys, laid over what is there; ``init_args`` may be left out."""
    if not keys:
        return overlaid(below, value)
    own = dict(below) if isinstance(below, dict) else {"class_path": below} if isinstance(below, str) and below else {}
    key, *rest = keys
    if "class_path" in own and key not in PARTS:
        return own | {"init_args": _nested(own.get("init_args") or {}, keys, value)}
    if key == "class_path" and not rest:  # another class starts from its own defaults
        return overlaid(own, value) if "class_path" in own else own | {"class_path": value}
    return own | {key: _nested(own.get(key), rest, value)}


def _value(text: str, option: str) -> Any:
    """A command line's text: a file of settings, a list or mapping in brackets, or plain text."""
    if text.lstrip()[:1] in ("[", "{"):
        return _given(load_yaml(text, option))
    file = named_file(text)
    return Given(text) if file is None else _content(text, file)


def _given(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _given(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_given(item) for item in value]
    return Given(value) if isinstance(value, str) else value
