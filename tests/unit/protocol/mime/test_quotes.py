import pytest

from pigeonry.protocol.mime.quotes import strip_quotes


@pytest.mark.parametrize(
    "tail",
    [
        "\n> old\n> lines",
        "\nOn Mon, 1 Jan 2024 at 10:00, Al <a@b.com> wrote:\n> old",
        "\nOn Mon, 1 Jan 2024 at 10:00, Al B\n<a@b.com> wrote:\n> old",
        "\n-----Original Message-----\nold",
        "\nFrom: Al\nSent: Monday\nold",
        "\n________________________________\nold",
    ],
)
def test_what_was_quoted_is_left_out(tail: str) -> None:
    assert strip_quotes("new text" + tail) == ("new text", "")


def test_the_signature_is_told_apart() -> None:
    assert strip_quotes("hello\n-- \nAl\nBoss\n> old") == ("hello", "Al\nBoss")


def test_text_without_marks_was_all_written() -> None:
    assert strip_quotes("From: here it is one line\nmore") == ("From: here it is one line\nmore", "")
    assert strip_quotes("") == ("", "")
