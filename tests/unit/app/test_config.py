from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pigeonry.app.config import (
    ConfigInvalid,
    default_data,
    load,
    node_address,
    node_name,
    resolved,
    sealing_key_path,
    smarthost_of,
    split_address,
    worker_count,
)
from pigeonry.app.egress import addresses_of, egress_pools
from pigeonry.app.output import toml_table
from pigeonry.app.tls import make_self_signed
from pigeonry.delivery.egress import SYSTEM_POOL
from pigeonry.domain.route import EgressPool, EgressSource
from pigeonry.domain.tenant import SendingDomain
from support.clusters import certificates


def written(folder: Path, text: str) -> str:
    path = folder / "pigeonry.toml"
    path.write_text(text)
    return str(path)


def problems(folder: Path, text: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigInvalid) as caught:
        load(written(folder, text), environ or {})
    return caught.value.problems


def test_nothing_need_be_set() -> None:
    settings = load(None, {})
    assert settings.smtp.trusted_networks == ()
    assert settings.delivery.route == "mx"


def test_the_file_is_read_and_the_environment_comes_after_it(tmp_path: Path) -> None:
    path = written(tmp_path, '[smtp]\nlisten = ["127.0.0.1:1025"]\nrecipients_max = 200\n')
    settings = load(path, {"PIGEONRY_SMTP__LISTEN": "127.0.0.1:25, [::1]:25", "PIGEONRY_NODE__WORKERS": "2"})
    assert settings.smtp.listen == ("127.0.0.1:25", "[::1]:25")
    assert settings.smtp.recipients_max == 200
    assert settings.node.workers == 2


def test_the_environment_takes_lists_as_toml_too() -> None:
    assert load(None, {"PIGEONRY_HTTP__LISTEN": '["127.0.0.1:1"]'}).http.listen == ("127.0.0.1:1",)
    assert load(None, {"PIGEONRY_HTTP__LISTEN": "[]"}).http.listen == ()


def test_variables_of_other_purposes_are_left_alone() -> None:
    assert load(None, {"PIGEONRY_CONFIG": "x", "PIGEONRYX__Y": "1", "PATH": "/bin"}) == load(None, {})


def test_an_unknown_key_names_the_nearest_one_we_know(tmp_path: Path) -> None:
    assert problems(tmp_path, '[smtp]\nlistn = ["127.0.0.1:25"]\n') == [
        "smtp.listn: unknown key; did you mean smtp.listen?"
    ]


def test_an_unknown_section_names_the_nearest_one_we_know(tmp_path: Path) -> None:
    assert problems(tmp_path, "[delivry]\n") == ["delivry: unknown section; did you mean delivery?"]


def test_an_unknown_variable_names_the_nearest_key() -> None:
    with pytest.raises(
        ConfigInvalid, match=r"PIGEONRY_SMTP__LISTN: unknown key smtp.listn; did you mean smtp.listen\?"
    ):
        load(None, {"PIGEONRY_SMTP__LISTN": "x"})


def test_a_section_given_a_value_is_said_to_be_a_section(tmp_path: Path) -> None:
    assert problems(tmp_path, 'smtp = "x"\n') == ["smtp: is a section, write it as [smtp]"]


def test_all_problems_are_said_at_once(tmp_path: Path) -> None:
    said = problems(tmp_path, '[smtp]\nconnections_max = "7"\nrecipients_max = 1\n[node]\nworkers = -1\n')
    assert said == [
        "smtp.connections_max: expected a whole number, got text",
        "smtp.recipients_max: expected a whole number >= 100",
        "node.workers: expected a whole number >= 0",
    ]


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0"])
def test_everybody_is_no_trusted_network(tmp_path: Path, network: str) -> None:
    (said,) = problems(tmp_path, f'[smtp]\ntrusted_networks = ["10.0.0.0/8", "{network}"]\n')
    assert said == f"smtp.trusted_networks: {network} would let anybody relay; name the networks that may"


