"""Settings held against the signatures of the classes that they name, with complaints in the user's words."""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import inspect
import json
import os
import sys
import types
import typing
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from posterior.errors import UserError
from posterior.settings.classes import import_class, known_classes, named_classes, path_of, refuse_local
from posterior.settings.overlay import PARTS, Given, Whole, read_settings
from posterior.settings.places import SUFFIXES, Beside, named_file
from posterior.settings.yaml_file import load_yaml
from posterior.shipped import near

MOST_DIGITS = 400
WRITTEN = {"output", "trainer"}
"""Parts of a run's settings whose paths are of what it writes: they start from the working directory, always."""
NOTES = {"judge"}
"""What may stand beside a class for another command: settings that a sampler has where it is judged."""
LISTS = (list, tuple, set, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


class Mismatch(Exception):
    """A value that is not of a type; the text says what was expected instead. Not for the user's eyes as it is."""


@dataclasses.dataclass(frozen=True)
class Conformer:
    """Checks values against types, and turns text of the command line into what it stands for.

    Args:
        allow_local: whether classes may come from files that are not installed.
    """

    allow_local: bool = False

    def parameters(self, settings: Any, function: Callable[..., Any], key: str, made_by: Any = None) -> dict[str, Any]:
        """The arguments of a function or constructor, each of its type.

        Args:
            settings: name -> value.
            function: whose signature counts; if its first parameter is ``self``, that is no setting.
            key: where the settings stand.
            made_by: the class, if it is a constructor.

        Raises:
            UserError: naming what is missing, unknown or of another type.
        """
        who = getattr(function, "__qualname__", str(function)).removesuffix(".__init__")
        if isinstance(settings, Given) and settings in ("null", "{}"):
            settings = None
        if settings is None:
            settings = {}
        if not isinstance(settings, dict):
            raise UserError(f"{key}: expected settings of {who} (key: value), got {_told(settings)}")
        hints = hints_of(function, made_by)
        known = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
        open_ended = any(p.kind is p.VAR_KEYWORD for p in known)
        names = [p.name for p in known if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        for name in settings:
            if name not in names and not open_ended:
                raise UserError(f"{_dotted(key, name)}: {who} has no such setting{_near(name, names)}")
        found = {}
        for parameter in known:
            if parameter.name in settings:
                place = _dotted(key, parameter.name)
                found[parameter.name] = self.value(settings[parameter.name], hints.get(parameter.name, Any), place)
            elif parameter.default is parameter.empty and parameter.name in names:
                raise UserError(f"{_dotted(key, parameter.name)} is missing: {who} needs it")
        return found | {name: plain(value) for name, value in settings.items() if name not in found}

    def value(self, value: Any, hint: Any, key: str) -> Any:
        """A value of one setting.

        Raises:
            UserError: saying what the setting takes, and what it got.
        """
        try:
            return self._conformed(value, hint, key)
        except Mismatch as error:
            raise UserError(f"{key}: expected {error}, got {_told(value)}") from error

    def _conformed(self, value: Any, hint: Any, key: str) -> Any:
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if hint is Any or hint is inspect.Parameter.empty or isinstance(hint, (str, typing.TypeVar)):
            return self._anything(value, key)
        if origin in (typing.Union, types.UnionType):
            return self._one_of(value, arguments, key)
        if origin is typing.Annotated:
            return self._conformed(value, arguments[0], key)
        if origin is typing.Literal:
            return _literal(value, arguments, key)
        if hint is None or hint is types.NoneType:
            if value is None or (isinstance(value, Given) and value == "null"):
                return None
            raise Mismatch("null")
        if hint in SCALARS:
            return SCALARS[hint](value, key)
        if origin in LISTS or hint in LISTS:
            return self._list(value, origin or hint, arguments, key)
        if origin in MAPPINGS or hint in MAPPINGS:
            value = _parsed(value, key)
            if not isinstance(value, dict):
                raise Mismatch("a mapping (key: value)")
            inner = arguments[1] if len(arguments) == 2 else Any
            return {str(name): self.value(item, inner, f"{key}.{name}") for name, item in value.items()}
        if origin is Callable and isinstance(value, str):
            return self._function(value, key)
        if isinstance(hint, type):
            return self._class(value, hint, key)
        return self._anything(value, key)

    def _function(self, path: str, key: str) -> str:
        """The path of a function, or of a class whose objects are called."""
        refuse_local(path, key, self.allow_local)
        full, found = import_class(path, None, key)
        if not callable(found):
            raise UserError(f"{key}: {full} is no function")
        return full

    def _anything(self, value: Any, key: str) -> Any:
        """A value of a type that is not known here, such as a function: what it would import is looked at first."""
        for place, path in named_classes(value, key):
            refuse_local(path, place, self.allow_local)
        return plain(_parsed(value, key))

    def _one_of(self, value: Any, hints: tuple[Any, ...], key: str) -> Any:
        """The first type that takes the value; text comes last, as everything on a command line is text."""
        wanted: list[str] = []
        if value is None and types.NoneType not in hints:
            raise Mismatch(" or ".join(dict.fromkeys(words(hint) for hint in hints)))
        looks_like_class = isinstance(value, dict) or (isinstance(value, str) and "." in value)
        for hint in sorted(hints, key=_rank):
            if isinstance(hint, type) and hint not in SCALARS and hint not in (*LISTS, *MAPPINGS, types.NoneType):
                if not looks_like_class and str in hints:
                    continue
                if isinstance(value, (dict, str)) and str not in hints:
                    return self._class(value, hint, key)
            try:
                return self._conformed(value, hint, key)
            except Mismatch as error:
                wanted.append(str(error))
        raise Mismatch(" or ".join(dict.fromkeys(w for w in wanted if w != "null")) or "null")

    def _list(self, value: Any, kind: Any, arguments: tuple[Any, ...], key: str) -> Any:
        value = _parsed(value, key)
        if isinstance(value, (str, bytes, dict)) or not isinstance(value, (list, tuple)):
            inner = words(arguments[0]) if arguments else "values"
            raise Mismatch(f"a list ([{inner}, ...])")
        if kind is tuple and arguments and arguments[-1] is not Ellipsis:
            if len(value) != len(arguments):
                raise Mismatch(f"a list of {len(arguments)} values")
            inner_hints = list(arguments)
        else:
            inner_hints = [arguments[0] if arguments else Any] * len(value)
        return [
            self.value(item, inner, f"{key}[{number}]")
            for number, (item, inner) in enumerate(zip(value, inner_hints, strict=True))
        ]

    def _class(self, value: Any, base: type, key: str) -> Any:
        """Settings of a class: class_path and init_args, complete and checked."""
        if dataclasses.is_dataclass(value) or isinstance(value, base):
            return value
        if isinstance(value, str) and value not in ("", "null"):
            value = {"class_path": value}
        if not isinstance(value, dict):
            raise Mismatch(words(base))
        if not value.keys() & PARTS and not inspect.isabstract(base):
            return self.parameters(value, _constructor(base), key, base)
        if "class_path" not in value:
            raise UserError(f"{key}: class_path is missing: which {words(base)}?{_choices(base)}")
        unknown = set(map(str, value)) - PARTS - NOTES
        if unknown:
            name = sorted(unknown)[0]
            raise UserError(f"{key}: {name!r} stands beside class_path; settings of a class belong into init_args")
        path = value["class_path"]
        if not isinstance(path, str) or not path:
            raise UserError(f"{key}.class_path: expected the path of a class, got {_told(path)}")
        if path.endswith(SUFFIXES) or "/" in path:
            raise UserError(f"{key}: the file of settings {path} does not exist{near(path)}")
        refuse_local(path, key, self.allow_local)
        full, cls = import_class(path, base, key)
        made = cls if isinstance(cls, type) else _returned(cls)
        if not (isinstance(made, type) and issubclass(made, base)):
            raise UserError(f"{key}: {full} is no {base.__name__}{_choices(base)}")
        if inspect.isabstract(cls):
            raise UserError(f"{key}: {full} is a base class, name one of its kind{_choices(cls)}")
        if value.get("dict_kwargs"):
            raise UserError(f"{key}.dict_kwargs: settings of a class belong into init_args")
        own = self.parameters(value.get("init_args"), _constructor(cls), f"{key}.init_args", cls)
        return {"class_path": full} | ({"init_args": own} if own else {})


def conformed(settings: dict[str, Any], parts: dict[str, Any], allow_local: bool = False) -> dict[str, Any]:
    """Settings of a run, held against what each part takes.

    Args:
        settings: part -> its settings.
        parts: part -> a function whose parameters they are, or a type that they have to be of.
        allow_local: whether classes may come from files that are not installed.

    Returns:
        The same in plain values; text that stood on the command line is what it stands for, and paths of classes are
        whole.

    Raises:
        UserError: naming the first setting that is missing, unknown or of another type, what it takes and what it got.
    """
    conformer = Conformer(allow_local)
    for name in settings:
        if name not in parts:
            raise UserError(f"{name}: there is no such setting{_near(name, list(parts))}")
    found: dict[str, Any] = {}
    for name, part in parts.items():
        function = inspect.isfunction(part)
        if name in settings or function:
            value = settings.get(name, {})
            found[name] = conformer.parameters(value, part, name) if function else conformer.value(value, part, name)
        elif inspect.isclass(part) and inspect.isabstract(part):
            raise UserError(f"{name} is missing: {words(part)} is needed{_choices(part)}")
    return found


def with_files_read(arguments: Sequence[str], function: Callable[..., Any]) -> list[str]:
    """A command line for a function, with what files of settings hold in place of their names.

    Only where a parameter is of a class: one that is a path, or text, gets what it got.

    Args:
        arguments: ``--name VALUE`` or ``--name=VALUE``, among others.
        function: whose parameters are set.

    Raises:
        UserError: if a file cannot be read, or holds no settings of the class.
    """
    hints = {name: hint for name, hint in hints_of(function).items() if _is_class(hint)}
    found: list[str] = []
    for word in arguments:
        option, equals, value = word.partition("=")
        name = (option if equals else found[-1] if found else "").removeprefix("--")
        text = value if equals else word
        if name in hints and text[:1] not in ("{", "["):
            if (file := named_file(text)) is not None:
                settings = Conformer(allow_local=True).value(read_settings(file), hints[name], name)
                word = f"{option}=" * bool(equals) + json.dumps(settings)
            elif text.endswith(SUFFIXES) or "/" in text:
                raise UserError(f"{name}: the file of settings {text} does not exist{near(text)}")
        found.append(word)
    return found


def _is_class(hint: Any) -> bool:
    """Whether a type is a class that settings make, or None."""
    kinds = [kind for kind in typing.get_args(hint) or (hint,) if kind is not types.NoneType]
    return all(isinstance(kind, type) and kind not in (*SCALARS, *LISTS, *MAPPINGS) for kind in kinds)


def _rank(hint: Any) -> int:
    """Order in which the types of a union are tried: what a word can only be if it is meant comes first."""
    if hint in (str, Path):
        return 2
    return 0 if hint in SCALARS or hint in (None, types.NoneType) or typing.get_origin(hint) is typing.Literal else 1


def plain(value: Any) -> Any:
    """Without the marks of where it stood."""
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, str) else value


def _parsed(value: Any, key: str) -> Any:
    """What text of a command line stands for, where any value will do."""
    return load_yaml(value, key) if isinstance(value, Given) and value.strip() else value


def _number(value: Any, key: str) -> Any:
    """A number, also one that stands as text."""
    if isinstance(value, str) and value.strip():
        if len(value) > MOST_DIGITS:
            raise Mismatch("a number")
        try:
            value = load_yaml(value, key)
        except UserError as error:
            raise Mismatch("a number") from error
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Mismatch("a number")
    return value


def _whole(value: Any, key: str) -> int:
    try:
        number = _number(value, key)
    except Mismatch as error:
        raise Mismatch("a whole number") from error
    if not isinstance(number, int) or number.bit_length() > 64:
        raise Mismatch("a whole number" + (" of at most 64 bits" if isinstance(number, int) else ""))
    return number


def _real(value: Any, key: str) -> float:
    number = _number(value, key)
    try:
        return float(number)
    except OverflowError as error:
        raise Mismatch("a number that fits into 64 bits") from error


def _truth(value: Any, key: str) -> bool:
    if isinstance(value, str):
        try:
            value = load_yaml(value, key)
        except UserError as error:
            raise Mismatch("true or false") from error
    if not isinstance(value, bool):
        raise Mismatch("true or false")
    return value


def _text(value: Any, key: str) -> str:
    if isinstance(value, Whole) and value.source is not None:
        return value.source
    if not isinstance(value, str):
        raise Mismatch("text")
    return str(value)


def _path(value: Any, key: str) -> str:
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    try:
        text = _text(text, key)
    except Mismatch as error:
        raise Mismatch("a path") from error
    if not text.strip() or "\0" in text or "\n" in text:
        raise Mismatch("a path")
    if isinstance(value, (Beside, Whole)) and value.path is not None and key.partition(".")[0] not in WRITTEN:
        if os.path.exists(text) and not os.path.samefile(text, value.path):
            warnings.warn(f"{key}: {text} is there twice: {value.path} is taken, which its file means", stacklevel=2)
        return value.path
    return text


SCALARS: dict[Any, Callable[[Any, str], Any]] = {bool: _truth, int: _whole, float: _real, str: _text, Path: _path}
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}


