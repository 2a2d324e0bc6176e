"""Mathematics as MathML, made when the site is built: a browser needs no script for it."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

BLOCK = re.compile(r"^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WITHIN = re.compile(r"\s*^ +```math\n(.*?)^ +```$\s*", re.MULTILINE | re.DOTALL)
"""A block that is part of an item of a list: it stays in the item's paragraph."""
INLINE = re.compile(r"\$`([^`]+)`\$")
FONT = "STIXTwoMath-Regular.ttf"
"""Its glyphs stretch as formulas need; the package ziamath has it, under the SIL Open Font License."""


CODE = re.compile(r"(^```.*?^```|^    .*?$|^#.*?$|`[^`\n]*`|\]\([^)]*\)|<math.*?</math>)", re.MULTILINE | re.DOTALL)
"""What is no running text: code, headings, where links lead, formulas."""
OVER = {"bar": "&#772;", "hat": "&#770;"}
NAMES = {
    **{
        name: f"&{name};"
        for name in ("alpha", "beta", "delta", "eta", "kappa", "lambda", "rho", "sigma", "tau", "zeta")
    },
    **{"eps": "&epsilon;", "abar": f"&alpha;{OVER['bar']}", "xbar": f"x{OVER['bar']}", "ybar": f"y{OVER['bar']}"},
}
"""How docstrings call symbols -> as HTML has them."""
LETTER = re.compile(
    rf"(?<![\w.])({'|'.join(NAMES)}|[A-Za-z])(0?)"
    rf"(?:_(hat|min|max|up|{'|'.join(NAMES)}|[a-zA-Z0-9](?!\w)|\{{[^}}]*\}}))?"
    r"(?:\^(-?\d|[Tkq](?!\w)))?('?)(?![\w^])"
)
"""A symbol as docstrings write it: a letter or its name, 0, a subscript, a power, a prime."""
POWER = re.compile(r"(?<=[)|])\^(-?\d)")
"""Of a bracket or a norm."""
SIGNS = {"||": "&Vert;", "<=": "&le;", ">=": "&ge;", "<-": "&larr;"}


def rendered(markdown: str) -> str:
    """Markdown with GitHub's formulas, ``math`` blocks and dollars around code, as MathML.

    A page with blocks is one of mathematics: symbols of its running text are set, too.
    """

    def block(found: re.Match[str]) -> str:
        return f'<div class="formula">{converted(found[1], "block")}</div>'

    def within(found: re.Match[str]) -> str:
        return f' <span class="formula">{converted(found[1], "block")}</span>\n  '

    blocks = BLOCK.sub(block, WITHIN.sub(within, markdown))
    text = INLINE.sub(lambda found: converted(found[1], "inline"), blocks)
    return text if blocks == markdown else lettered(text)


def converted(formula: str, display: str) -> str:
    """LaTeX as MathML; bars of a norm are as high as a line, and names in it may have an underscore."""
    from latex2mathml.converter import convert

    bar = "<mo>&#x02016;</mo>"
    made = convert(formula.strip(), display=display).replace("\\_", "_")
    return str(made.replace(bar, bar.replace("<mo", '<mo stretchy="false"')))


def lettered(markdown: str) -> str:
    """Symbols within running text, such as sigma_y^2, with Greek letters, sub- and superscripts."""
    parts = CODE.split(markdown)
    return "".join(part if number % 2 else symbols(part) for number, part in enumerate(parts))


def symbols(text: str) -> str:
    """Running text with `LETTER`, `POWER` and `SIGNS` as they are set in print."""
    text = POWER.sub(lambda found: raised(found[1]), LETTER.sub(letter, text))
    for sign, printed in SIGNS.items():
        text = text.replace(sign, printed)
    return text


def letter(found: re.Match[str]) -> str:
    """A symbol as HTML; a plain letter stays as it is, since it may be a word."""
    base, zero, below, power, prime = found.groups()
    if base not in NAMES and not (zero or below or power or prime):
        return found[0]
    parts = [NAMES.get(base, base), OVER.get(below or "", "")]
    parts += [f"<sub>{NAMES.get(one, one.strip('{}'))}</sub>" for one in (zero, below) if one and one not in OVER]
    parts += [raised(power)] if power else []
    return f'<i class="letter">{"".join(parts)}{"&prime;" if prime else ""}</i>'


def raised(power: str) -> str:
    """As a superscript."""
    return f"<sup>{power.replace('-', '&minus;')}</sup>"


def font() -> Path:
    """The file of the font for formulas."""
    spec = find_spec("ziamath")
    assert spec is not None, "the extra 'docs' is not installed"
    return Path(str(spec.origin)).parent / "fonts" / FONT