def test_two_halves_of_the_internet_are_everybody_as_well(tmp_path: Path) -> None:
    (said,) = problems(tmp_path, '[smtp]\ntrusted_networks = ["0.0.0.0/1", "128.0.0.0/1"]\n')
    assert "together" in said


def test_a_network_with_host_bits_is_refused(tmp_path: Path) -> None:
    assert "host bits" in problems(tmp_path, '[smtp]\ntrusted_networks = ["10.0.0.1/8"]\n')[0]


@pytest.mark.parametrize("key", ["proxy_protocol_from", "forwarded_from"])
def test_not_everybody_is_believed_about_who_asks(tmp_path: Path, key: str) -> None:
    (said,) = problems(tmp_path, f'[edge]\n{key} = ["10.0.0.0/8", "0.0.0.0/0"]\n')
    assert said == f"edge.{key}: 0.0.0.0/0 would let anybody say who he is; name the networks that may"


@pytest.mark.parametrize("listen", ["25", "::1:25", ":25", "host:", "host:65536", "host:x", "host:-1"])
def test_what_is_no_address_is_refused(tmp_path: Path, listen: str) -> None:
    assert problems(tmp_path, f'[smtp]\nlisten = ["{listen}"]\n')[0].startswith("smtp.listen: ")


def test_tls_addresses_need_a_certificate(tmp_path: Path) -> None:
    assert problems(tmp_path, '[http]\ntls_listen = ["127.0.0.1:443"]\n') == [
        "tls.cert: is needed by the addresses in tls_listen"
    ]


def test_a_certificate_needs_its_key(tmp_path: Path) -> None:
    cert = written(tmp_path, "")
    assert problems(tmp_path, f'[tls]\ncert = "{cert}"\n') == [
        "tls: cert and key belong together; one of them is missing"
    ]


def test_files_that_are_no_pair_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_self_signed(tmp_path / f"{name}.pem", tmp_path / f"{name}.key", names=("localhost",), now=1_800_000_000.0)
    said = problems(tmp_path, f'[tls]\ncert = "{tmp_path}/a.pem"\nkey = "{tmp_path}/b.key"')
    assert said == [f"tls: {tmp_path}/a.pem and {tmp_path}/b.key cannot be used: they are no pair"]


def test_what_is_left_to_the_machine_can_be_shown() -> None:
    node = resolved(load(None, {}), {"STATE_DIRECTORY": "/var/lib/p"}).node
    assert (node.data, node.sealing_key) == ("/var/lib/p", "/var/lib/p.seal-key")
    assert node.hostname
    assert node.workers >= 1


def test_a_variable_with_one_underscore_too_few_is_an_error_and_what_others_set_is_not() -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load(None, {"PIGEONRY_SMTP_LISTEN": "127.0.0.1:25", "PIGEONRY_SMTP_PORT_25_TCP": "tcp://10.0.0.1:25"})
    assert caught.value.problems == ["PIGEONRY_SMTP_LISTEN: is no setting; did you mean PIGEONRY_SMTP__LISTEN?"]


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        load(str(tmp_path / "missing.toml"), {})
    assert "is not TOML" in problems(tmp_path, "[smtp\n")[0]


def test_more_workers_than_a_quarter_of_the_shards_are_refused(tmp_path: Path) -> None:
    assert problems(tmp_path, "[node]\nworkers = 9\nshards = 32\n") == [
        "node.shards: is 32; 9 workers need at least 36"
    ]


def test_workers_by_cores_never_exceed_what_the_shards_allow() -> None:
    assert 1 <= worker_count(load(None, {"PIGEONRY_NODE__SHARDS": "4"})) <= 1


def test_a_route_is_mx_or_a_smarthost() -> None:
    assert smarthost_of("mx") is None
    assert smarthost_of("smtp://127.0.0.1:2626") == ("127.0.0.1", 2626)
    assert smarthost_of("smtp://[::1]") == ("::1", 25)


