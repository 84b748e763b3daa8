"""A form is the same however it was written and however its octets were cut."""

import gzip
from itertools import pairwise
from urllib.parse import parse_qsl, quote, urlencode

from hypothesis import given
from hypothesis import strategies as st

from pigeonry.compose.form import Form
from pigeonry.domain.errors import BadRequest
from pigeonry.doors.http.forms import FormReader
from support.http_door import multipart

NAMES = st.sampled_from(["from", "to", "subject", "text", "o:tag", "h:X-A", "v:\u00e9"])
VALUES = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
FIELDS = st.dictionaries(NAMES, st.lists(VALUES, min_size=1, max_size=3), max_size=5)


def read(body: bytes, cuts: list[int], **headers: bytes) -> Form:
    reader = FormReader(
        content_type=headers.get("kind", b""), content_encoding=headers.get("encoding", b""), grow=lambda _: None
    )
    places = sorted({min(cut, len(body)) for cut in cuts} | {0, len(body)})
    for start, end in pairwise(places):
        reader.feed(body[start:end])
    return reader.finish()


CUTS = st.lists(st.integers(0, 900), max_size=12)


@given(FIELDS, CUTS, st.booleans())
def test_urlencoded_fields_come_back(fields: dict[str, list[str]], cuts: list[int], plus: bool) -> None:
    body = urlencode(fields, doseq=True) if plus else urlencode(fields, doseq=True, quote_via=quote)
    assert read(body.encode(), cuts).fields == fields
    assert read(gzip.compress(body.encode()), cuts, encoding=b"gzip").fields == fields


@given(st.text("ab%+=&4fFgé\n\r ", max_size=40), CUTS)
def test_any_urlencoded_octets_read_as_the_standard_library_reads_them(text: str, cuts: list[int]) -> None:
    body = text.encode()
    if body[:1] in b"-\n\r " or body.count(b"\xc3") != text.count("é"):
        return
    try:
        expected = parse_qsl(body, keep_blank_values=True, errors="strict")
        wanted = [(name.decode(), value.decode()) for name, value in expected]
    except UnicodeDecodeError:
        return
    try:
        got = read(body, cuts).fields
    except BadRequest:
        return
    for name, value in wanted:
        assert value in got[name]
    assert sum(map(len, got.values())) == len(wanted)


@given(FIELDS, st.binary(min_size=60, max_size=300), CUTS)
def test_multipart_fields_and_files_come_back_however_the_octets_are_cut(
    fields: dict[str, list[str]], content: bytes, cuts: list[int]
) -> None:
    import base64

    if b"--b0undary" in content:
        return
    body, headers = multipart(dict(fields), [("attachment", "a", "x/y", content)])
    form = read(body, cuts, kind=headers["content-type"].encode())
    assert form.fields == fields
    (upload,) = form.uploads
    assert upload.size == len(content)
    assert base64.b64decode(b"".join(upload.lines)) == content
    whole = read(body, [], kind=headers["content-type"].encode())
    assert b"".join(whole.uploads[0].lines) == b"".join(upload.lines)


@given(st.binary(max_size=300), CUTS, st.sampled_from([b"", b"multipart/form-data; boundary=b", b"application/json"]))
def test_any_octets_are_a_form_or_a_bad_request(body: bytes, cuts: list[int], kind: bytes) -> None:
    try:
        form = read(body, cuts, kind=kind)
    except BadRequest:
        return
    assert all(isinstance(value, str) for values in form.fields.values() for value in values)


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=60), CUTS)
def test_a_ready_made_message_has_crlf_line_ends_however_it_is_cut(message: str, cuts: list[int]) -> None:
    if "----b0undary" in message:
        return
    body, headers = multipart({}, [("message", "m", "message/rfc822", message.encode())])
    got = read(body, cuts, kind=headers["content-type"].encode()).message
    assert got is not None
    wanted = message.encode().replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    assert bytes(got) == wanted
