"""Objects from settings, outside a run."""

from __future__ import annotations

from typing import Any

from jsonargparse import ArgumentParser

from posterior.errors import UserError


def built(settings: dict[str, Any], kinds: dict[str, Any], where: str) -> list[Any]:
    """The objects of checked settings, in their order.

    Args:
        settings: name -> settings of a class (`posterior.settings.conformed`).
        kinds: name -> what it is.
        where: they stand, for messages.

    Raises:
        UserError: what a constructor has against them.
    """
    parser = ArgumentParser(exit_on_error=False)
    for name in settings:
        parser.add_argument(f"--{name}", type=kinds[name])
    try:
        made = parser.instantiate(parser.parse_object(settings))
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__ or cause.__context__
        raise UserError(f"{where}: {cause or ' '.join(str(error).split())}") from error
    return [getattr(made, name) for name in settings]
