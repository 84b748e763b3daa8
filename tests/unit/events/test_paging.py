from __future__ import annotations

import base64

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pigeonry.domain.errors import NotFound
from pigeonry.events.paging import Question, TokenSigner
from pigeonry.ports.event_index import IndexMark

QUESTION = Question(
    "mail.example", 1, 2**62, ascending=True, limit=9, filters=(("event", "a OR b"),), place=IndexMark(5, 6, 7)
)


def test_token_gives_the_question_back_and_fits_into_a_path():
    signer = TokenSigner(b"secret")
    token = signer.token(QUESTION)
    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert signer.question(token, domain="mail.example") == QUESTION


def test_token_of_another_domain_is_refused():
    signer = TokenSigner(b"secret")
    with pytest.raises(NotFound, match="another domain"):
        signer.question(signer.token(QUESTION), domain="victim.example")


def test_token_signed_with_another_secret_is_refused():
    with pytest.raises(NotFound):
        TokenSigner(b"secret").question(TokenSigner(b"other").token(QUESTION), domain="mail.example")


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_any_changed_octet_is_noticed(at: int, change: int):
    signer = TokenSigner(b"secret")
    octets = bytearray(base64.urlsafe_b64decode(signer.token(QUESTION) + "=="))
    octets[at % len(octets)] ^= change
    with pytest.raises(NotFound):
        signer.question(base64.urlsafe_b64encode(octets).decode(), domain="mail.example")


def test_question_of_another_shape_is_refused_even_when_it_is_signed():
    signer = TokenSigner(b"secret")
    signed = msgspec.msgpack.encode(["mail.example", "soon"])
    token = base64.urlsafe_b64encode(signed + signer._mac(signed)).decode()
    with pytest.raises(NotFound):
        signer.question(token, domain="mail.example")


@given(st.text(max_size=80))
def test_any_text_is_a_token_or_refused_and_nothing_else(text: str):
    with pytest.raises(NotFound):
        TokenSigner(b"secret").question(text, domain="mail.example")


def test_endless_text_is_refused_before_it_is_looked_at():
    with pytest.raises(NotFound):
        TokenSigner(b"secret").question("A" * 10_000_000, domain="mail.example")
