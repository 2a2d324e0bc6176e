"""The command lines of the commands: a mistake there is one line, like any other mistake of a user."""

from __future__ import annotations

import argparse
from typing import NoReturn

from posterior.errors import UserError


class Parser(argparse.ArgumentParser):
    """Says a mistake as a `UserError` that begins with the command's name, the second word of ``prog``."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog.split()[1]}: {message}")
