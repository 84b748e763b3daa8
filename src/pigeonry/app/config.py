"""Configuration: a TOML file, then the environment, checked as a whole before anything starts.

Every problem is reported at once, each with the key it is about; a key we do not know is an error that names the
nearest one we do. ``PIGEONRY_SECTION__KEY`` in the environment overrides ``key`` in ``[section]``.

Trust: the file and the environment belong to the operator; what they say is still checked, since a wrong
``trusted_networks`` makes an open relay.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import socket
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec

from pigeonry.app.egress import egress_problems
from pigeonry.app.rulebook import rule_book_problems
from pigeonry.app.settings import NODE_NAME, CassandraSettings, Settings, TlsSettings
from pigeonry.domain.networks import Networks
from pigeonry.net.sealing import CREDENTIAL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "ENV_PREFIX",
    "ConfigInvalid",
    "default_data",
    "load",
    "node_address",
    "node_name",
    "own_hostname",
    "resolved",
    "rows_of",
    "sealing_key_path",
    "smarthost_of",
    "split_address",
    "worker_count",
]

ENV_PREFIX: Final = "PIGEONRY_"
_EVERYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104  # as something that nobody can connect to
SHARDS_PER_WORKER: Final = 4  # below it a worker more or less would leave the load uneven


class ConfigInvalid(Exception):
    """The configuration cannot be used. ``problems`` has one sentence for each fault."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(path: str | None, environ: Mapping[str, str]) -> Settings:
    """The settings of a file and the environment.

    Args:
        path: The TOML file; None for defaults and environment only.

    Raises:
        ConfigInvalid: With every problem there is.
    """
    problems: list[str] = []
    tree = _read(path, problems) if path is not None else {}
    _overlay(tree, environ, problems)
    settings = _convert(tree, problems)
    if not problems:
        _judge(settings, problems)
    if problems:
        raise ConfigInvalid(problems)
    return settings


def default_data(settings: Settings, environ: Mapping[str, str]) -> str:
    """The data folder: as set, else systemd's state folder, else the usual one."""
    return settings.node.data or environ.get("STATE_DIRECTORY", "").split(":")[0] or "/var/lib/pigeonry"


def sealing_key_path(settings: Settings, environ: Mapping[str, str]) -> str:
    """The file of the sealing key: as set, else a systemd credential, else beside the data folder."""
    if settings.node.sealing_key:
        return settings.node.sealing_key
    credentials = environ.get("CREDENTIALS_DIRECTORY", "")
    if credentials and (Path(credentials) / CREDENTIAL).exists():
        return str(Path(credentials) / CREDENTIAL)
    return str(Path(default_data(settings, environ)).absolute()) + ".seal-key"


