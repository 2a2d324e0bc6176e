"""The one command that downloads: a prior of the Hugging Face hub, into its local cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from posterior.errors import UserError
from posterior.hub import HUB, hub_cache, hub_settings, needed, parted
from posterior.reading import reason
from posterior.shell import Parser

TIMEOUT = 20.0
"""Seconds that the hub has for its first answer."""


def fetch(path: Path) -> tuple[Path, list[str]]:
    """Download what a prior needs of ``hf://owner/name@revision`` into the hub's cache.

    Returns:
        The snapshot's folder, and the files in it that were asked for.

    Raises:
        UserError: naming the repository, if it cannot be reached, is not there, or is no prior that is read here.
    """
    name, revision = parted(path)
    library = _library()
    try:
        about = library.HfApi().model_info(name, revision=revision or None, timeout=TIMEOUT)
        files = needed([file.rfilename for file in about.siblings])
        folder = library.snapshot_download(name, revision=revision or None, allow_patterns=files, cache_dir=hub_cache())
    except Exception as error:  # of the network, the hub, the disk: each library below has classes of its own
        raise UserError(f"fetch: hf://{name} cannot be fetched: {reason(error)}") from error
    return Path(folder), files


def _library() -> ModuleType:
    """Raises:
    UserError: if huggingface_hub is not installed.
    """
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise UserError("fetch needs huggingface_hub: pip install 'posterior-sampling[priors]'") from error
    return huggingface_hub


def fetch_command(arguments: Sequence[str]) -> None:
    """Read the command line, download, say how the prior is named."""
    parser = Parser(
        prog="posterior-sampling fetch",
        description="Download a prior from the Hugging Face hub: the files that are read, and no others.",
        allow_abbrev=False,
    )
    parser.add_argument("name", help="hf://owner/name, or owner/name; @revision behind it if it is not to be main")
    text = parser.parse_args(list(arguments)).name
    path = Path(text if text.startswith(f"{HUB}//") else f"{HUB}//{text}")
    folder, files = fetch(path)
    size = sum((folder / name).stat().st_size for name in files)
    named = hub_settings(path)["init_args"]["folder"]
    print(f"{folder}: {len(files)} files, {size / 1e6:.1f} MB. Name it --model.prior {named}")
