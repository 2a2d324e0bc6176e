"""Ways to spoil a configuration, a command line or a file; what is drawn depends on the given random numbers alone."""

from __future__ import annotations

import collections
import collections.abc
import copy
import dataclasses
import importlib
import inspect
import json
import os
import random
import struct
import typing
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml

from datamodules import TrainingImages
from posterior.callbacks import ResultWriter, TrainingWriter
from posterior.module import PosteriorSampling
from posterior.training import DenoisingTraining

Place = tuple[str | int, ...]
DIGITS = "@5000 digits@"
"""Stands for a number of 5,000 digits until the file is written: Python refuses to print one."""
ABSENT = "@absent@"
"""A value that takes the key away."""


@dataclass(frozen=True)
class Setting:
    """One that a file has or could have.

    Args:
        place: its keys, from the top.
        kind: number, bool, text, path, list, class or class_path.
    """

    place: Place
    kind: str

    @property
    def name(self) -> str:
        """With dots."""
        return ".".join(map(str, self.place))


@dataclass
class Mutation:
    """What is done to a run.

    Args:
        kind: for the table.
        told: for people.
        text: the configuration's file.
        options: what is appended to the command.
        command: replaces the whole command, or None.
        place: the setting that is changed, if one is.
        value: its new value.
    """

    kind: str
    told: str
    text: bytes
    options: list[str] = field(default_factory=list)
    command: list[str] | None = None
    place: Place = ()
    value: Any = None


def settings(config: dict[str, Any], training: bool) -> list[Setting]:
    """All settings of a run, also those at their defaults, from the signatures of what it is made of."""
    parts: dict[str, Any] = {"model": PosteriorSampling, "output": ResultWriter, "trainer": pl.Trainer}
    if training:
        parts = {"model": DenoisingTraining, "output": TrainingWriter, "trainer": pl.Trainer, "data": TrainingImages}
    found = [Setting((name,), "class") for name in ("model", "data", "output", "trainer")]
    found.append(Setting(("seed_everything",), "number"))
    for name, part in parts.items():
        found += _of_signature(part, config.get(name, {}), (name,))
    if not training:
        found += _of_value(config["data"], ("data",))
    return found


def _of_signature(part: Any, given: dict[str, Any], place: Place) -> Iterator[Setting]:
    typed = part if dataclasses.is_dataclass(part) else part.__init__ if inspect.isclass(part) else part
    hints = typing.get_type_hints(typed)
    for name, parameter in inspect.signature(part).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        inner = (*place, name)
        yield Setting(inner, _kind(hints.get(name), given.get(name)))
        yield from _of_value(given.get(name), inner, hints.get(name))