@pytest.mark.parametrize(
    "route", ["MX", "smtp://", "http://host:1", "smtp://user:secret@host:25", "smtp://host:25/x", "host"]
)
def test_any_other_route_is_refused_without_repeating_a_secret(route: str) -> None:
    with pytest.raises(ValueError) as caught:
        smarthost_of(route)
    assert "secret" not in str(caught.value)


def test_an_address_is_split() -> None:
    assert split_address("[::1]:25") == ("::1", 25)
    assert split_address("0.0.0.0:0") == ("0.0.0.0", 0)


def test_systemd_names_the_data_folder_and_the_credential(tmp_path: Path) -> None:
    settings = load(None, {})
    assert default_data(settings, {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}) == "/var/lib/a"
    assert sealing_key_path(settings, {"STATE_DIRECTORY": "/var/lib/a"}) == "/var/lib/a.seal-key"
    (tmp_path / "pigeonry-seal").write_bytes(b"k")
    assert sealing_key_path(settings, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == str(tmp_path / "pigeonry-seal")


def cluster(folder: Path, **changes: str) -> str:
    certificates(folder / "certs", "a", "b")
    values = {name: f"{folder}/certs/{file}" for name, file in (("ca", "ca.crt"), ("cert", "a.crt"), ("key", "a.key"))}
    values = {"listen": "10.0.0.1:9300", **values, **changes}
    lines = [f"{name} = {[value] if name == 'listen' else value!r}" for name, value in values.items() if value]
    return "\n".join(["[cluster]", *lines, "[node]", 'name = "a"']).replace("'", '"') + "\n"


def test_a_node_of_a_cluster_is_reached_by_what_it_listens_on_or_says(tmp_path: Path) -> None:
    settings = load(written(tmp_path, cluster(tmp_path)), {})
    assert (node_name(settings), node_address(settings)) == ("a", "10.0.0.1:9300")
    elsewhere = load(written(tmp_path, cluster(tmp_path, listen="[::]:9300", advertise="a.example.org:9300")), {})
    assert node_address(elsewhere) == "a.example.org:9300"
    alone = load(None, {"PIGEONRY_NODE__HOSTNAME": "Mail.Example.ORG"})
    assert (node_name(alone), node_address(alone)) == ("mail.example.org", "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"listen": "0.0.0.0:9300"},
            "cluster.advertise: no other node reaches this one by 0.0.0.0:9300; say how it does",
        ),
        ({"listen": "[::]:9300"}, "cluster.advertise: no other node reaches this one by [::]:9300; say how it does"),
        ({"advertise": "a:0"}, "cluster.advertise: no other node reaches this one by a:0; say how it does"),
        ({"advertise": "a"}, "cluster.advertise: 'a' is not host:port, such as 127.0.0.1:8080"),
        ({"listen": "abc"}, "cluster.listen: 'abc' is not host:port, such as 127.0.0.1:8080"),
        ({"key": ""}, "cluster: ca, cert and key belong together; missing is key"),
        ({"key": "", "ca": "", "cert": ""}, "cluster: ca, cert and key belong together; missing is ca, cert, key"),
        (
            {"cert": "{certs}/b.crt"},
            "cluster: {certs}/ca.crt, {certs}/b.crt and {certs}/a.key cannot be used: key values mismatch",
        ),
        ({"cert": "{certs}/b.crt", "key": "{certs}/b.key"}, "cluster.cert: {certs}/b.crt names b, and this node is a"),
        ({"ca": "/no/such"}, "cluster: /no/such cannot be read (No such file or directory)"),
    ],
)
def test_a_node_that_others_could_not_reach_or_believe_is_told_why(
    tmp_path: Path, changes: dict[str, str], said: str
) -> None:
    certs = str(tmp_path / "certs")
    text = cluster(tmp_path, **{name: value.replace("{certs}", certs) for name, value in changes.items()})
    assert problems(tmp_path, text) == [said.replace("{certs}", certs)]


