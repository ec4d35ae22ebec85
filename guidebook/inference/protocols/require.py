"""The error for a guide that lacks what an engine asks for, the same for every engine."""

from __future__ import annotations

import inspect
from typing import Any

from guidebook.errors import GuideError


def require(guide: Any, protocol: type, engine: str, instead: str) -> Any:
    """The guide, if it has every member of the protocol.

    Arguments:
        engine: the name of what asks for it, as the user called it.
        instead: sentences on what to do: which guides have the members, which engine needs none.

    Raises:
        GuideError: it lacks some of them, which the message lists.
    """
    missing = [name for name in members(protocol) if not hasattr(guide, name)]
    if missing:
        name = getattr(guide, "__name__", type(guide).__name__)
        raise GuideError(
            f"{engine} needs a guide with the members of {protocol.__name__} "
            f"({protocol.__module__}), and {name} lacks {', '.join(missing)}. {instead}"
        )
    return guide


def members(protocol: type) -> list[str]:
    """The names that a protocol asks for: its attributes, then its methods, as they are written."""
    return [n for n in {**inspect.get_annotations(protocol), **vars(protocol)} if n[0] != "_"]
