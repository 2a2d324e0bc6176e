"""Image ids: names that are paths below a run's folder, and their order."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath

from posterior.errors import UserError

MOST_BYTES = 240
"""Of one part of an id: file systems take names of 255 bytes, and files of ours have endings."""
MOST_BYTES_IN_ALL = 1024


def natural(image_id: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts as people expect: ``img_9`` before ``img_10``, and a folder's files together."""
    parts = re.split(r"(\d+)", image_id.replace("/", "\0"))
    return (*((1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts), (0, 0, image_id))


def fault(image_id: object) -> str | None:
    """Why a name cannot be an id, as the end of a sentence; None: it can."""
    if not isinstance(image_id, str):
        return f"is no text but {type(image_id).__name__}"
    if not image_id:
        return "is empty"
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in image_id):
        return "holds line breaks, control characters or bytes that are no UTF-8"
    parts = image_id.split("/")
    if image_id.startswith("/") or "\\" in image_id or re.match(r"[A-Za-z]:", image_id):
        return "is an absolute path, or has backslashes"
    if any(part in ("", ".", "..") for part in parts):
        return "has an empty part, '.' or '..' in it"
    if any(part != part.strip() for part in parts):
        return "has blanks at an end"
    sizes = [len(part.encode()) for part in parts]
    if max(sizes) > MOST_BYTES or len(image_id.encode()) > MOST_BYTES_IN_ALL:
        return f"is longer than {MOST_BYTES} bytes a part, {MOST_BYTES_IN_ALL} in all"
    return None


def checked(ids: Iterable[object], source: str) -> list[str]:
    """Ids in natural order: each a relative path that leads nowhere else, no two alike, none in another's way.

    Args:
        ids: of a whole data set.
        source: where they come from, for the message.

    Raises:
        UserError: naming the first bad one.
    """
    found: dict[str, str] = {}
    for image_id in ids:
        reason = fault(image_id)
        if reason is not None:
            raise UserError(f"{source}: the id {str(image_id)[:80]!r} {reason}: ids become names of files, rename it")
        assert isinstance(image_id, str)
        key = unicodedata.normalize("NFC", image_id)
        if key in found:
            raise UserError(f"{source}: two images have the same id {image_id!r}: rename one")
        found[key] = image_id
    for image_id in found.values():
        parts = image_id.split("/")
        for cut in range(1, len(parts) + 1):
            folder, name = "/".join(parts[: cut - 1]), parts[cut - 1]
            owner = folder if name.endswith(".png") else "/".join(parts[:cut]).removesuffix(".npy")
            if name.endswith((".png", ".npy")) and owner in found and owner != image_id:
                raise UserError(f"{source}: the files of the ids {owner!r} and {image_id!r} would overwrite each other")
    return sorted(found.values(), key=natural)


def of_name(path: str) -> str:
    """The id of a file: its relative path without the extension; what an id may not hold is written as %XX."""
    bare = PurePosixPath(path)
    text = bare.with_name(bare.stem).as_posix() if bare.name else path
    if fault(text) is None:
        return text
    return "/".join(_quoted(part) for part in text.split("/"))


def _quoted(part: str) -> str:
    def code(letter: str) -> str:
        return "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogateescape"))

    letters = [code(c) if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in "\\%:" else c for c in part]
    text = "".join(letters)
    stripped = text.strip()
    if stripped != text or text in ("", ".", ".."):
        text = "".join(code(c) if c.isspace() or c == "." else c for c in text) or "%00"
    return (
        text if len(text.encode()) <= MOST_BYTES else text.encode()[: MOST_BYTES - 20].decode("utf-8", "ignore") + "%7E"
    )