@pytest.mark.parametrize("name", ["A", "a b", "a/b", "-a", "a-", "a..b", ".", "*.test", "a" * 65, "a\\n"])
def test_a_name_that_no_certificate_could_carry_is_none(tmp_path: Path, name: str) -> None:
    assert "is no name of a node" in problems(tmp_path, f'[node]\nname = "{name}"\n')[0] or len(name) > 64


def test_cassandra_is_checked_as_a_whole(tmp_path: Path) -> None:
    assert problems(tmp_path, "[cassandra.replication]\ndc1 = 0\n") == [
        "cassandra.replication: expected a whole number >= 1 for each"
    ]
    assert problems(
        tmp_path,
        '[cassandra]\ncontact_points = ["a:9042", "b:9043", "host"]\nlease_keyspace = "pigeonry"\nusername = "x"\n'
        'tls_cert = "/nowhere"\n',
    ) == [
        "cassandra.contact_points: 'host' is not host:port, such as 127.0.0.1:8080",
        "cassandra.contact_points: all nodes must use the same port",
        "cassandra.local_datacenter: is needed with contact_points",
        "cassandra.lease_keyspace: is the same as keyspace",
        "cassandra: username and password_file belong together; one of them is missing",
        "cassandra: tls_cert and tls_key belong together; one of them is missing",
        "cassandra.tls_cert: /nowhere cannot be read (No such file or directory)",
    ]


def test_tables_are_read_from_file_and_environment(tmp_path: Path) -> None:
    path = written(tmp_path, "[cassandra.replication]\ndc1 = 3\n")
    settings = load(path, {"PIGEONRY_CASSANDRA__LEASE_REPLICATION": "{dc1 = 2, witness = 1}"}).cassandra
    assert settings.replication == {"dc1": 3}
    assert settings.lease_replication == {"dc1": 2, "witness": 1}


AND = "which may be one of theirs"
EGRESS = """
[egress]
default_pool = "shared"
[[egress.sources]]
id = "out-1"
address = "192.0.2.1"
hostname = "out-1.example.org"
[[egress.sources]]
id = "out-2"
address = "2001:DB8:0::2"
location = "fra"
[[egress.pools]]
id = "shared"
sources = { out-1 = 3, out-2 = 1 }
[[egress.pools]]
id = "dedicated"
sources = { out-2 = 1 }
on_site_loss = "pool:shared"
on_site_loss_grace_s = 5
on_site_loss_max_age_s = 7200
"""


