"""`beamstream`: finds the command and turns errors into one line and an exit status.

Exit status: 0 done, 1 an error or a problem that was found, 2 wrong usage, 3 a node that cannot be
reached, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from cyclopts import App, CycloptsError, UnknownCommandError

from beamstream._version import __version__
from beamstream.cli.options import Usage
from beamstream.cli.terminal import FAILED, INTERRUPTED, STDIO, UNREACHABLE, USAGE, plain, silence
from beamstream.errors import ConnectionLost, Error, TimedOut

COMMANDS: Final = (
    ("up", "up:up", "Start a node."),
    ("demo", "demo:demo", "Show a node at work."),
    ("put", "put:put", "Send files into a stream."),
    ("get", "get:get", "Write messages into files."),
    ("watch", "watch:watch", "Tell how a stream goes, each second."),
    ("top", "top:top", "Show streams, groups and steps as they go."),
    ("map", "map:map", "Draw who feeds whom."),
    ("report", "report:report", "Write the last minutes into a page for the log book."),
    ("monitor", "monitor:monitor", "Serve the page somewhere else."),
    ("find", "find:find", "Search messages by their metadata."),
    ("stream", "stream:app", "List, check and remove streams."),
    ("group", "group:app", "Look after groups of readers."),
    ("worker", "worker:app", "Run steps, set their parameters, look at what failed."),
    ("pipeline", "pipeline:app", "Run steps that read what others write."),
    ("replay", "replay:replay", "Let a range of a stream come once more."),
    ("provenance", "provenance:provenance", "Show what a message was made of."),
    ("bench", "bench:app", "Measure a running node."),
    ("doctor", "doctor:doctor", "Look for what is wrong, and say what to do."),
    ("explain", "explain:explain", "Say what an error code means."),
    ("token", "token:app", "Make, list and revoke tokens."),
    ("beamtime", "beamtime:app", "Open, list and close beamtimes."),
    ("config", "config:app", "Show the settings."),
)
"""Name, where it is, what it does: nothing is imported before it is asked for."""


def make_app(asked: str = "") -> App:
    """The command line; the command that is `asked` for is loaded and helps with its own words."""
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
    for order, (name, where, does) in enumerate(COMMANDS):
        what = None if name == asked else does
        app.command(f"beamstream.cli.{where}", name=name, help=what, sort_key=order)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    >>> main(["--version"])  # doctest: +ELLIPSIS
    0...
    0
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        result = make_app(words[0] if words else "")(
            # To the parser a lone "-" is an option that lost its name.
            [STDIO if word == "-" else word for word in words],
            exit_on_error=False,
            print_error=False,
        )
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except CycloptsError as error:
        return _complain(_sentence(error), "see beamstream --help", USAGE)
    except Usage as error:
        return _complain(error.message, error.hint, USAGE)
    except BrokenPipeError:
        silence()
        return FAILED
    except (ConnectionLost, TimedOut) as error:
        return _complain(error.message, error.hint, UNREACHABLE)
    except Error as error:
        return _complain(error.message, error.hint, FAILED)
    except OSError as error:
        return _complain(f"{error.strerror or error}: {error.filename or ''}", "", FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED


def _sentence(error: CycloptsError) -> str:
    if isinstance(error, UnknownCommandError):
        # Its own text would import every command to look for a similar one.
        return f"there is no command {' '.join(error.unused_tokens or ())[:80]!r}"
    return " ".join(str(error).replace(STDIO, "-").split()).rstrip(".")


def _complain(what: str, hint: str, status: int) -> int:
    line = f"beamstream: {what} ({hint})" if hint else f"beamstream: {what}"
    print(plain(" ".join(line.split())), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