def _literal(value: Any, choices: tuple[Any, ...], key: str) -> Any:
    for choice in choices:
        if type(choice) in SCALARS:
            try:
                if SCALARS[type(choice)](value, key) == choice and isinstance(value, bool) == isinstance(choice, bool):
                    return choice
            except (Mismatch, UserError):
                continue
    shown = ", ".join(map(str, choices))
    raise Mismatch(f"one of {shown}{_near(str(value), [str(choice) for choice in choices])}")


def words(hint: Any) -> str:
    """A type as a user would say it."""
    if hint in WORDS:
        return WORDS[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(words(one) for one in arguments if one is not types.NoneType))
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in LISTS or hint in LISTS:
        return f"a list ([{words(arguments[0]) if arguments else 'values'}, ...])"
    if hint is types.NoneType:
        return "null"
    if isinstance(hint, type):
        return f"a {hint.__name__} (class_path and init_args)"
    return "another value"


def hints_of(function: Callable[..., Any], made_by: Any = None) -> dict[str, Any]:
    """Types of a function's parameters and of what it returns; Any for what cannot be told.

    Args:
        function: whose.
        made_by: the class, if it is its constructor: that of a dataclass has annotations of several modules.
    """
    found: dict[str, Any] = {}
    if dataclasses.is_dataclass(made_by) and isinstance(made_by, type):
        for base in reversed(made_by.__mro__):
            names = vars(sys.modules[base.__module__])
            found |= {name: _type(text, names) for name, text in vars(base).get("__annotations__", {}).items()}
    function = inspect.unwrap(function)
    names = getattr(function, "__globals__", {})
    own = getattr(function, "__annotations__", {})
    return {name: _type(text, names) for name, text in own.items()} | found


