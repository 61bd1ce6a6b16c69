"""`beamstream`: finds the command and turns errors into one line and an exit status.

Exit status: 0 done, 1 an error, 2 wrong usage, 3 a node that cannot be reached, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

from cyclopts import App, CycloptsError, UnknownCommandError

from beamstream._version import __version__
from beamstream.errors import ConnectionLost, Error, TimedOut

FAILED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
INTERRUPTED: Final = 130

app = App(
    name="beamstream",
    help="Streaming for photon science: detectors push frames in, programs take them out.",
    version=__version__,
    help_format="plaintext",
    help_formatter="plain",
    # Errors become one line of ours, and Ctrl-C an exit status of ours.
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)
app.command("beamstream.cli.up:up", name="up", help="Start a node.")
app.command("beamstream.cli.demo:demo", name="demo", help="Show a node at work.")
app.command("beamstream.cli.token:app", name="token", help="Make, list and revoke tokens.")
app.command("beamstream.cli.beamtime:app", name="beamtime", help="Open, list and close beamtimes.")
app.command("beamstream.cli.config:app", name="config", help="Show the settings.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    >>> main(["--version"])  # doctest: +ELLIPSIS
    0...
    0
    """
    try:
        result = app(
            list(sys.argv[1:] if arguments is None else arguments),
            exit_on_error=False,
            print_error=False,
        )
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except CycloptsError as error:
        return _complain(_sentence(error), "see beamstream --help", USAGE)
    except (ConnectionLost, TimedOut) as error:
        return _complain(error.message, error.hint, UNREACHABLE)
    except Error as error:
        return _complain(error.message, error.hint, FAILED)
    except BrokenPipeError:
        # Whoever read our output has seen enough; the interpreter must not flush into it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        return _complain(f"{error.strerror or error}: {error.filename or ''}", "", FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED


def _sentence(error: CycloptsError) -> str:
    if isinstance(error, UnknownCommandError):
        # Its own text would import every command to look for a similar one.
        return f"there is no command {' '.join(error.unused_tokens or ())[:80]!r}"
    return " ".join(str(error).split()).rstrip(".")


def _complain(what: str, hint: str, status: int) -> int:
    line = " ".join(
        f"beamstream: {what} ({hint})".split() if hint else f"beamstream: {what}".split()
    )
    print(line, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
