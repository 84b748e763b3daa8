from collections.abc import Callable

import pytest

from pigeonry.compose.draft import Draft
from pigeonry.compose.form import Form, Upload
from pigeonry.compose.identity import IdentitySource
from pigeonry.compose.message import compose_message
from pigeonry.compose.mime import compose_mime
from pigeonry.domain.tenant import Caller
from support.composing import CountingIds, FixedClock, sending_domain


@pytest.fixture
def identities() -> IdentitySource:
    return IdentitySource(hostname="mx.example.net", clock=FixedClock(), ids=CountingIds())


Compose = Callable[..., Draft]


@pytest.fixture
def compose(identities: IdentitySource) -> Compose:
    """Compose from keyword parameters; underscores stand for dashes, ``o_``/``h_``/``v_`` for prefixes."""

    def composing(
        fields: dict[str, str | list[str]] | None = None, *, uploads: list[Upload] | None = None, **changes: object
    ) -> Draft:
        given: dict[str, str | list[str]] = {
            "from": "Al <al@example.org>",
            "to": "bo@example.com",
            "subject": "Hello",
            "text": "Hi\n",
            **(fields or {}),
        }
        form = Form({k: v if isinstance(v, list) else [v] for k, v in given.items() if v != []}, uploads or [])
        return compose_message(
            form, domain=sending_domain(**changes), caller=Caller("acct", "k-1"), identities=identities
        )

    return composing


@pytest.fixture
def compose_ready(identities: IdentitySource) -> Compose:
    def composing(message: bytes, fields: dict[str, str | list[str]] | None = None, **changes: object) -> Draft:
        given: dict[str, str | list[str]] = {"to": "bo@example.com", **(fields or {})}
        form = Form({k: v if isinstance(v, list) else [v] for k, v in given.items()}, [], message)
        return compose_mime(form, domain=sending_domain(**changes), caller=Caller("acct", "k-1"), identities=identities)

    return composing
