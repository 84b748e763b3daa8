"""What both ends of a command connection between nodes keep to.

The connection is TLS 1.3 and both ends show a certificate of the cluster's own authority, which names a node. The
version is agreed on in the handshake: each end offers those it speaks, and the newest that both do is spoken. Then
whoever was called says the first word: an answer with its release, or why it refuses. So a caller knows that it was let
in before it asks for anything, and that nothing was done when it was not.

Standards: RFC 8446 (TLS 1.3), RFC 7301 (ALPN).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio

__all__ = ["VERSIONS", "names_shown", "nodes_named", "version_spoken"]

VERSIONS: Final = ("pigeonry-commands/1",)
"""What is spoken, the newest first. The one before stays for a release, so that N and N-1 understand each other."""


def nodes_named(certificate: Mapping[str, Any]) -> frozenset[str]:
    """The names in a certificate that a node may have, as ``ssl`` gives it; a wildcard is none."""
    return frozenset(
        text.lower() for kind, text in certificate.get("subjectAltName", ()) if kind == "DNS" and "*" not in text
    )


def names_shown(writer: asyncio.StreamWriter) -> frozenset[str]:
    """The nodes that the peer's certificate names."""
    return nodes_named(writer.get_extra_info("peercert") or {})


def version_spoken(writer: asyncio.StreamWriter) -> str | None:
    """The version that both ends speak; None when there is none."""
    spoken: str | None = writer.get_extra_info("ssl_object").selected_alpn_protocol()
    return spoken
