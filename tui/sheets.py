"""Where the style sheets of a class lie."""

from __future__ import annotations

import sys
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textual.app import App
    from textual.screen import Screen


def sheets(owner: type[App[Any]] | type[Screen[Any]]) -> list[Path]:
    """The style sheets that a class names, beside its module."""
    named = owner.CSS_PATH or []
    folder = Path(sys.modules[owner.__module__].__file__ or "").parent
    return [folder / each for each in ([named] if isinstance(named, str | PurePath) else named)]
