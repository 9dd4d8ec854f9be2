"""The command line, ``olivepress``: one module a command, each a thin cover over :mod:`core`.

Standard output holds results (with ``--json``: JSON Lines and nothing else); people's text and errors go
to standard error. Exit statuses: 0 done, 2 wrong request, 3 a stage failed, 4 this machine cannot,
130 cancelled.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from core.errors import LabError


def script() -> None:
    """The console script: run, and leave with the exit status."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command; return its exit status. Foreseeable failures are printed, not raised."""
    from core.cli.commands import wizard_folder

    try:
        folder = wizard_folder(arguments)
        if folder is not None:
            from core.cli.wizard import open_wizard

            return open_wizard(folder)
        from core.cli.parser import build_parser

        options = build_parser().parse_args(arguments)
        return int(options.run(options))
    except LabError as error:
        from core.cli.show import print_error

        print_error(error)
        return error.exit_status
    except KeyboardInterrupt:
        print("cancelled", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`); nothing more is wanted.
        sys.stderr.close()
        return 0
