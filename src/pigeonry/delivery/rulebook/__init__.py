"""The rule book: what is known of the large receivers, as data, and what a reply of theirs means.

One TOML file for each provider stands in ``providers/``; ``world.toml`` speaks for the rest of the world. They are
loaded once, when a worker starts. Nothing here does I/O but ``loading.shipped``, and nothing is looked at for a message
that was delivered: only a refusal or a deferral asks for its rule.

- ``rules``: the data, frozen.
- ``book``: the provider of a route, the rule for a reply.
- ``loading``: TOML into providers; every fault of a file is told.
- ``proof``: each rule fires for its own samples, or it is no rule.
"""

from __future__ import annotations

__all__: list[str] = []
