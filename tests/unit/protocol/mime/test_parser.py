import tracemalloc
from email.message import EmailMessage
from email.policy import SMTP

import pytest

from pigeonry.protocol.mime.parser import decoded, leaves, parse, text


def sample() -> EmailMessage:
    message = EmailMessage(policy=SMTP)
    message["From"] = "a@b.com"
    message.set_content("plain é\n")
    message.add_alternative("<b>html é</b>\n", subtype="html")
    message.add_attachment(b"\x00\x01" * 500, maintype="application", subtype="pdf", filename="grüße.pdf")
    message.add_attachment("inner text", filename="notes.txt")
    return message


def test_the_parts_of_a_message_are_found_and_decoded() -> None:
    octets = sample().as_bytes()
    parts = list(leaves(parse(octets)))
    assert [part.content_type for part in parts] == ["text/plain", "text/html", "application/pdf", "text/plain"]
    assert [part.is_text for part in parts] == [True, True, False, False]
    assert text(octets, parts[0]) == "plain é\n"
    assert text(octets, parts[1]) == "<b>html é</b>\n"
    assert decoded(octets, parts[2]) == b"\x00\x01" * 500
    assert [part.filename for part in parts] == ["", "", "grüße.pdf", "notes.txt"]


def test_a_message_without_headers_or_body_is_text() -> None:
    for octets in (b"", b"\r\n", b"\r\nbody\r\n", b"From: a@b\r\n", b"From: a@b\r\n\r\n"):
        (part,) = leaves(parse(octets))
        assert part.content_type == "text/plain"
        assert part.start <= part.body <= part.end


def test_a_multipart_without_its_boundary_is_one_opaque_part() -> None:
    octets = b"Content-Type: multipart/mixed; boundary=x\r\n\r\nno boundary here\r\n"
    assert [part.content_type for part in leaves(parse(octets))] == ["multipart/mixed"]


def test_a_part_that_is_not_closed_goes_to_the_end() -> None:
    octets = b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\none\r\n--xy\r\nstill one\r\n--x\r\n\r\ntwo"
    assert [decoded(octets, part) for part in leaves(parse(octets))] == [b"one\r\n--xy\r\nstill one", b"two"]


def test_depth_and_number_of_parts_are_bounded() -> None:
    deep = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(500))
    assert len(list(leaves(parse(deep)))) == 1
    wide = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 5_000
    assert len(list(leaves(parse(wide)))) == 1_000


def test_lines_that_only_begin_like_a_boundary_are_counted() -> None:
    head = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    assert len(list(leaves(parse(head + b"--bx\r\n" * 4_000 + b"--b\r\n\r\nx\r\n" * 2)))) == 2
    assert len(list(leaves(parse(head + b"--bx\r\n" * 4_096 + b"--b\r\n\r\nx\r\n" * 2)))) == 1


def test_the_head_of_a_part_is_read_in_its_beginning_only() -> None:
    head = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
    for filler, kind in ((16_000, "image/png"), (17_000, "text/plain")):
        part = b"X: " + b"x" * filler + b"\r\nContent-Type: image/png\r\n\r\ny"
        (leaf,) = leaves(parse(head + part + b"\r\n--b--\r\n"))
        assert leaf.content_type == kind


def test_parameters_beyond_any_use_are_not_read() -> None:
    parameters = b"".join(b"; a%d=x" % number for number in range(65))
    assert len(parse(b"Content-Type: text/plain" + parameters + b"\r\n\r\n").parameters) == 64


def test_a_long_parameter_takes_no_memory_for_each_of_its_octets() -> None:
    octets = b'Content-Type: text/plain; a="' + b"x\\y" * 100_000 + b'"; b="' + b"z" * 100_000 + b"\r\n\r\n"
    tracemalloc.start()
    try:
        assert len(parse(octets).parameters["a"]) == 200_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * len(octets)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (b'attachment; filename="a\\"b.txt"', 'a"b.txt'),
        (b"attachment; filename*=utf-8''gr%C3%BC%C3%9Fe.txt", "grüße.txt"),
        (b"attachment; filename*0*=utf-8''gr%C3%BC; filename*1*=%C3%9Fe; filename*2=.txt", "grüße.txt"),
        (b'attachment; filename*0="long "; filename*1="name.txt"', "long name.txt"),
        (b"attachment; filename=\"x.txt\"; filename*=utf-8''%C3%BC.txt", "ü.txt"),
        (b"attachment; filename==?utf-8?B?w6k=?=.txt", "é.txt"),
        (b"attachment; filename*=nonsense''%FF", "\ufffd"),
        (b"attachment;;; =; filename", ""),
    ],
)
def test_file_names_are_read_in_all_the_ways_they_are_written(header: bytes, name: str) -> None:
    octets = b"Content-Disposition: " + header + b"\r\n\r\nx"
    assert parse(octets).filename == name


@pytest.mark.parametrize("body", [b"YWJj", b"YWJ", b"!!!", b"", b"YWJjZA"])
def test_broken_base64_is_read_as_far_as_it_can_be(body: bytes) -> None:
    octets = b"Content-Transfer-Encoding: base64\r\n\r\n" + body
    assert isinstance(decoded(octets, parse(octets)), bytes)


def test_an_unknown_charset_is_read_as_utf_8() -> None:
    octets = b"Content-Type: text/plain; charset=klingon\r\n\r\n\xc3\xa9"
    assert text(octets, parse(octets)) == "é"
