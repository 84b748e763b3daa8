import pytest

from pigeonry.compose import author
from pigeonry.compose.author import AUTHORS_KEPT, KEPT_CHARACTERS_MAX, author_of
from pigeonry.compose.form import Form
from pigeonry.domain.errors import BadAddress, BadRequest


def test_what_is_kept_and_what_is_read_anew_are_the_same() -> None:
    short = "Ann Example <ann@example.org>, bob@example.org, ANN@example.org"
    first, again = author_of(Form({"from": [short]})), author_of(Form({"from": [short]}))
    assert first is again
    assert [address.mailbox for address in first.addresses] == ["ann@example.org", "bob@example.org"]
    assert first.field == b"From: Ann Example <ann@example.org>, bob@example.org\r\n"
    long = short + " " * KEPT_CHARACTERS_MAX
    assert author_of(Form({"from": [long]})).field == first.field


def test_what_is_kept_is_bounded() -> None:
    for number in range(AUTHORS_KEPT + 10):
        author_of(Form({"from": [f"a{number}@example.org"]}))
    author_of(Form({"from": ["b@example.org" + " " * KEPT_CHARACTERS_MAX]}))
    assert author._kept.cache_info().currsize == AUTHORS_KEPT


@pytest.mark.parametrize("_time", [1, 2])
@pytest.mark.parametrize("fields", [{}, {"from": [""]}, {"from": [" , "]}])
def test_no_author_is_refused_each_time(fields: dict[str, list[str]], _time: int) -> None:
    with pytest.raises(BadRequest, match=r"^Parameter from is missing\.$"):
        author_of(Form(fields))


@pytest.mark.parametrize("_time", [1, 2])
def test_a_bad_author_is_refused_each_time(_time: int) -> None:
    with pytest.raises(BadAddress, match=r"^Parameter from: "):
        author_of(Form({"from": ["nobody"]}))
