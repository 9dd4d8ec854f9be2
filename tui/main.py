"""``olivepress [DIR]``: the wizard's way in and out."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

from tui.terminal import refusal


def run_wizard(folder: str | Path) -> int:
    """Open the wizard on a lab's folder; return the exit status.

    0 when the user left, 1 after an error in the wizard itself, 2 when this terminal cannot show it.
    """
    reason = refusal()
    if reason is not None:
        print(reason, file=sys.stderr, end="")
        return 2
    # Nothing made while the program loads becomes garbage; the app collects again once its first screen stands.
    gc.disable()
    from tui.app import OlivePressApp

    app = OlivePressApp(Path(folder))
    app.run()
    if app.farewell:
        print(app.farewell)
    return app.return_code or 0
