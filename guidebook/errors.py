"""Exceptions of the library: every one says the cause and the remedy in one message."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from unicodedata import category

DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Marks that turn the text after them around."""


def printable(text: str) -> str:
    r"""Return the text with what a terminal would obey written out: a name may hold anything.

    >>> printable("a\x1b[31m")
    'a\\x1b[31m'
    """
    return "".join(one.encode("unicode_escape").decode() if _commands(one) else one for one in text)


def _commands(one: str) -> bool:
    """Whether a character is for control: escapes, halves of pairs, marks of direction; lines may end."""
    return one != "\n" and (category(one) in ("Cc", "Cs", "Zl", "Zp") or one in DIRECTIONS)


class GuidebookError(Exception):
    """Base of every error that the library raises on purpose."""

    def __str__(self) -> str:
        return printable(super().__str__())


class DataError(GuidebookError):
    """The data cannot be used: empty, not finite, of a wrong shape or outside a support."""


class ModelError(GuidebookError):
    """The model cannot be used: it has no latent site, or its sites cannot be scored."""


class GuideError(GuidebookError):
    """The guide does not fit the model: a site is missing, foreign or of a wrong shape."""


class NameNotFound(GuidebookError):
    """A pair, guide, engine or site of this name does not exist; the message gives near names."""


class FileError(GuidebookError):
    """A file is missing, truncated, foreign, of a newer format, or cannot be written."""


class SettingError(GuidebookError):
    """A setting is out of range: steps, batch size, seed, device, draws, ..."""


_NOT_THE_USERS = (
    str(Path(__file__).parent),
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    "<",
)
"""Where the files of this library, of installed packages and of Python lie."""


def line_of_user(error: BaseException) -> str:
    """The innermost line of the user's own code that the error went through, in words; "" if none."""
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_NOT_THE_USERS)
    ]
    if not own:
        return ""
    line = f": {own[-1].line}" if own[-1].line else ""
    return f"{own[-1].filename}, line {own[-1].lineno}, in {own[-1].name}{line}"


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a sentence that proposes the names closest to `name`, or lists all of `names`.

    >>> nearest("eight-school", ["eight-schools", "vae"])
    "Did you mean 'eight-schools'?"
    >>> nearest("zzz", ["eight-schools", "vae"])
    "Known names: 'eight-schools', 'vae'."
    """
    known = list(names)
    by_lower = {candidate.lower(): candidate for candidate in known}
    wanted = name.lower().replace("_", "-").replace(" ", "-")
    close = get_close_matches(wanted, list(by_lower), n=3, cutoff=0.6)
    close = close or get_close_matches(name.lower(), list(by_lower), n=3, cutoff=0.6)
    if close:
        return f"Did you mean {' or '.join(repr(by_lower[key]) for key in close)}?"
    return f"Known names: {', '.join(repr(candidate) for candidate in sorted(known))}."
