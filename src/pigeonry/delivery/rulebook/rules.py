"""What the rule book consists of: providers, their limits, and rules that say what a reply means.

A rule's text is no regular expression but *phrases*: words as they stand in the reply, whatever their case and spacing,
with ``*`` for anything between them. A phrase begins at the start of a word. It costs one pass over the reply whatever
either of them says, and there is nothing in it to escape wrongly.

Standards: RFC 5321 section 4.2 (reply codes), RFC 3463 section 2 (enhanced status codes).
"""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta, Struct

from pigeonry.domain.blame import Cause

__all__ = ["FOR_S_MAX", "WORLD", "Action", "Limits", "Phase", "Provider", "Rule"]

WORLD: Final = "world"
"""The id of the provider that stands for all who have no file of their own."""
FOR_S_MAX: Final = 86_400.0  # seconds that a rule may hold anything back: what lasts a day is looked at by a person

Id = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=64)]
Code = Annotated[str, Meta(pattern=r"^[45][0-9]{0,2}$")]
StatusPart = Annotated[str, Meta(pattern=r"^[0-9]{1,3}(\.[0-9]{1,3})?$")]
Phrase = Annotated[str, Meta(min_length=3, max_length=200)]
Line = Annotated[str, Meta(min_length=3, max_length=2_000)]


class Action(StrEnum):
    """What a rule has done. All but ``bounce`` leave the recipient to be tried again, also after a 5yz reply."""

    BOUNCE = "bounce"
    """The recipient has failed, also after a 4yz reply."""
    RETRY = "retry"
    """The recipient is tried again, not before ``for_s`` seconds."""
    SLOW = "slow"
    """Half as many connections from that source to the provider, for ``for_s`` seconds; at least one."""
    SUSPEND_SOURCE = "suspend-source"
    """Nothing goes from that source to the provider for ``for_s`` seconds."""
    SUSPEND_TENANT = "suspend-tenant"
    """Nothing of that tenant goes from that source to the provider for ``for_s`` seconds."""

    @property
    def lasts(self) -> bool:
        """Whether it is about more than the recipient, for some time."""
        return self not in {Action.BOUNCE, Action.RETRY}


class Phase(StrEnum):
    """What the reply answers."""

    GREETING = "greeting"
    """The connection itself, EHLO or STARTTLS."""
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    DOT = "dot"
    """The whole message."""


class Limits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a provider allows, as far as it or experience says; 0 where neither does.

    Args:
        connections: From one source at once, over all sites of the provider.
        messages_per_connection: Then the connection is to be closed.
        source, date: Who says so, and when that was read.
    """

    connections: Annotated[int, Meta(ge=0, le=1_000)] = 0
    messages_per_connection: Annotated[int, Meta(ge=0, le=100_000)] = 0
    source: Annotated[str, Meta(min_length=8, max_length=500)]
    date: dt.date


class Rule(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One kind of reply and what it means. All conditions that are given must hold; of each list, one entry.

    Args:
        id: Unique in its provider; in a book it begins with the provider's: ``yahoo.complaints``.
        means: One sentence for people.
        cause: What is to blame.
        action: What to do.
        for_s: Seconds that the action lasts.
        phases: What the reply answers; any where left out.
        codes: Reply codes or their beginnings: ``421``, ``45``, ``5``.
        status: Subject and detail of the enhanced status, ``1.1``, or the subject alone, ``7``.
        text: Phrases.
        source, date: Where the reply is documented or was seen, and when that was read.
        samples: Replies as they come over the wire, one or more lines. The rule must be the one that fires for each.
    """

    id: Id
    means: Annotated[str, Meta(min_length=10, max_length=200)]
    cause: Cause
    action: Action
    for_s: Annotated[float, Meta(ge=0, le=FOR_S_MAX)] = 0.0
    phases: tuple[Phase, ...] = ()
    codes: tuple[Code, ...] = ()
    status: tuple[StatusPart, ...] = ()
    text: tuple[Phrase, ...] = ()
    source: Annotated[str, Meta(min_length=8, max_length=500)]
    date: dt.date
    samples: tuple[Line, ...]


class Provider(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One receiver, however many domains it serves.

    Args:
        id: Its name in rules' ids, events and metrics.
        name: For people.
        hosts: Its MX hosts, in lower case: a whole name, or what follows its first label or labels, beginning with a
            dot. A route is the provider's when all its hosts are.
        one_site: Whether each of its hosts takes mail for each of its domains, so that all of them are one site and
            share connections.
        limits: What it allows.
        rules: In the order in which they are looked at; the first that fits fires.
    """

    id: Id
    name: Annotated[str, Meta(min_length=2, max_length=80)]
    hosts: tuple[Annotated[str, Meta(pattern=r"^\.?[a-z0-9-]+(\.[a-z0-9-]+)+$", max_length=255)], ...] = ()
    one_site: bool = False
    limits: Limits | None = None
    rules: tuple[Rule, ...] = ()
