"""The ``pigeonry`` command: which commands there are, and what their errors exit with.

Each command is named here and imported only when it is run, so that ``pigeonry dev`` is ready at once.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from cyclopts import App, CycloptsError

from pigeonry import __version__
from pigeonry.app import exits

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main", "program"]

_COMMANDS = "pigeonry.app.commands"


def program() -> App:
    """The command tree."""
    app = App(
        name="pigeonry",
        help="An email delivery platform that an organisation runs itself.",
        version=__version__,
        version_flags=["--version"],
    )
    app.command(f"{_COMMANDS}.dev:dev", name="dev", help="Run everything in this terminal; nothing leaves the machine.")
    app.command(f"{_COMMANDS}.serve:serve", name="serve", help="Run this node in production.")
    app.command(f"{_COMMANDS}.version:version", name="version", help="Say which release this is.")
    config = App(name="config", help="Check, show and describe the settings.")
    config.command(f"{_COMMANDS}.config:check", name="check", help="Say every problem of the configuration.")
    config.command(f"{_COMMANDS}.config:show", name="show", help="Print the settings as they would be used.")
    config.command(f"{_COMMANDS}.config:schema", name="schema", help="Print the JSON Schema of the file.")
    app.command(config)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; the process ends with its exit status."""
    try:
        status = program()(
            arguments, exit_on_error=False, print_error=True, help_on_error=False, result_action="return_value"
        )
    except CycloptsError:
        sys.exit(exits.USAGE)
    except KeyboardInterrupt:
        sys.exit(exits.INTERRUPTED)
    except BrokenPipeError:
        sys.exit(exits.FAILED)
    except Exception as error:  # whatever it is, the shell gets a status and a sentence
        from pigeonry.app.output import complain, is_expected

        if not is_expected(error):
            raise
        sys.exit(complain(error))
    sys.exit(status if isinstance(status, int) else exits.OK)
