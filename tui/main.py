"""``olivepress [DIR]``: the wizard's way in and out."""

from __future__ import annotations

import gc
from pathlib import Path

from tui.terminal import wants_plain


def run_wizard(folder: str | Path, *, plain: bool = False) -> int:
    """Open the wizard on a lab's folder; return the exit status.

    Args:
        plain: by questions and answers on lines, which it is by itself where the terminal cannot draw, or where the
            user's settings say so.

    Returns:
        0 when the user left, 1 after an error in the wizard itself; of the plain mode as :func:`tui.plain.run_plain`.
    """
    if plain or wants_plain() or _set_to_plain():
        from tui.plain import run_plain

        return run_plain(folder)
    # Nothing made while the program loads becomes garbage; the app collects again once its first screen stands.
    gc.disable()
    from tui.app import OlivePressApp

    app = OlivePressApp(Path(folder))
    app.run()
    if app.farewell:
        print(app.farewell)
    return app.return_code or 0


def _set_to_plain() -> bool:
    from tui.keys import read_settings

    return read_settings().plain
