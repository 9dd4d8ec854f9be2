"""Where OlivePress keeps what belongs to the user and not to a lab, by the platform's own rules."""

from __future__ import annotations

import os
from pathlib import Path


def config_dir() -> Path:
    """Settings and the choice of a sign-in: ``$OLIVEPRESS_CONFIG``, else the platform's folder for settings."""
    from platformdirs import user_config_path

    chosen = os.environ.get("OLIVEPRESS_CONFIG")
    return Path(chosen).expanduser() if chosen else user_config_path("olivepress", False, roaming=True)


def cache_dir() -> Path:
    """Models that are fetched or unpacked, for all labs of this user."""
    from platformdirs import user_cache_path

    return user_cache_path("olivepress")


def state_dir() -> Path:
    """What the wizard keeps of its own errors where there is no lab."""
    from platformdirs import user_state_path

    return user_state_path("olivepress")


def user_setting(name: str) -> str:
    """A setting of ``wizard.toml`` that is a text; empty where it is not set, or the file cannot be read."""
    try:
        text = (config_dir() / "wizard.toml").read_text(encoding="utf-8")
    except (OSError, ValueError, RuntimeError):
        return ""
    import tomllib

    try:
        value = tomllib.loads(text).get(name)
    except tomllib.TOMLDecodeError:  # the wizard says what is wrong with it
        return ""
    return value if isinstance(value, str) else ""
