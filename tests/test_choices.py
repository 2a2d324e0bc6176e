"""Words that a config can choose: one that is spelt otherwise is refused in one line, and not taken for another."""

from __future__ import annotations

import inspect
import sys
import typing
from typing import Literal

import pytest

from posterior import UserError
from posterior.checks import choice
from tests.test_checks import NEEDED, named_by_configs

PACKAGES = ("datamodules", "posterior")
"""Where choices are looked for."""
GIVEN = {"GivenTrajectory": {"path": "nowhere", "unit": "grid"}}
"""What else a class must be given."""


def chosen() -> list[typing.Any]:
    """Class, setting and words of every choice in `PACKAGES`."""
    found = []
    for c in named_by_configs():
        if not c.__module__.startswith(PACKAGES):
            continue
        names = {k: v for base in reversed(c.__mro__) for k, v in vars(sys.modules[base.__module__]).items()}
        for name, hint in typing.get_type_hints(c.__init__, names).items():
            kinds = [kind for kind in (hint, *typing.get_args(hint)) if typing.get_origin(kind) is Literal]
            found += [pytest.param(c, name, typing.get_args(kind), id=f"{c.__name__}-{name}") for kind in kinds]
    return found


@pytest.mark.parametrize(("made", "name", "words"), chosen())
def test_a_word_that_is_spelt_otherwise_is_refused(made, name, words):
    given = NEEDED.get(made.__name__, GIVEN.get(made.__name__, {}))
    given = given() if callable(given) else given
    if "angles" in inspect.signature(made).parameters:
        given = given | {"angles": [10.0, 20.0]} | ({"num_spokes": 2} if made.__name__ == "Radial" else {})
    told = f"^{made.__name__}: {name} must be {', '.join(words[:-1])} or {words[-1]}, got "
    for wrong in (words[0].upper(), ""):
        with pytest.raises(UserError, match=f"{told}{wrong!r}$"):
            made(**given | {name: wrong})


def test_choices_are_found_and_their_words_are_taken():
    assert len(chosen()) >= 10
    for word in ("a", "b", "c"):
        choice("A", "x", word, Literal["a", "b", "c"])
    with pytest.raises(UserError, match=r"^A: x must be a, b or c, got None$"):
        choice("A", "x", None, Literal["a", "b", "c"])
    with pytest.raises(UserError, match=r"^A: x must be a or b, got \['a'\]$"):
        choice("A", "x", ["a"], Literal["a", "b"])
