"""Whose fault it is that a recipient was not delivered: the class that everything else goes by.

Only what is the recipient's own fault may ever suppress a recipient; an address of ours on a blocklist says nothing of
the person behind the mailbox.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Cause"]


class Cause(StrEnum):
    """What a refusal or a deferral is about."""

    RECIPIENT = "recipient"
    """There is no such mailbox, or not any more: the one cause that may suppress."""
    MAILBOX = "mailbox"
    """The mailbox is there and takes nothing now: full, too busy, forbidden to strangers."""
    DESTINATION = "destination"
    """The recipient's domain: it does not exist, takes no mail, or is not served by that host."""
    CONTENT = "content"
    """What the message says, links to, weighs or is built like."""
    SENDER_DOMAIN = "sender-domain"
    """The sending domain: SPF, DKIM, DMARC, its records, its reputation."""
    TENANT = "tenant"
    """How one tenant sends: complaints and volume that the receiver lays at one sender's door."""
    IP = "ip"
    """Our address: its reputation, its PTR record."""
    BLOCKLIST = "blocklist"
    """Our address or name is on a blocklist."""
    RATE = "rate"
    """We come too fast, or with too many connections."""
    GREYLIST = "greylist"
    """The receiver wants to see who comes again."""
    TLS = "tls"
    """Encryption is missing or failed."""
    NETWORK = "network"
    """The way there: routing, DNS, time-outs."""
    RECEIVER = "receiver"
    """The receiver has trouble of its own."""
    PROTOCOL = "protocol"
    """Something that was said is not understood or not offered there."""
    POLICY = "policy"
    """Refused for a reason that is not given."""

    @property
    def suppresses(self) -> bool:
        """Whether a permanent failure for it may keep further mail from the recipient."""
        return self is Cause.RECIPIENT
