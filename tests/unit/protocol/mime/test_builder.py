import base64
import quopri
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest

from pigeonry.domain.errors import BadRequest
from pigeonry.protocol.mime.builder import (
    Attachment,
    assemble,
    attachment,
    base64_lines,
    crlf_octets,
    quoted_printable,
    text_leaf,
)


def read(pieces: list[object]) -> EmailMessage:
    octets = b"Mime-Version: 1.0\r\n" + b"".join(pieces)  # type: ignore[arg-type]
    assert octets.isascii()
    assert b"\n" not in octets.replace(b"\r\n", b"")
    assert max(map(len, octets.split(b"\r\n"))) <= 998
    message = message_from_bytes(octets, policy=policy.default)
    assert isinstance(message, EmailMessage)
    assert not [defect for part in message.walk() for defect in part.defects]
    return message


def file(name: str = "a.txt", kind: str = "text/plain", content: bytes = b"content", cid: str = "") -> Attachment:
    return attachment(filename=name, content_type=kind, size=len(content), body=[base64_lines(content)], content_id=cid)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("short\n", "7bit"),
        ("x" * 998 + "\n", "7bit"),
        ("x" * 999 + "\n", "quoted-printable"),
        ("a\n" * 600 + "y" * 999, "quoted-printable"),
        ("caf\u00e9 = coffee \n", "quoted-printable"),
        ("nul \x00\n", "quoted-printable"),
        ("日本語のテキスト" * 50, "base64"),
    ],
)
def test_a_text_has_the_plainest_encoding_that_is_safe(text: str, encoding: str) -> None:
    message = read([*assemble([[text_leaf(b"plain", text)]], boundary=b"=_b")])
    assert message["Content-Transfer-Encoding"] == encoding
    assert message.get_content().replace("\r\n", "\n").rstrip("\n") == text.rstrip("\n")


@pytest.mark.parametrize("text", [b"a\nb", b"a\rb", b"a\r\nb", b"a\r\r\nb\n\r", b"", b"a"])
def test_all_line_ends_become_crlf(text: bytes) -> None:
    octets = crlf_octets(text)
    assert octets.count(b"\r") == octets.count(b"\n") == octets.count(b"\r\n")
    assert octets.replace(b"\r\n", b"\n") == text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def test_quoted_printable_reads_back() -> None:
    for text in ("=\x00 \r\n" + "x " * 300 + "\r\n", "é" * 999 + "\r\n", "a" * 76 + "\r\n", "\t\r\n", ". \r\n.\r\n"):
        octets = quoted_printable(text.encode())
        assert quopri.decodestring(octets) == text.encode()
        assert max(map(len, octets.split(b"\r\n"))) <= 78


def test_texts_files_and_inline_files_nest_as_mail_programs_expect() -> None:
    message = read(
        [
            *assemble(
                [[text_leaf(b"plain", "p")], [text_leaf(b"x-amp-html", "amp")], [text_leaf(b"html", "<b>h</b>")]],
                inline=[file("i.png", "image/png", b"\x89", "i.png")],
                attachments=[file(), file("b.bin", "", b"\x00" * 1_000)],
                boundary=b"=_b",
            )
        ]
    )
    assert [part.get_content_type() for part in message.walk()] == [
        "multipart/mixed",
        "multipart/related",
        "multipart/alternative",
        "text/plain",
        "text/x-amp-html",
        "text/html",
        "image/png",
        "text/plain",
        "application/octet-stream",
    ]
    image = list(message.walk())[6]
    assert image["Content-ID"] == "<i.png>"
    assert image.get_content_disposition() == "inline"
    assert [part.get_content() for part in message.iter_attachments()][-1] == b"\x00" * 1_000


def test_a_level_that_would_hold_one_thing_is_left_out() -> None:
    assert read([*assemble([[text_leaf(b"html", "x")]], boundary=b"=_b")]).get_content_type() == "text/html"
    two = read([*assemble([[text_leaf(b"plain", "x")]], attachments=[file()], boundary=b"=_b")])
    assert [part.get_content_type() for part in two.walk()] == ["multipart/mixed", "text/plain", "text/plain"]


@pytest.mark.parametrize("name", ["a.txt", 'q"uo.txt', "grüße.txt", "日本.pdf", "a b;c.txt", "x" * 255])
def test_a_file_name_is_read_back(name: str) -> None:
    message = read([*assemble([[text_leaf(b"plain", "x")]], attachments=[file(name)], boundary=b"=_b")])
    assert [part.get_filename() for part in message.iter_attachments()] == [name]


@pytest.mark.parametrize(
    ("given", "made"),
    [("../../etc/passwd", "passwd"), ("C:\\x\\a.doc", "a.doc"), ("", "attachment"), ("/", "attachment")],
)
def test_a_file_name_is_no_path(given: str, made: str) -> None:
    assert file(given).filename == made


@pytest.mark.parametrize("name", ["a\r\nB: c", "a\nb", "a\x00b", "a\x7fb", "x" * 256, "é" * 128])
def test_a_file_name_that_cannot_stand_in_a_header_is_refused(name: str) -> None:
    with pytest.raises(BadRequest, match="file name"):
        file(name)


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("image/png", "image/png"),
        ("IMAGE/PNG; x=y", "image/png"),
        ("", "application/pdf"),
        ("nonsense", "application/pdf"),
        ("text/plain\r\nX: y", "application/pdf"),
        ("message/rfc822", "application/octet-stream"),
        ("multipart/mixed; boundary=x", "application/octet-stream"),
    ],
)
def test_a_content_type_is_taken_if_it_is_one_that_base64_may_stand_in(given: str, made: str) -> None:
    made_file = file("a.pdf", given)
    assert made_file.content_type == made
    assert b"X: y" not in made_file.head


def test_the_charset_of_a_text_file_is_kept() -> None:
    assert b'; charset="iso-8859-1"' in file("a.txt", 'text/csv; charset="iso-8859-1"').head


def test_a_content_id_cannot_leave_its_brackets() -> None:
    assert (
        b"Content-ID: <a%3E%0D%0AX%20y.png>"
        in attachment(filename="a", content_type="", size=0, body=[], content_id="a>\r\nX y.png").head
    )


def test_base64_lines_have_76_characters() -> None:
    octets = bytes(range(256)) * 10
    lines = base64_lines(octets)
    assert max(map(len, lines.split(b"\r\n"))) == 76
    assert base64.b64decode(lines) == octets
