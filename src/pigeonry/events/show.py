"""A stored event as the API shows it: without what is ours alone, with URLs for the host that the client used."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["show"]


def show(octets: bytes, *, base_url: str) -> dict[str, Any]:
    """The event as an object of the API.

    Args:
        octets: As the log has it.
        base_url: Scheme and host, without a slash at the end.
    """
    event: dict[str, Any] = msgspec.json.decode(octets)
    domain = event.pop("domain", "")
    event.pop("account", None)
    storage = event.get("storage")
    if storage:
        storage["url"] = f"{base_url}/v3/domains/{domain}/messages/{storage['key']}"
    return event
