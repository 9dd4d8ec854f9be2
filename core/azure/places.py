"""Where OlivePress keeps what belongs to the user and not to a lab."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def config_dir() -> Path:
    """The user's configuration folder: ``$OLIVEPRESS_CONFIG``, else where the platform wants it."""
    chosen = os.environ.get("OLIVEPRESS_CONFIG")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA", Path.home() / "AppData" / "Roaming")) / "olivepress"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "olivepress"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "olivepress"
