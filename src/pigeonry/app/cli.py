"""The ``pigeonry`` command: which commands there are, and what their errors exit with.

Each command is named here and imported only when it is run, so that ``pigeonry dev`` is ready at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from cyclopts import App, CycloptsError

from pigeonry import __version__
from pigeonry.app import exits

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main", "program"]

_COMMANDS: Final = "pigeonry.app.commands"
_OTHERS: Final = 0o077  # of no use to group and others, whoever makes a file: what we keep is mail and keys


def program() -> App:
    """The command tree."""
    app = App(
        name="pigeonry",
        help="An email delivery platform that an organisation runs itself.",
        version=__version__,
        version_flags=["--version"],
    )
    app.command(f"{_COMMANDS}.dev:dev", name="dev", help="Run everything in this terminal; nothing leaves the machine.")
    app.command(f"{_COMMANDS}.serve:serve", name="serve", help="Run this node in production until SIGTERM.")
    app.command(
        f"{_COMMANDS}.migrate:migrate", name="migrate", help="Make or upgrade the schema of the cluster's store."
    )
    app.command(f"{_COMMANDS}.version:version", name="version", help="Say which release this is.")
    config = App(name="config", help="Check, show and describe the settings.")
    config.command(f"{_COMMANDS}.config:check", name="check", help="Say every problem of the configuration.")
    config.command(f"{_COMMANDS}.config:show", name="show", help="Print the settings as they would be used.")
    config.command(f"{_COMMANDS}.config:schema", name="schema", help="Print the JSON Schema of the file.")
    app.command(config)
    _manage(app)
    cluster = App(name="cluster", help="Several nodes that are one.")
    certs = App(name="certs", help="The certificates that nodes show each other.")
    certs.command(f"{_COMMANDS}.cluster:make_certs", name="make", help="Make the certificates of nodes, or renew them.")
    cluster.command(f"{_COMMANDS}.cluster:status", name="status", help="Print members, shards and who answers.")
    cluster.command(
        f"{_COMMANDS}.rolling_restart:rolling_restart",
        name="rolling-restart",
        help="Restart the nodes one after the other; stop at the first that stays away.",
    )
    cluster.command(certs)
    app.command(cluster)
    return app


_MANAGE: Final[Mapping[str, tuple[str, tuple[tuple[str, str, str], ...]]]] = {
    "domain": (
        "Sending domains.",
        (
            ("add", "add", "Make a sending domain and print its DNS records."),
            ("list", "show_all", "Print all sending domains."),
            ("delete", "delete", "Delete a sending domain and its SMTP logins."),
            ("dns", "dns", "Print the DNS records that a domain needs."),
            ("pool", "pool", "Set the egress pool that a domain's mail leaves by."),
        ),
    ),
    "account": (
        "Accounts: who owns domains, keys and logins.",
        (
            ("list", "show_all", "Print all accounts and their limits."),
            ("limit", "limit", "Limit how many recipients an account may send to."),
        ),
    ),
    "key": (
        "API keys.",
        (
            ("create", "create", "Make an API key; it is shown once."),
            ("list", "show_all", "Print all API keys."),
            ("delete", "delete", "Revoke an API key."),
        ),
    ),
    "smtp-cred": (
        "SMTP logins.",
        (
            ("add", "add", "Make an SMTP login, or change its password."),
            ("list", "show_all", "Print SMTP logins."),
            ("delete", "delete", "Delete an SMTP login."),
        ),
    ),
    "queue": (
        "Mail that waits.",
        (
            ("show", "show", "Print the recipients that wait."),
            ("cancel", "cancel", "End what waits of a message: cancelled."),
            ("retry", "retry", "Attempt what waits of a message now."),
            ("drop", "drop", "End what waits of a message: dropped."),
            ("hasten", "hasten", "Attempt now whatever waits of some of the mail."),
        ),
    ),
    "msg": (
        "Single messages.",
        (("why", "why", "Say what holds a message, whose that is, and until when."),),
    ),
    "intervene": (
        "Suspend, drop or rebind some of the mail, until a time.",
        (
            ("suspend", "suspend", "Let some of the mail wait."),
            ("drop", "drop", "End some of the mail for good."),
            ("rebind", "rebind", "Have some of the mail leave by another egress pool."),
            ("list", "show_all", "Print what stands."),
            ("lift", "lift", "End an intervention now."),
        ),
    ),
    "node": (
        "This machine's part in the service.",
        (
            ("status", "status", "Say how the running node stands."),
            ("drain", "drain", "Take the node out of service in order; it ends."),
        ),
    ),
    "location": (
        "Locations of a cluster without a witness.",
        (
            ("status", "status", "Print the locations that were given up."),
            ("takeover", "takeover", "Give a lost location up: this one goes on without it."),
            ("return", "bring_back", "End the time without a location."),
        ),
    ),
    "events": (
        "The event log.",
        (
            ("count", "count", "Count the events in the log by kind."),
            ("rebuild", "rebuild", "Rebuild a window of the search index from the log."),
        ),
    ),
    "rules": (
        "What is known of receiving providers.",
        (
            ("report", "report", "Print all rules, and whether each fires for its samples."),
            ("test", "try_reply", "Say which rule a reply fires, and what comes of it."),
        ),
    ),
    "drill": (
        "Situations that hurt, built with real processes and judged against bars.",
        (
            ("durability", "durability", "Kill everything under load; nothing acknowledged may be lost."),
            ("d2014", "d2014", "Restart, kill and freeze parts of a cluster under load."),
        ),
    ),
}
"""Groups of commands about what a node keeps: name, function in the group's module, meaning."""


def _manage(app: App) -> None:
    for name, (meaning, commands) in _MANAGE.items():
        group = App(name=name, help=meaning)
        for command, function, sentence in commands:
            group.command(f"{_COMMANDS}.{name.replace('-', '_')}:{function}", name=command, help=sentence)
        app.command(group)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; the process ends with its exit status."""
    os.umask(_OTHERS)
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