def resolved(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """The settings with what is left to the machine filled in."""
    node = msgspec.structs.replace(
        settings.node,
        data=str(Path(default_data(settings, environ)).absolute()),
        hostname=own_hostname(settings),
        name=node_name(settings),
        workers=worker_count(settings),
        sealing_key=sealing_key_path(settings, environ),
    )
    return msgspec.structs.replace(settings, node=node)


def worker_count(settings: Settings) -> int:
    """How many workers to run: as set, else one for each core we may use and the shards allow."""
    if settings.node.workers:
        return settings.node.workers
    usable = getattr(os, "sched_getaffinity", None)
    cores = len(usable(0)) if usable else os.cpu_count() or 1
    return max(1, min(cores, settings.node.shards // SHARDS_PER_WORKER))


def own_hostname(settings: Settings) -> str:
    """The name this node says it has: as set, else the machine's."""
    return settings.node.hostname or socket.getfqdn()


def node_name(settings: Settings) -> str:
    """The name this node has among the nodes of a cluster: as set, else its host name."""
    return settings.node.name or own_hostname(settings).lower()


def node_address(settings: Settings) -> str:
    """``host:port`` by which other nodes reach this one; empty where they cannot."""
    return settings.cluster.advertise or next(iter(settings.cluster.listen), "")


def split_address(text: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[ipv6]:port``.

    Raises:
        ValueError: It is neither, with a sentence that says so.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"{text!r} is not host:port, such as 127.0.0.1:8080")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r}: write an IPv6 address in brackets, [{host}]:{port}")
    if not host:
        raise ValueError(f"{text!r} has no host; 0.0.0.0 or [::] stand for every address")
    return host, int(port)


def smarthost_of(route: str) -> tuple[str, int] | None:
    """Host and port of ``smtp://host:port``; None for ``mx``.

    Raises:
        ValueError: It is neither, with a sentence that says so.
    """
    if route == "mx":
        return None
    url = urlsplit(route)
    if url.scheme != "smtp" or not url.hostname or url.path not in {"", "/"} or url.query or url.fragment:
        raise ValueError(f'{route!r} is neither "mx" nor "smtp://host:port"')
    if url.username is not None or url.password is not None:
        raise ValueError("a login has no place in the route")
    return url.hostname, url.port or 25


def _read(path: str, problems: list[str]) -> dict[str, Any]:
    try:
        with Path(path).open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        problems.append(f"{path}: cannot be read ({error.strerror})")
    except tomllib.TOMLDecodeError as error:
        problems.append(f"{path}: is not TOML: {error}")
    except UnicodeDecodeError:
        problems.append(f"{path}: is not UTF-8")
    return {}


def _overlay(tree: dict[str, Any], environ: Mapping[str, str], problems: list[str]) -> None:
    """Put the environment's values over the file's."""
    sections = get_type_hints(Settings)
    for name in sorted(environ):
        if not name.startswith(ENV_PREFIX):
            continue
        if "__" not in name:
            _check_underscore(name, sections, problems)
            continue
        section, _, key = name[len(ENV_PREFIX) :].lower().partition("__")
        if section not in sections:
            problems.append(f"{name}: unknown section {section!r}{_suggestion(section, sections)}")
            continue
        hints = get_type_hints(sections[section])
        if key not in hints:
            problems.append(f"{name}: unknown key {section}.{key}{_suggestion(key, hints, prefix=section + '.')}")
            continue
        table = tree.setdefault(section, {})
        if isinstance(table, dict):
            table[key] = _from_text(environ[name], hints[key])


def _check_underscore(name: str, sections: Mapping[str, type], problems: list[str]) -> None:
    """``PIGEONRY_SMTP_LISTEN`` was meant as a setting; what else begins with our name is not ours to judge."""
    section, _, key = name[len(ENV_PREFIX) :].lower().partition("_")
    if section in sections and key in get_type_hints(sections[section]):
        problems.append(f"{name}: is no setting; did you mean {ENV_PREFIX}{section.upper()}__{key.upper()}?")


def _from_text(text: str, hint: Any) -> Any:
    """The environment has only text: read it as the key's type would stand in the file."""
    if hint is str or get_origin(hint) is Literal:
        return text
    if get_origin(hint) is tuple and not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _convert(tree: dict[str, Any], problems: list[str]) -> Settings:
    """Sections and keys one by one, so that all that is wrong is said at once."""
    sections = get_type_hints(Settings)
    made: dict[str, Any] = {}
    for section, table in tree.items():
        if section not in sections:
            problems.append(f"{section}: unknown section{_suggestion(section, sections)}")
        elif not isinstance(table, dict):
            problems.append(f"{section}: is a section, write it as [{section}]")
        else:
            made[section] = _convert_section(section, sections[section], table, problems)
    return Settings(**{name: value for name, value in made.items() if value is not None})


def _convert_section(section: str, kind: type, table: dict[str, Any], problems: list[str]) -> Any:
    hints = get_type_hints(kind, include_extras=True)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in hints:
            problems.append(f"{section}.{key}: unknown key{_suggestion(key, hints, prefix=section + '.')}")
            continue
        rows = rows_of(hints[key])
        if rows is not None and isinstance(value, list) and all(isinstance(row, dict) for row in value):
            values[key] = _convert_rows(f"{section}.{key}", rows, value, problems)
            continue
        try:
            values[key] = msgspec.convert(value, type=hints[key], strict=True)
        except msgspec.ValidationError as error:
            problems.append(f"{section}.{key}: {_plain(str(error))}")
    missing = [field.name for field in msgspec.structs.fields(kind) if field.required and field.name not in table]
    problems.extend(f"{section}: has no {name}" for name in missing)
    return None if any(f.required and f.name not in values for f in msgspec.structs.fields(kind)) else kind(**values)


def rows_of(hint: Any) -> type | None:
    """What a list of tables consists of; None for any other type."""
    kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    of = get_args(kind)[0] if get_origin(kind) is tuple else None
    return of if isinstance(of, type) and issubclass(of, msgspec.Struct) else None


def _convert_rows(key: str, kind: type, rows: list[dict[str, Any]], problems: list[str]) -> tuple[Any, ...]:
    """A list of tables: each is named by its id in what is said of it, by its place if it has none."""
    names = [row["id"] if isinstance(row.get("id"), str) else str(at) for at, row in enumerate(rows, 1)]
    made = [_convert_section(f"{key}[{name}]", kind, row, problems) for name, row in zip(names, rows, strict=True)]
    return tuple(row for row in made if row is not None)


_WORDS: Final = {
    "`int`": "a whole number",
    "`float`": "a number",
    "`str`": "text",
    "`array`": "a list",
    "`bool`": "true or false",
    "`object`": "a table",
}


def _plain(message: str) -> str:
    """Msgspec's sentence in the words of TOML."""
    for word, meaning in _WORDS.items():
        message = message.replace(word, meaning)
    message = message.replace(" - at `$[...]`", " for each")
    return message[:1].lower() + message[1:]


def _suggestion(word: str, known: Mapping[str, Any], *, prefix: str = "") -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {prefix}{near[0]}?" if near else f"; known are {', '.join(known)}"


def _judge(settings: Settings, problems: list[str]) -> None:
    """What the types cannot say."""

    def attempt(key: str, check: Callable[[str], Any], *values: str) -> None:
        for value in values:
            try:
                check(value)
            except ValueError as error:
                problems.append(f"{key}: {error}")

    attempt("http.listen", split_address, *settings.http.listen)
    attempt("http.tls_listen", split_address, *settings.http.tls_listen)
    attempt("smtp.listen", split_address, *settings.smtp.listen)
    attempt("smtp.tls_listen", split_address, *settings.smtp.tls_listen)
    attempt("ops.listen", split_address, *settings.ops.listen)
    _judge_trust("smtp.trusted_networks", settings.smtp.trusted_networks, "would let anybody relay", problems)
    edge = settings.edge
    _judge_trust("edge.proxy_protocol_from", edge.proxy_protocol_from, "would let anybody say who he is", problems)
    _judge_trust("edge.forwarded_from", edge.forwarded_from, "would let anybody say who he is", problems)
    attempt("delivery.route", smarthost_of, settings.delivery.route)
    attempt("delivery.private_networks", ipaddress.ip_network, *settings.delivery.private_networks)
    attempt("dns.nameservers", _nameserver, *settings.dns.nameservers)
    _judge_cassandra(settings.cassandra, problems)
    tls = settings.tls
    if bool(tls.cert) != bool(tls.key):
        problems.append("tls: cert and key belong together; one of them is missing")
    attempt("tls.cert", _readable, *([tls.cert] if tls.cert else []))
    attempt("tls.key", _readable, *([tls.key] if tls.key else []))
    _judge_certificate(tls, problems)
    if (settings.http.tls_listen or settings.smtp.tls_listen) and not tls.cert:
        problems.append("tls.cert: is needed by the addresses in tls_listen")
    _judge_cluster(settings, problems)
    if settings.delivery.retry_base_s > settings.delivery.retry_cap_s:
        problems.append("delivery.retry_base_s: is over delivery.retry_cap_s")
    problems += egress_problems(settings.egress)
    problems += rule_book_problems(settings.rulebook.files)
    workers = worker_count(settings)
    if settings.node.shards < workers * SHARDS_PER_WORKER:
        problems.append(
            f"node.shards: is {settings.node.shards}; {workers} workers need at least {workers * SHARDS_PER_WORKER}"
        )


def _judge_cassandra(cassandra: CassandraSettings, problems: list[str]) -> None:
    ports = set()
    for point in cassandra.contact_points:
        try:
            ports.add(split_address(point)[1])
        except ValueError as error:
            problems.append(f"cassandra.contact_points: {error}")
    if len(ports) > 1:
        problems.append("cassandra.contact_points: all nodes must use the same port")
    if cassandra.contact_points and not cassandra.local_datacenter:
        problems.append("cassandra.local_datacenter: is needed with contact_points")
    if cassandra.keyspace == cassandra.lease_keyspace:
        problems.append("cassandra.lease_keyspace: is the same as keyspace")
    if bool(cassandra.username) != bool(cassandra.password_file):
        problems.append("cassandra: username and password_file belong together; one of them is missing")
    if bool(cassandra.tls_cert) != bool(cassandra.tls_key):
        problems.append("cassandra: tls_cert and tls_key belong together; one of them is missing")
    for key in ("password_file", "tls_ca", "tls_cert", "tls_key"):
        if path := getattr(cassandra, key):
            try:
                _readable(path)
            except ValueError as error:
                problems.append(f"cassandra.{key}: {error}")


def _judge_certificate(tls: TlsSettings, problems: list[str]) -> None:
    """Two files that can be read may still be no pair."""
    if any(problem.startswith("tls") for problem in problems) or not tls.cert:
        return
    from pigeonry.app.tls import server_context

    try:
        server_context(tls.cert, tls.key)
    except OSError as error:
        reason = getattr(error, "reason", "") or str(error)
        said = "they are no pair" if reason == "KEY_VALUES_MISMATCH" else reason.lower().replace("_", " ")
        problems.append(f"tls: {tls.cert} and {tls.key} cannot be used: {said}")


def _judge_trust(key: str, networks: tuple[str, ...], harm: str, problems: list[str]) -> None:
    """Networks that are believed: each well formed, and not everybody, neither one of them nor two halves together."""
    sound = []
    for text in networks:
        try:
            alone = Networks([text])
        except ValueError as error:
            problems.append(f"{key}: {error}")
            continue
        if alone.has_everybody:
            problems.append(f"{key}: {text} {harm}; name the networks that may")
        else:
            sound.append(text)
    if Networks(sound).has_everybody:
        problems.append(f"{key}: together they {harm}; name the networks that may")


def _judge_cluster(settings: Settings, problems: list[str]) -> None:
    """What this node is called, how other nodes reach it, and what it shows them."""
    if settings.node.name and not re.fullmatch(NODE_NAME, settings.node.name):
        problems.append(f"node.name: {settings.node.name!r} is no name of a node, such as node-1 or mx1.example.org")
    cluster, before = settings.cluster, len(problems)
    for key, values in (("listen", cluster.listen), ("advertise", (cluster.advertise,) if cluster.advertise else ())):
        for value in values:
            try:
                host, port = split_address(value)
            except ValueError as error:
                problems.append(f"cluster.{key}: {error}")
                continue
            if value == node_address(settings) and (not port or host in _EVERYWHERE):
                problems.append(f"cluster.advertise: no other node reaches this one by {value}; say how it does")
    files = {"ca": cluster.ca, "cert": cluster.cert, "key": cluster.key}
    missing = [name for name, path in files.items() if not path]
    if missing and (len(missing) < len(files) or cluster.listen):
        problems.append(f"cluster: ca, cert and key belong together; missing is {', '.join(missing)}")
    if not missing and len(problems) == before:
        _judge_node_certificate(settings, problems)


def _judge_node_certificate(settings: Settings, problems: list[str]) -> None:
    from pigeonry.app.cluster_tls import ClusterTls

    cluster = settings.cluster
    try:
        for path in (cluster.ca, cluster.cert, cluster.key):
            _readable(path)
        names = ClusterTls(cluster.ca, cluster.cert, cluster.key).names
    except ValueError as error:
        problems.append(f"cluster: {error}")
        return
    except OSError as error:
        reason = (getattr(error, "reason", "") or str(error)).lower().replace("_", " ")
        problems.append(f"cluster: {cluster.ca}, {cluster.cert} and {cluster.key} cannot be used: {reason}")
        return
    if node_name(settings) not in names:
        named = ", ".join(sorted(names)) or "nothing"
        problems.append(f"cluster.cert: {cluster.cert} names {named}, and this node is {node_name(settings)}")


def _nameserver(text: str) -> None:
    host = split_address(text)[0] if text.count(":") == 1 or text.startswith("[") else text
    ipaddress.ip_address(host)


def _readable(path: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from None