def test_egress_sources_and_pools_are_read(tmp_path: Path) -> None:
    settings = load(written(tmp_path, EGRESS), {})
    pools, default = egress_pools(settings.egress)
    one = EgressSource("out-1", "192.0.2.1", "out-1.example.org")
    two = EgressSource("out-2", "2001:db8::2", location="fra")
    assert pools == (
        EgressPool("shared", ((one, 3), (two, 1)), "queue", 60.0, 0.0),
        EgressPool("dedicated", ((two, 1),), "pool:shared", 5.0, 7200.0),
    )
    assert default == "shared"
    assert two.is_for(node="any", location="fra")
    assert not two.is_for(node="any", location="")
    assert egress_pools(load(None, {}).egress) == ((SYSTEM_POOL,), "default")


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        (
            'hostname = "out-1',
            'hostnme = "out-1',
            "egress.sources[out-1].hostnme: unknown key; did you mean egress.sources[out-1].hostname?",
        ),
        ('address = "192.0.2.1"\n', "", "egress.sources[out-1]: has no address"),
        ('id = "out-1"\n', "", "egress.sources[1]: has no id"),
        ("192.0.2.1", "192.0.2.01", "egress.sources[out-1].address: '192.0.2.01' is no IP address"),
        ("192.0.2.1", "0.0.0.0", "egress.sources[out-1].address: 0.0.0.0 is no address that mail can leave from"),
        ("192.0.2.1", "2001:db8::2", "egress.sources: two have the address 2001:db8::2"),
        ("out-1.example.org", "out_1!", "egress.sources[out-1].hostname: 'out_1!' is no host name"),
        (
            "out-2 = 1 }\n[",
            "out-3 = 1 }\n[",
            "egress.pools[shared].sources: there is no source out-3; did you mean out-2?",
        ),
        ("out-1 = 3", "out-1 = 0", "egress.pools[shared].sources: expected a whole number >= 1 for each"),
        ("{ out-2 = 1 }", '["out-2"]', "egress.pools[dedicated].sources: expected a table, got a list"),
        ('id = "dedicated"', 'id = "shared"', "egress.pools: two have the id shared"),
        (
            "pool:shared",
            "pool:shred",
            "egress.pools[dedicated].on_site_loss: there is no pool shred; did you mean shared?",
        ),
        ("pool:shared", "pool:dedicated", "egress.pools[dedicated].on_site_loss: is the pool itself"),
        (
            "pool:shared",
            "wait",
            'egress.pools[dedicated].on_site_loss: \'wait\' is none of "queue", "shared" and "pool:ID"',
        ),
        (
            'default_pool = "shared"',
            'default_pool = "share"',
            "egress.default_pool: there is no pool share; did you mean shared?",
        ),
        (
            'default_pool = "shared"\n',
            "",
            "egress.default_pool: is needed once there are pools; without it the system would choose the address, "
            + AND,
        ),
        ("{ out-1 = 3, out-2 = 1 }", "{ out-2 = 1 }", "egress.sources[out-1]: is in no pool, so nothing would use it"),
    ],
)
def test_what_is_wrong_with_egress_is_said_with_its_place(tmp_path: Path, was: str, now: str, said: str) -> None:
    assert was in EGRESS
    assert said in problems(tmp_path, EGRESS.replace(was, now, 1))


def test_the_default_pool_is_no_shelter_for_itself(tmp_path: Path) -> None:
    text = EGRESS.replace('id = "shared"\n', 'id = "shared"\non_site_loss = "shared"\n')
    assert "egress.pools[shared].on_site_loss: it is the default pool itself" in problems(tmp_path, text)


def test_a_list_of_tables_is_shown_as_one() -> None:
    assert toml_table({"sources": [{"id": "a", "weights": {"x": 1}}], "lease_s": 30.0}, "egress") == (
        '[egress]\nlease_s = 30.0\n\n[[egress.sources]]\nid = "a"\nweights = {"x" = 1}\n'
    )


def test_a_domain_publishes_the_addresses_of_its_pools_and_of_those_that_stand_in(tmp_path: Path) -> None:
    addresses = addresses_of(load(written(tmp_path, EGRESS), {}).egress)
    plain = SendingDomain("1", "d.test", "acct", 0.0)
    assert addresses(plain) == ["192.0.2.1", "2001:db8::2"]
    assert addresses(msgspec.structs.replace(plain, pool="dedicated")) == ["2001:db8::2", "192.0.2.1"]
    assert addresses(msgspec.structs.replace(plain, pool="gone")) == []
    assert addresses_of(load(None, {}).egress)(plain) == []


def test_a_rule_book_file_that_cannot_be_relied_on_is_told_with_its_rule(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('id = "mine"\nname = "Mine"\nhosts = [".mine.test", ".qq.com"]\n')
    gone = tmp_path / "gone.toml"
    assert problems(tmp_path, f'[rulebook]\nfiles = ["{gone}"]') == [
        f"rulebook.files: {gone}: cannot be read (No such file or directory)"
    ]
    assert problems(tmp_path, f'[rulebook]\nfiles = ["{own}"]') == [
        "rulebook.files: .qq.com: is claimed by mine and tencent"
    ]
