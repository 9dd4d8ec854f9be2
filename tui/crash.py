"""What is kept and said when the wizard itself fails."""

from __future__ import annotations

import platform
import tempfile
import time
import traceback
from pathlib import Path

from core.language import _
from core.text import clean, without_logins
from core.user_dirs import state_dir
from core.version import __version__


def cause(error: Exception) -> Exception:
    """The exception itself where Textual has wrapped one that a worker raised."""
    inner = getattr(error, "error", None)
    return inner if isinstance(inner, Exception) else error


def keep(error: BaseException, root: Path) -> Path | None:
    """Append the traceback, without the values of variables, to ``wizard-errors.log``; return the file.

    It lies in the lab if there is one, else in the user's state folder, else in the temporary one.
    """
    places = ([root] if (root / "lab.toml").is_file() else []) + [state_dir(), Path(tempfile.gettempdir())]
    text = without_logins("".join(traceback.format_exception(error)))
    versions = f"olivepress {__version__} Python {platform.python_version()}"
    head = f"--- {time.strftime('%Y-%m-%dT%H:%M:%S%z')} {versions}\n"
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
            path = place / "wizard-errors.log"
            with path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
                stream.write(head + text + "\n")
        except OSError:
            continue
        return path
    return None


def story(error: BaseException, log: Path | None, command: str) -> str:
    """What happened and what to do, for people."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else "?"
    return clean(
        "\n".join(
            (
                _("The wizard met an error of its own and has to close."),
                f"  {type(error).__name__}: {str(error)[:400]}",
                f"  {where}",
                _("No job is harmed: what runs goes on, and what was made is whole."),
                "  " + _("come back: {command}", command=command),
                "  "
                + (
                    _("the whole story: {log}", log=log)
                    if log
                    else _("the whole story could not be written anywhere")
                ),
            )
        )
    )
