"""The command line, ``olivepress``: one module a command, each a thin cover over :mod:`core`.

Standard output holds results (with ``--json``: JSON Lines and nothing else); people's text and errors go
to standard error. Exit statuses: 0 done, 2 wrong request, 3 a stage failed, 4 this machine cannot,
130 cancelled; 141 when the reader of standard output has left.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from core import language
from core.errors import Cancelled, LabError, MachineError, RequestError
from core.language import told


def script() -> None:
    """The console script: run, and leave with the exit status."""
    from core.cli.output import guarded

    try:
        status = guarded(lambda: main(sys.argv[1:]))
    except KeyboardInterrupt:  # a second one, while the first was being answered
        status = Cancelled.exit_status
    # While Python tidies up, Ctrl-C ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(status)


def main(arguments: Sequence[str]) -> int:
    """Run one command; return its exit status. Foreseeable failures are printed, not raised."""
    from core.cli.commands import PLAIN, language_taken, wizard_folder

    as_json = "--json" in arguments
    words, code = language_taken(arguments)
    if next((word for word in words if not word.startswith("-")), "") != "new":  # new has the option itself
        arguments = words
    try:
        _speak(code, as_json=as_json)
        _refuse_nowhere()
        folder = wizard_folder(arguments)
        if folder is not None:
            from core.cli.wizard import open_wizard

            return open_wizard(folder, plain=PLAIN in arguments)
        from core.cli.parser import parse

        if language.in_use() in language.RIGHT_TO_LEFT:
            from core.cli.show import order_lines

            order_lines()
        options = parse(arguments)
        as_json = getattr(options, "json", False)
        return int(options.run(options))
    except LabError as error:
        from core.cli.show import print_error

        print_error(error, as_json=as_json)
        return error.exit_status
    except KeyboardInterrupt:
        from core.cli.show import print_cancelled

        print_cancelled(as_json=as_json)
        return Cancelled.exit_status
    except MemoryError:
        from core.cli.show import print_error

        hint = told("Close other programs, or raise the limit (ulimit -v).")
        print_error(
            MachineError(told("There was not enough memory."), hint=hint, code="machine.memory"),
            as_json=as_json,
        )
        return MachineError.exit_status


def _speak(code: str | None, *, as_json: bool) -> None:
    """Choose the language; with ``--json`` all is English, for it is read by programs.

    Raises:
        RequestError: there is no such language.
    """
    if code is not None and not language.known(code):
        raise RequestError(
            told("There is no language {code!r}.", code=code),
            hint=told("The languages are: {names}.", names=", ".join(language.LANGUAGES)),
            code="usage",
        )
    language.ask(code or "")
    language.use("en" if as_json else language.wanted())


def _refuse_nowhere() -> None:
    """Raise RequestError where the current folder is gone: no name that is given would mean anything."""
    try:
        os.getcwd()
    except OSError:
        raise RequestError(
            told("The folder that you are in is gone."),
            told("It was removed or renamed meanwhile."),
            told("Go to another one: cd"),
            code="lab.here-gone",
        ) from None
