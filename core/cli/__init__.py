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

from core.errors import Cancelled, LabError, MachineError, RequestError


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
    from core.cli.commands import PLAIN, wizard_folder

    as_json = "--json" in arguments
    try:
        _refuse_nowhere()
        folder = wizard_folder(arguments)
        if folder is not None:
            from core.cli.wizard import open_wizard

            return open_wizard(folder, plain=PLAIN in arguments)
        from core.cli.parser import parse

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

        hint = "Close other programs, or raise the limit (ulimit -v)."
        print_error(
            MachineError("There was not enough memory.", hint=hint, code="machine.memory"), as_json=as_json
        )
        return MachineError.exit_status


def _refuse_nowhere() -> None:
    """Raise RequestError where the current folder is gone: no name that is given would mean anything."""
    try:
        os.getcwd()
    except OSError:
        raise RequestError(
            "The folder that you are in is gone.",
            "It was removed or renamed meanwhile.",
            "Go to another one: cd",
            code="lab.here-gone",
        ) from None