def _of_value(value: Any, place: Place, hint: Any = None) -> Iterator[Setting]:
    """The settings within a value."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield Setting((*place, index), _kind(None, item))
            yield from _of_value(item, (*place, index))
    elif isinstance(value, dict) and "class_path" in value:
        yield Setting((*place, "class_path"), "class_path")
        yield Setting((*place, "init_args"), "class")
        part = located(value["class_path"])
        yield from _of_signature(part, value.get("init_args", {}), (*place, "init_args"))
    elif isinstance(value, dict):
        for part in (hint, *typing.get_args(hint)):
            if inspect.isclass(part) and part is not type(None):
                yield from _of_signature(part, value, place)


def located(path: str) -> Any:
    """The class or class method of a dotted path."""
    module = path
    rest: list[str] = []
    while True:
        module, _, last = module.rpartition(".")
        rest.insert(0, last)
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        for name in rest:
            found = getattr(found, name)
        return found


def _kind(hint: Any, value: Any) -> str:
    parts = set(typing.get_args(hint)) or {hint}
    if isinstance(value, dict) and "class_path" in value:
        return "class"
    if typing.get_origin(hint) in (list, collections.abc.Sequence) or isinstance(value, list):
        return "list"
    if Path in parts or (str in parts and isinstance(value, str) and "/" in value):
        return "path"
    if bool in parts or isinstance(value, bool):
        return "bool"
    if parts & {int, float} or isinstance(value, (int, float)):
        return "number"
    if any(typing.get_origin(part) not in (None, typing.Literal) for part in parts):
        return "list"
    if str in parts or isinstance(value, str) or any(isinstance(part, str) for part in parts):
        return "text"
    return "class" if any(inspect.isclass(part) and part is not type(None) for part in parts) else "text"


WRONG = [None, "", [], {}, "abc", [1, 2], {"a": 1}, True, 3]
VALUES: dict[str, dict[str, list[Any]]] = {
    "number": {
        "out of range": [0, -1, float("nan"), float("inf"), -float("inf"), 1e308, 1e-320, 0.5, -1e308, 2],
        "huge": [10**9, 10**18, DIGITS, 2**31, 2**63, -(10**18)],
    },
    "bool": {"out of range": ["yes", "abc", 2, float("nan"), "null"]},
    "text": {"out of range": ["x" * 10_000, "nul\0byte", "line\nbreak", "..", "é\u202e", "null", "1e3", "%s{0}"]},
    "list": {
        "out of range": [[None], ["abc"], [[]], [[1, 2], [3]], [float("nan")], [0], [-1, -1, -1], [1e308] * 3, [True]],
        "huge": [[10**9] * 3, [10**18] * 3, [0.1] * 100_000, [DIGITS]],
    },
    "class": {
        "out of range": [{"init_args": {}}, {"class_path": None}, {"class_path": "posterior.priors.UNet", "x": 1}]
    },
}
STRANGE = "strange"
"""Folder of files that are none; see `strange_files`."""
PATHS = {
    "missing file": [f"{STRANGE}/missing", f"{STRANGE}/missing.npy", f"{STRANGE}/missing/deeper.zip"],
    "folder for file": [STRANGE, ".", "/"],
    "file for folder": [f"{STRANGE}/text", f"{STRANGE}/empty", f"{STRANGE}/text.zip", f"{STRANGE}/text.npy"],
    "no regular file": [*(f"{STRANGE}/{name}" for name in ("fifo", "fifo.npy", "zero", "full", "null", "zero.npy"))],
    "link": [f"{STRANGE}/loop", f"{STRANGE}/dangling", f"{STRANGE}/loop/x"],
    "odd path": ["", "~nosuchuser/x", "~", "x" * 300, "x/" * 3000, "nul\0byte", "é\udcff", "http://localhost/x", " "],
}
CLASSES: dict[str, list[Any]] = {
    "unknown class": ["posterior.priors.Unknwon", "Nothing", "posterior.samplers.dps", "datamodules.ImageFoldr"],
    "class of another kind": [
        *("posterior.noise.GaussianNoise", "posterior.samplers.DPS", "datamodules.ImageFolder", "torch.nn.Linear"),
        *("posterior.priors.UNet", "posterior.operators.SuperResolution", "pathlib.Path"),
    ],
    "no module": ["nowhere.at.all", "posterior.nowhere.X", "lightning_cli.nothing.X"],
    "odd class_path": [
        *("os.system", "posterior", "", "a..b", 3, None, ".", "builtins.eval", [], {}, "posterior.priors.", "a b"),
        *("x" * 5000, "posterior.priors.UNet.forward", "datamodules.base.MeasuredData", "posterior.UserError"),
    ],
}


def strange_files(folder: Path) -> None:
    """Make what `PATHS` names: a FIFO, devices (as links), a loop of links, folders, files of no use."""
    folder.mkdir()
    for name in ("text", "text.zip", "text.npy"):
        (folder / name).write_text("this is no picture\n", encoding="utf-8")
    (folder / "empty").touch()
    for name in ("fifo", "fifo.npy"):
        os.mkfifo(folder / name)
    for name, target in [
        ("zero", "/dev/zero"),
        ("zero.npy", "/dev/zero"),
        ("full", "/dev/full"),
        ("null", "/dev/null"),
    ]:
        (folder / name).symlink_to(target)
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nothing")


def changed_value(setting: Setting, rng: random.Random) -> tuple[str, Any]:
    """A kind of mutation, and a value for a setting."""
    choices: dict[str, list[Any]] = {"wrong type": WRONG, "missing": [ABSENT]}
    if setting.kind == "class_path":
        choices = {**CLASSES, "missing": [ABSENT]}
    elif setting.kind == "path":
        choices |= PATHS
    else:
        choices |= VALUES[setting.kind]
    if setting.kind == "class":
        choices |= CLASSES | {"class of another kind": [{"class_path": c} for c in CLASSES["class of another kind"]]}
    choices["other kind"] = [value for values in VALUES.values() for some in values.values() for value in some]
    choices["unknown key"] = [None]
    kind = rng.choice(sorted(choices))
    value = rng.choice(choices[kind])
    written = setting.place[0] == "output" or setting.place[-1] == "default_root_dir"
    return kind, "inputs" if written and value == "/" else value  # nothing is to be written there


def with_value(config: Any, place: Place, value: Any) -> Any:
    """A copy with another value at a place; ABSENT takes it away."""
    config = copy.deepcopy(config)
    *parents, last = place
    inner = config
    for key in parents:
        inner = inner.setdefault(key, {}) if isinstance(inner, dict) else inner[key]
    if value is not ABSENT:
        inner[last] = value
    elif isinstance(inner, dict):
        inner.pop(last, None)
    else:
        del inner[last]
    return config


def has(config: Any, place: Place) -> bool:
    """Whether there is a value at a place."""
    for key in place:
        if not (key in config if isinstance(config, dict) else isinstance(config, list) and key in range(len(config))):
            return False
        config = config[key]
    return True


def misspelt(name: str, rng: random.Random) -> str:
    """A name with two neighbouring letters swapped, one doubled or one lost."""
    at = rng.randrange(max(1, len(name) - 1))
    ways = [name[:at] + name[at + 1 : at + 2] + name[at] + name[at + 2 :], name[:at] + name[at:] + name[-1:]]
    return rng.choice([way for way in [*ways, name[:at] + name[at + 1 :]] if way not in (name, "")] or [name + "x"])


def dumped(config: Any) -> bytes:
    """As YAML."""
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100_000)
    return text.replace(f"'{DIGITS}'", "7" * 5000).encode(errors="surrogateescape")


def several_processes(place: Sequence[str | int], value: Any) -> bool:
    """Whether a value is right and makes a run launch others: they are the faults' subject, not a forked case's."""
    return place[-1] == "devices" and isinstance(value, (int, float)) and 1 < value < 100


def spoilt_setting(config: dict[str, Any], training: bool, rng: random.Random) -> Mutation:
    """Another value for one setting."""
    places = collections.defaultdict(list)
    for one in settings(config, training):
        places[tuple(key for key in one.place if isinstance(key, str))].append(one)
    setting = rng.choice(places[rng.choice(sorted(places))])  # the items of a list count together
    kind, value = changed_value(setting, rng)
    while (value is ABSENT and not has(config, setting.place)) or several_processes(setting.place, value):
        kind, value = changed_value(setting, rng)
    place = setting.place
    if kind == "unknown key":
        place, value = (*place[:-1], misspelt(str(place[-1]), rng)), rng.choice([1, "abc", None, {}])
        if isinstance(setting.place[-1], int):
            place, value = setting.place, {"unknown": 1}
    told = f"{'.'.join(map(str, place))} = {_short(value)}"
    return Mutation(kind, told, dumped(with_value(config, place, value)), place=place, value=value)


def spoilt_text(config: dict[str, Any], rng: random.Random) -> Mutation:
    """Another file altogether."""
    text = dumped(config)
    lines = text.splitlines(keepends=True)
    at, line = rng.randrange(1, len(text)), rng.randrange(len(lines))
    deep = 10_000
    bomb = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
        b"%c: &%c [%s]\n" % (c, c, b", ".join([b"*%c" % (c - 1)] * 9)) for c in range(ord("b"), ord("k"))
    )
    ways: dict[str, Callable[[], bytes]] = {
        "UTF-16": lambda: text.decode().encode("utf-16"),
        "byte order mark": lambda: b"\xef\xbb\xbf" + text,
        "Latin-1": lambda: text[:at] + b"\xe9\xfc" + text[at:],
        "NUL bytes": lambda: text[:at] + b"\0\0" + text[at:],
        "recursive": lambda: text + b"seed_everything: &a [*a]\n",
        "recursive mapping": lambda: b"model: &a {prior: *a}\n" + text,
        "bomb of aliases": lambda: bomb + text.replace(b"devices: 1", b"devices: *j"),
        "deep lists": lambda: text + b"seed_everything: " + b"[" * deep + b"]" * deep + b"\n",
        "deep mappings": lambda: text + b"seed_everything: " + b"{a: " * deep + b"1" + b"}" * deep + b"\n",
        "tabs": lambda: text.replace(b"  ", b"\t", rng.randrange(1, 5)),
        "duplicate key": lambda: b"".join([*lines[: line + 1], *lines[line:]]),
        "section twice": lambda: text + b"output:\n  dir: other\n",
        "truncated": lambda: text[:at],
        "binary": lambda: rng.randbytes(1000),
        "empty": lambda: b"",
        "comment only": lambda: b"# nothing\n",
        "list at the top": lambda: b"- " + text.replace(b"\n", b"\n  "),
        "scalar at the top": lambda: b"just words\n",
        "two documents": lambda: text + b"---\n" + text,
        "python tag": lambda: text + b"seed_everything: !!python/object/apply:os.system ['touch hacked']\n",
        "unknown tag": lambda: text + b"seed_everything: !nothing 3\n",
        "bit flip": lambda: flipped(text, rng, 1),
        "line lost": lambda: b"".join(lines[:line] + lines[line + 1 :]),
        "indented": lambda: b"".join([*lines[:line], b" " + lines[line], *lines[line + 1 :]]),
        "JSON": lambda: json.dumps(config).encode(),
        "huge number": lambda: text + b"seed_everything: " + b"7" * 5000 + b"\n",
        "timestamp": lambda: text + b"seed_everything: 2001-99-99\n",
        "key of no text": lambda: (
            text + rng.choice([b"3: 4\n", b"null: 1\n", b"[1, 2]: 3\n", b"? {a: b}\n: 1\n", b"1.5: x\n"])
        ),
        "merge key": lambda: text + b"<<: 3\n",
        "quote left open": lambda: text[:at] + b'"' + text[at:],
    }
    kind = rng.choice(sorted(ways))
    return Mutation(f"file: {kind}", f"{kind} (at {at}, line {line + 1})", ways[kind]())


def spoilt_command(config: dict[str, Any], subcommand: str, training: bool, rng: random.Random) -> Mutation:
    """Another command line."""
    setting = rng.choice([s for s in settings(config, training) if all(isinstance(key, str) for key in s.place)])
    _, value = changed_value(setting, rng)
    text = "null" if value in (None, ABSENT) else value if isinstance(value, str) else json.dumps(value)
    text = text.replace(DIGITS, "7" * 5000).replace("\0", "")
    ways: dict[str, Callable[[], Mutation]] = {
        "value": lambda: Mutation("", "", b"", [f"--{setting.name}={text}"], place=setting.place, value=value),
        "value apart": lambda: Mutation("", "", b"", [f"--{setting.name}", text], place=setting.place, value=value),
        "missing value": lambda: Mutation("", "", b"", [f"--{setting.name}"]),
        "unknown option": lambda: Mutation("", "", b"", [f"--{misspelt(setting.name, rng)}=1"]),
        "short option": lambda: Mutation("", "", b"", [rng.choice(["-x", "-", "--", "---", "-1", "--=", "--.=1"])]),
        "repeated option": lambda: Mutation("", "", b"", ["--output.dir", "out", "--output.dir=out", "--output.dir="]),
        "repeated config": lambda: Mutation("", "", b"", ["--config", "config.yaml", "--config", rng.choice(odd)]),
        "no config": lambda: Mutation("", "", b"", command=[subcommand, "--config", rng.choice(odd)]),
        "junk": lambda: Mutation(
            "", "", b"", [rng.choice(["junk", "predict", "", "=", "a=b", "config.yaml", "é\udcff"])]
        ),
        "unknown command": lambda: Mutation(
            "", "", b"", command=[rng.choice(["predit", "validate", "", "-v", "--foo"])]
        ),
        "no command": lambda: Mutation(
            "", "", b"", command=rng.choice([[], [subcommand], ["--config", "config.yaml"]])
        ),
        "check": lambda: Mutation(
            "", "", b"", command=["check", *rng.choice([["config.yaml"], [rng.choice(odd)], []])]
        ),
        "help": lambda: Mutation("", "", b"", [rng.choice(["--help", "--print_config", f"--{setting.name}.help"])]),
        "append": lambda: Mutation("", "", b"", [f"--{setting.name}+={text}"], place=setting.place, value=value),
        "inner key": lambda: Mutation("", "", b"", [f"--{setting.name}.inner=3"], place=setting.place, value={}),
        "DPS files": lambda: Mutation("", "", b"", [f"--dps.{rng.choice(dps)}", rng.choice(odd)]),
    }
    odd = [path for paths in PATHS.values() for path in paths if "\0" not in path] + ["inputs", "config.yaml"]
    dps = ["model_config", "diffusion_config", "task_config", "save_dir", "save_dirr"]
    kind = rng.choice([*sorted(ways), *(["value", "value apart"] * 5)])
    found = ways[kind]()
    words = found.options if found.command is None else found.command
    found.kind, found.told, found.text = f"command: {kind}", _short(" ".join(words)), dumped(config)
    return found


def spoilt_tree(config: dict[str, Any], rng: random.Random) -> Mutation:
    """Another value anywhere in a mapping of which no signatures are known (a matrix's file)."""
    places = list(_places(config, ()))
    place = rng.choice(places)
    kind = rng.choice(["wrong type", "missing", "unknown key", "out of range", "path", "class"])
    if kind == "missing":
        value: Any = ABSENT
    elif kind == "unknown key":
        place, value = (*place[:-1], misspelt(str(place[-1]), rng)), rng.choice([1, "abc", None, {}])
        if isinstance(place[-1], str) and place[-1].isdigit():
            place = (*place[:-1], 0)
    elif kind == "path":
        value = rng.choice(
            [f"{path}.yaml" for path in ("nowhere", STRANGE, "inputs/images", "config", "../x", "x" * 300)]
        )
    elif kind == "class":
        value = {"class_path": rng.choice([c for some in CLASSES.values() for c in some])}
    else:
        value = rng.choice(
            WRONG if kind == "wrong type" else VALUES["number"]["out of range"] + VALUES["number"]["huge"]
        )
    told = f"{'.'.join(map(str, place))} = {_short(value)}"
    return Mutation(kind, told, dumped(with_value(config, place, value)), place=place, value=value)


def _places(value: Any, place: Place) -> Iterator[Place]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    for key, inner in items:
        yield (*place, key)
        yield from _places(inner, (*place, key))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return ascii(text[:80] + "..." if len(text) > 80 else text)[1:-1]


def flipped(content: bytes, rng: random.Random, bits: int) -> bytes:
    """Some bits inverted."""
    array = bytearray(content)
    for _ in range(bits if array else 0):
        array[rng.randrange(len(array))] ^= 1 << rng.randrange(8)
    return bytes(array)


def spoil_file(path: Path, others: list[Path], rng: random.Random) -> tuple[str, str]:
    """Spoil a file in place.

    Args:
        path: the file.
        others: files whose content may be put there.
        rng: random numbers.

    Returns:
        The kind of mutation, and what was done.
    """
    content, told = path.read_bytes(), ""
    size = len(content)
    at = rng.randrange(size) if size else 0
    often = ("bit flips", "truncation", "zeros")
    kinds = [
        *(*often, *often, *often, "garbage appended", "garbage before", "another file", "empty", "HTML page"),
        *("LFS pointer", "huge header", "FIFO", "folder", "dangling link", "link loop", "device", "random bytes"),
        *("bytes lost", "doubled", "zip of it"),
    ]
    kind = rng.choice(kinds)
    page = b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n"
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 12345\n" % (b"0" * 64)
    bits, length = rng.choice([1, 1, 2, 5, 20, 50]), rng.randrange(1, 200)
    if kind in ("FIFO", "folder", "dangling link", "link loop", "device"):
        path.unlink()
        if kind == "FIFO":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            device = rng.choice(["/dev/zero", "/dev/null", "/dev/full"])
            path.symlink_to({"dangling link": "nothing", "link loop": path.name, "device": device}[kind])
            told = f"-> {device}" if kind == "device" else ""
    elif kind == "another file":
        other = rng.choice([other for other in others if other != path and other.suffix != path.suffix] or others)
        path.write_bytes(other.read_bytes())
        told = f"that of {other.name}"
    elif kind == "zip of it":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(path.name, content)
    else:
        made = {
            "bit flips": lambda: flipped(content, rng, bits),
            "truncation": lambda: content[:at],
            "zeros": lambda: content[:at] + bytes(min(length, size - at)) + content[at + length :],
            "garbage appended": lambda: content + rng.randbytes(length),
            "garbage before": lambda: rng.randbytes(length) + content,
            "empty": lambda: b"",
            "HTML page": lambda: page,
            "LFS pointer": lambda: pointer,
            "huge header": lambda: huge_header(path, content, rng),
            "random bytes": lambda: rng.randbytes(size),
            "bytes lost": lambda: content[:at] + content[at + length :],
            "doubled": lambda: content + content,
        }
        path.write_bytes(made[kind]())
        told = f"at {at} of {size}, {bits} bits, {length} bytes"
    return kind, told


def huge_header(path: Path, content: bytes, rng: random.Random) -> bytes:
    """A file whose header claims far more than there is: as npy, PNG, safetensors or pickle."""
    if path.suffix == ".npy":
        shape = rng.choice(["(1000000000000,)", "(3, 1000000, 1000000)", "(99999999999999999999,)", "(-1, 3)"])
        header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content[128:]
    if path.suffix in (".png", ".jpg"):
        side = struct.pack(">II", rng.choice([2**31 - 1, 60_000, 13_000]), rng.choice([2**31 - 1, 60_000, 13_000]))
        return content[:16] + side + content[24:]
    if path.suffix == ".safetensors":
        length = rng.choice([2**63 - 1, 2**31, len(content) * 10])
        claim = {"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
        header = json.dumps(claim).encode()
        return rng.choice([struct.pack("<Q", length) + content[8:], struct.pack("<Q", len(header)) + header])
    return content[:4] + b"\xff" * 8 + content[12:]
