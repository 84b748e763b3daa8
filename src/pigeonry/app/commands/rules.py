"""``pigeonry rules report|test``: what the rule book knows, and what a reply would do."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter

from pigeonry.app import exits
from pigeonry.app.config import load
from pigeonry.app.output import ConfigFile, Json, print_json, print_rows
from pigeonry.app.rulebook import rule_book
from pigeonry.delivery.rulebook.proof import reply_of, shots_of
from pigeonry.delivery.rulebook.rules import Phase

if TYPE_CHECKING:
    from pigeonry.delivery.rulebook.book import RuleBook
    from pigeonry.delivery.rulebook.rules import Rule

__all__ = ["report", "try_reply"]


def report(*, config: ConfigFile = None, json: Json = False) -> int:
    """Print all providers and rules, and whether each rule fires for its samples. Exit status 1 when one does not."""
    book = _book(config)
    shots = shots_of(book)
    dead = sorted({shot.rule for shot in shots if not shot.hit})
    rules = [(provider, rule) for provider in book.providers.values() for rule in provider.rules]
    if json:
        print_json(
            {
                "providers": list(book.providers.values()),
                "totals": {"providers": len(book.providers), "rules": len(rules), "samples": len(shots)},
                "not_firing": dead,
            }
        )
    else:
        print_rows((_row(rule) for _, rule in rules), ("rule", "cause", "action", "for_s", "samples", "date", "means"))
        sys.stdout.write(
            f"{len(book.providers)} providers, {len(rules)} rules, {len(shots)} samples; "
            f"{'all rules fire' if not dead else 'not firing: ' + ', '.join(dead)}\n"
        )
    return exits.FAILED if dead else exits.OK


def try_reply(
    reply: Annotated[str, Parameter(help="What the server said: `550 5.1.1 No such user`.")],
    *,
    mx: Annotated[str, Parameter(help="Name of the server. Left out: anybody's.")] = "",
    answers: Annotated[Phase, Parameter(help="What the reply answers.")] = Phase.DOT,
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    r"""Say which rule a reply fires, and what comes of it. Lines of a reply are separated by `\n`."""
    book = _book(config)
    said = reply_of(reply.replace("\\n", "\n"))
    if said is None:
        sys.stderr.write(f"pigeonry: {reply!r} is no SMTP reply, such as 550 5.1.1 No such user\n")
        return exits.USAGE
    provider = book.provider_of([mx.lower().rstrip(".")]) if mx else None
    rule = book.rule_for(said, answers, "" if provider is None else provider.id)
    found: dict[str, Any] = {"provider": "" if provider is None else provider.id, "rule": None}
    if rule is not None:
        found |= {"rule": rule.id, **_verdict(rule), "source": rule.source, "date": rule.date}
    if json:
        print_json(found)
    else:
        for key, value in found.items():
            sys.stdout.write(f"{key:12}{'none' if value in (None, '') else value}\n")
    return exits.OK if rule is not None else exits.NOT_FOUND


def _book(config: str | None) -> RuleBook:
    return rule_book(load(config, os.environ).rulebook.files)


def _row(rule: Rule) -> dict[str, Any]:
    return {"rule": rule.id, **_verdict(rule), "samples": len(rule.samples), "date": rule.date}


def _verdict(rule: Rule) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins({"cause": rule.cause, "action": rule.action})
    return {**told, "for_s": rule.for_s, "suppresses": rule.cause.suppresses, "means": rule.means}
