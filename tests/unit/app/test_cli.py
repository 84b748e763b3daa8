from __future__ import annotations

import io
import json
import os
import pkgutil
import stat
import tomllib
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from pigeonry.app import commands, exits
from pigeonry.app.cli import main
from pigeonry.app.commands.location import confirm
from pigeonry.domain.errors import BadRequest


def test_what_a_command_makes_is_for_its_user_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = os.umask(0o022)
    try:
        with pytest.raises(SystemExit):
            main(["version"])
        (tmp_path / "folder").mkdir()
        (tmp_path / "file").touch()
    finally:
        os.umask(before)
    assert capsys.readouterr().out
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o700, 0o600}


class Shell:
    """Commands on an installation of their own."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch
        self.folder = folder
        monkeypatch.setenv("PIGEONRY_NODE__DATA", str(folder / "data"))
        monkeypatch.delenv("PIGEONRY_CONFIG", raising=False)

    def run(self, *words: str, typed: str = "") -> tuple[int, str, str]:
        """Exit status, standard output, standard error."""
        self._monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        before = os.umask(0o077)
        try:
            with pytest.raises(SystemExit) as ended:
                main(words)
        finally:
            os.umask(before)
        said = self._capsys.readouterr()
        assert "Traceback" not in said.err
        return int(ended.value.code or 0), said.out, said.err

    def json(self, *words: str, typed: str = "") -> Any:
        """What a command that succeeds prints with ``--json``: one value on one line."""
        status, out, err = self.run(*words, "--json", typed=typed)
        assert (status, err, out.count("\n")) == (0, "", 1)
        return json.loads(out)


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(tmp_path, capsys, monkeypatch)


def test_a_domain_a_key_and_a_login_are_made_listed_and_deleted(shell: Shell) -> None:
    made = shell.json("domain", "add", "Example.org")
    assert shell.json("domain", "dns", "example.org") == made
    assert [record["record_type"] for record in made["sending_dns_records"]] == ["TXT", "TXT"]
    key = shell.json("key", "create", "--domain", "example.org", "--description", "app")
    assert [shown["id"] for shown in shell.json("key", "list")["items"]] == [key["id"]]
    assert shell.json("smtp-cred", "add", "app@example.org", "--password-file", "-", typed="typed in\n")["password"]
    assert [shown["login"] for shown in shell.json("smtp-cred", "list")["items"]] == ["app@example.org"]
    assert shell.json("domain", "delete", "example.org") == {"name": "example.org", "deleted": True}
    assert [shell.json(what, "list")["items"] for what in ("domain", "key", "smtp-cred")] == [[], [], []]


def test_secrets_are_shown_once_and_kept_nowhere(shell: Shell) -> None:
    shell.json("domain", "add", "example.org")
    secrets = [shell.json("key", "create")["key"], shell.json("smtp-cred", "add", "app@example.org")["password"]]
    listed = shell.run("key", "list")[1] + shell.run("smtp-cred", "list")[1] + shell.run("domain", "list")[1]
    kept = b"".join(path.read_bytes() for path in shell.folder.rglob("*") if path.is_file())
    for secret in secrets:
        assert secret not in listed
        assert secret.encode() not in kept
    assert b"PRIVATE KEY" not in kept


@pytest.mark.parametrize("source", ["/no/such/file", "/", "/bin/sh"])
def test_a_password_file_that_cannot_be_read_is_named(shell: Shell, source: str) -> None:
    shell.json("domain", "add", "example.org")
    status, _, err = shell.run("smtp-cred", "add", "app@example.org", "--password-file", source)
    assert status == 1
    assert err.startswith(f"pigeonry: --password-file: {source} cannot be read: ")


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        ("domain add a_b", exits.FAILED, "a_b is not a name that mail can be sent from, such as mail.example.org."),
        ("domain dns a.example", exits.NOT_FOUND, "`pigeonry domain list` shows those there are."),
        ("key delete x", exits.NOT_FOUND, "`pigeonry key list` shows those there are."),
        ("smtp-cred delete x@a.example", exits.NOT_FOUND, "`pigeonry smtp-cred list` shows those there are."),
        ("smtp-cred add x", exits.FAILED, "x is not an address, such as app@mail.example.org."),
        ("queue show", exits.UNREACHABLE, "does `pigeonry serve` run with this configuration?"),
        ("events count", exits.NOT_FOUND, "data: does `pigeonry serve` run with this configuration?"),
        ("queue drop x", exits.NOT_FOUND, "Message not found"),
        ("serve --config /no/such", exits.CONFIG, "/no/such: cannot be read (No such file or directory)"),
        ("dev --api-key=", exits.CONFIG, "--api-key: a key has 1 to 256 characters that can be typed"),
        ("dev --data=", exits.CONFIG, "--data: names no folder"),
        ("dev --smtp 25", exits.CONFIG, "--smtp: '25' is not host:port, such as 127.0.0.1:8080"),
    ],
)
def test_an_error_says_what_to_do_next_and_has_its_status(shell: Shell, words: str, status: int, sentence: str) -> None:
    got, out, err = shell.run(*words.split())
    assert (got, out) == (status, "")
    assert err.startswith("pigeonry: ")
    assert sentence in err


@pytest.mark.parametrize("words", ["domain list", "queue show", "events count"])
def test_what_is_another_users_is_not_looked_at(shell: Shell, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.json("domain", "list")
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    status, _, err = shell.run(*words.split())
    assert status == exits.CONFIG
    assert "run this as that user" in err


def test_the_settings_are_shown_as_they_would_be_used(shell: Shell) -> None:
    shown = shell.json("config", "show")
    assert shown["node"]["data"] == str(shell.folder / "data")
    assert tomllib.loads(shell.run("config", "show")[1]) == shown
    assert shell.json("config", "check") == {"valid": True, "problems": []}
    assert shell.json("config", "schema") == json.loads(shell.run("config", "schema")[1])


def test_certificates_of_nodes_are_made_and_renewed(shell: Shell) -> None:
    folder = shell.folder / "certs"
    made = shell.json("cluster", "certs", "make", str(folder), "--node", "a", "--node", "mx1.example.org")
    names = ["ca.key", "ca.crt", "a.key", "a.crt", "mx1.example.org.key", "mx1.example.org.crt"]
    assert made == {"files": [str(folder / name) for name in names]}
    again = shell.json("cluster", "certs", "make", str(folder), "--node", "a", "--days", "30")
    assert again == {"files": [str(folder / "a.crt")]}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--node", "ca"], "A node cannot be called ca"),
        (["--node", "../x"], "'../x' is no name of a node"),
        (["--node", "A"], "'A' is no name of a node"),
        (["--node", ""], "'' is no name of a node"),
        (["--node", "a" * 65], "is no name of a node"),
        (["--node", "a", "--days", "0"], "--days: is between 1 and 3650"),
    ],
)
def test_certificates_that_cannot_be_made_are_not(shell: Shell, words: list[str], sentence: str) -> None:
    status, out, err = shell.run("cluster", "certs", "make", str(shell.folder / "certs"), *words)
    assert (status, out) == (exits.FAILED, "")
    assert sentence in err
    assert not (shell.folder / "certs").exists()


def test_a_folder_for_certificates_that_cannot_be_used_is_named(shell: Shell) -> None:
    (shell.folder / "file").touch()
    status, _, err = shell.run("cluster", "certs", "make", str(shell.folder / "file"), "--node", "a")
    assert status == exits.FAILED
    assert str(shell.folder / "file") in err


def test_an_account_is_limited_and_shown_with_its_limits(shell: Shell) -> None:
    shell.run("key", "create")
    (before,) = json.loads(shell.run("account", "list", "--json")[1])["items"]
    assert (before["hourly"], before["daily"]) == (0, 0)
    said = json.loads(shell.run("account", "limit", before["id"], "--hourly", "100", "--json")[1])
    assert (said["hourly"], said["daily"]) == (100, 0)
    status, out, _ = shell.run("account", "limit", before["id"], "--daily", "1000")
    assert (status, out) == (exits.OK, f"Account {before['id']} may send to 100 an hour and 1000 a day recipients.\n")
    assert shell.run("account", "limit", "nobody", "--daily", "1")[0] == exits.NOT_FOUND
    assert shell.run("account", "limit", before["id"])[0] == exits.FAILED
    assert shell.run("account", "limit", before["id"], "--daily", "-1")[0] == exits.FAILED


def test_a_location_is_given_up_by_who_says_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    confirm("dc1", "dc1")
    with pytest.raises(BadRequest, match="Nothing was done"):
        confirm("dc1", "dc2")
    with pytest.raises(BadRequest, match="--yes-i-know dc1"):
        confirm("dc1", "")  # nobody sits at a terminal here
    monkeypatch.setattr("sys.stdin", Terminal("dc1\n"))
    confirm("dc1", "")
    monkeypatch.setattr("sys.stdin", Terminal("yes\n"))
    with pytest.raises(BadRequest, match="Nothing was done"):
        confirm("dc1", "")


class Terminal(io.StringIO):
    """Somebody types."""

    def isatty(self) -> bool:
        return True


def test_the_rule_book_is_reported_and_all_its_rules_fire(shell: Shell) -> None:
    told = shell.json("rules", "report")
    assert told["not_firing"] == []
    assert told["totals"]["providers"] == len(told["providers"])
    status, out, _ = shell.run("rules", "report")
    assert status == exits.OK
    assert out.splitlines()[-1].endswith("all rules fire")


def test_what_a_reply_would_do_is_said(shell: Shell) -> None:
    reply = "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred"
    told = shell.json("rules", "test", reply, "--mx", "MTA5.am0.yahoodns.net.")
    assert (told["provider"], told["rule"], told["action"]) == ("yahoo", "yahoo.complaints", "suspend-source")
    assert shell.json("rules", "test", "550-5.1.1 no\\n550 5.1.1 such user", "--answers", "rcpt")["suppresses"] is True
    assert shell.run("rules", "test", "250 ok")[0] == exits.NOT_FOUND
    status, _, err = shell.run("rules", "test", "hello")
    assert (status, err) == (exits.USAGE, "pigeonry: 'hello' is no SMTP reply, such as 550 5.1.1 No such user\n")


def test_every_command_but_serve_can_be_read_by_a_program() -> None:
    silent = [
        f"{name}.{function}"
        for _, name, _ in pkgutil.iter_modules(commands.__path__)
        for function in import_module(f"{commands.__name__}.{name}").__all__
        if "json" not in signature(getattr(import_module(f"{commands.__name__}.{name}"), function)).parameters
    ]
    assert silent == ["serve.serve"]
