from __future__ import annotations

import io

import pytest

from pigeonry.app.dev import _print_table
from pigeonry.app.output import print_rows

ODD = "[/b] [red]x[/red] :smile:"  # rich would read it


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def at(out: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Standard output from here on; within a test, since pytest sets its own before."""
    monkeypatch.setattr("sys.stdout", out)
    return out


def test_a_table_shows_values_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = at(Terminal(), monkeypatch)
    print_rows([{"id": "1", "description": ODD}], ("id", "description"))
    assert ODD in terminal.getvalue()


def test_what_there_is_none_of_is_said_to_people_only(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = at(Terminal(), monkeypatch)
    print_rows([], ("id",), none="No keys yet")
    assert "No keys yet" in terminal.getvalue()
    piped = at(io.StringIO(), monkeypatch)
    print_rows([], ("id",), none="No keys yet")
    print_rows([{"id": "1", "description": ODD}], ("id", "description"))
    assert piped.getvalue() == f"1\t{ODD}\n"


def test_the_table_of_a_development_run_shows_where_everything_is(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = at(Terminal(), monkeypatch)
    facts = {
        "http": "http://127.0.0.1:8080",
        "inbox": "http://127.0.0.1:8080/inbox",
        "smtp": "smtp://127.0.0.1:2525",
        "domain": "sandbox.localhost",
        "api_key": ODD,
        "smtp_login": "postmaster@sandbox.localhost",
        "smtp_password": "pigeonry",
        "data": "/home/[x]/data",
    }
    _print_table(facts, try_it=f"curl --user api:{ODD}")
    said = terminal.getvalue()
    for value in (facts["inbox"], facts["smtp"], ODD, facts["data"], "postmaster@sandbox.localhost / pigeonry"):
        assert value in said
    assert f"curl --user api:{ODD}" in said