def _type(annotation: Any, names: dict[str, Any]) -> Any:
    """What an annotation means, which may be text."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, dict(names))  # as `typing.get_type_hints` does, but name by name
    except Exception:  # a stranger's annotations; jsonargparse has the last word
        return Any


def _constructor(made_by: Any) -> Callable[..., Any]:
    return made_by.__init__ if isinstance(made_by, type) else made_by  # type: ignore[misc]


def _returned(function: Any) -> Any:
    if not callable(function):
        return None
    found = hints_of(function).get("return")
    return getattr(function, "__self__", None) if found is typing.Self else found


def _choices(base: type) -> str:
    found = known_classes(base)
    if not found and not inspect.isabstract(base):
        found = [path_of(base)]
    return f"; there are {', '.join(found[:14])}{', ...' if len(found) > 14 else ''}" if found else ""


def _near(name: Any, names: list[str]) -> str:
    near = difflib.get_close_matches(str(name), names, n=1)
    if near:
        return f": did you mean {near[0]}?"
    return f"; it has {', '.join(names)}" if 0 < len(names) <= 12 else ""


def _dotted(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)


def _told(value: Any) -> str:
    """A value in a few words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        short = value if len(value) <= 60 else f"{value[:57]}..."
        return f"the text {short!r}" if value else "an empty text"
    if isinstance(value, dict):
        return f"the mapping {{{', '.join(map(str, list(value)[:4]))}}}" if value else "an empty mapping"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of about {int(value.bit_length() * 0.30103)} digits"
    return repr(value)[:60]
