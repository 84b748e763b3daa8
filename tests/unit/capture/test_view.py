from __future__ import annotations

from pigeonry.capture.view import header_text, part_octets, split_headers, view

MIXED = b"\r\n".join(
    [
        b"Subject: =?utf-8?q?caf=C3=A9?=",
        b"To: a@b.c,",
        b" d@e.f",
        b"Content-Type: multipart/mixed; boundary=x",
        b"",
        b"--x",
        b"Content-Type: multipart/alternative; boundary=y",
        b"",
        b"--y",
        b"Content-Type: text/plain; charset=utf-8",
        b"Content-Transfer-Encoding: base64",
        b"",
        b"Y2Fmw6k=",
        b"--y",
        b"Content-Type: text/html; charset=utf-8",
        b"",
        b"<img src=\"cid:Logo@x\"><img src='cid:none'>",
        b"--y--",
        b"--x",
        b"Content-Type: image/png",
        b"Content-ID: <logo@x>",
        b'Content-Disposition: inline; filename="l.png"',
        b"Content-Transfer-Encoding: base64",
        b"",
        b"aGVsbG8=",
        b"--x--",
        b"",
    ]
)


def test_text_and_html_are_found_and_the_rest_are_parts() -> None:
    seen = view(MIXED)
    assert seen.text == "café"
    assert seen.html is not None
    assert [(part.content_type, part.filename, part.size, part.inline) for part in seen.parts] == [
        ("image/png", "l.png", 5, True)
    ]


def test_pictures_of_the_message_are_put_in_and_others_are_not() -> None:
    html = view(MIXED, pictures=True).html
    assert html is not None
    assert 'src="data:image/png;base64,aGVsbG8="' in html
    assert "cid:none" in html


def test_a_part_is_handed_out_decoded() -> None:
    assert part_octets(MIXED, 2) == ("image/png", "l.png", b"hello")
    assert part_octets(MIXED, 3) is None


def test_header_fields_are_unfolded() -> None:
    fields = dict(split_headers(MIXED))
    assert fields["To"] == "a@b.c, d@e.f"
    assert header_text(fields["Subject"]) == "café"


def test_malformed_input_is_shown_as_it_stands() -> None:
    assert header_text("=?no-such-charset?q?x?=") == "=?no-such-charset?q?x?="
    assert view(b"Content-Type: text/plain; charset=nonsense\r\n\r\n\xff").text == "�"
    assert view(b"").text == ""
    assert view(b"Content-Type: multipart/mixed\r\n\r\nno boundary").parts[0].size == 11
