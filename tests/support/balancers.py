"""HAProxy with the configuration that is shipped, and clients that know two balancers and never stop."""

from __future__ import annotations

import base64
import http.client
import itertools
import shutil
import smtplib
import socket
import ssl
import threading
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pigeonry.drills.balancer import placed
from support.process import Daemon, free_port, until

SHIPPED = Path(__file__).parents[2] / "packaging" / "haproxy" / "haproxy.cfg"
PAUSE_S = 0.03  # between two messages of one client: steady work, and room for everything else on two cores


class Balancer:
    """One HAProxy on an address of its own, the nodes behind it where the file says 10.0.0.11 and 10.0.0.12.

    Args:
        nodes: The nodes' addresses.
        ports: What the file calls 8080, 587, 465 and 9180, on the nodes.
        certificate: PEM, chain and key.
    """

    def __init__(
        self, folder: Path, address: str, *, nodes: Sequence[str], ports: Mapping[str, int], certificate: Path
    ) -> None:
        self.address = address
        self.fronts = {door: free_port(address) for door in ("80", "443", "587", "465")}
        self._admin = folder / f"{address}.sock"
        self._config = folder / f"{address}.cfg"
        self._config.write_text(
            placed(
                SHIPPED.read_text(),
                address,
                fronts=self.fronts,
                nodes=nodes,
                ports=ports,
                certificate=certificate,
                admin=self._admin,
            )
        )
        self._log = folder / f"{address}.log"

    def start(self, *more: str) -> None:
        program = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        assert program is not None
        self.daemon = Daemon([program, "-db", "-f", str(self._config), *more], self._log)
        until(lambda: self._serves() or self.daemon.process.poll() is not None, "HAProxy runs")
        assert self.daemon.process.poll() is None, self.daemon.tail()

    def reload(self) -> Daemon:
        """A successor takes over the listening sockets; the process of before, which ends with its last session."""
        before = self.daemon
        self.start("-x", str(self._admin), "-sf", str(before.process.pid))
        return before

    def states(self, backend: str) -> list[str]:
        """How it sees the nodes: UP, NOLB (takes no new ones), DOWN."""
        rows = [line.split(",") for line in self._ask("show stat")]
        return [row[17].split()[0] for row in rows if row[0] == backend and row[1].startswith("node")]

    def _serves(self) -> bool:
        """Whether it is this process that answers."""
        with suppress(OSError):
            return f"Pid: {self.daemon.process.pid}" in self._ask("show info")
        return False

    def _ask(self, command: str) -> list[str]:
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(self._admin))
            admin.sendall(f"{command}\n".encode())
            said = b""
            while piece := admin.recv(65_536):
                said += piece
        return said.decode().splitlines()

    def sees(self, *states: str) -> bool:
        """Whether it sees the nodes so, in every backend."""
        return all(self.states(backend) == list(states) for backend in ("api", "submission", "submissions"))


class Load:
    """Clients that send until they are stopped, each over one connection as long as that lasts.

    Args:
        balancers: As DNS would give them: a client that cannot reach one takes the next.
        source: The clients' address.
    """

    def __init__(self, balancers: Sequence[Balancer], *, source: str, key: str, domain: str) -> None:
        self._balancers = balancers
        self._source = source
        self._domain = domain
        self._login = base64.b64encode(f"api:{key}".encode()).decode()
        self._tls = ssl.create_default_context()
        self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE
        self._stop = threading.Event()
        self._numbers = itertools.count()
        self.acknowledged: Counter[str] = Counter()
        self.by_balancer: Counter[str] = Counter()
        self.failures: list[str] = []
        self.failed: Counter[int] = Counter()  # how often, by client
        self._at: dict[int, str] = {}  # by client: the balancer that it has a connection to

    @contextmanager
    def running(self, *, requests: int, sessions: int, submissions: int) -> Iterator[None]:
        """Run so many clients of HTTPS, of SMTP with STARTTLS offered, and of SMTP inside TLS."""
        kinds = [self._request] * requests + [self._session] * sessions + [self._submission] * submissions
        threads = [threading.Thread(target=self._keep, args=(work, client)) for client, work in enumerate(kinds)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def sent(self, balancer: Balancer) -> int:
        """Messages acknowledged through a balancer."""
        return self.by_balancer[balancer.address]

    def clients_of(self, balancer: Balancer) -> set[int]:
        """Who is at a balancer now."""
        return {client for client, address in tuple(self._at.items()) if address == balancer.address}

    def _keep(self, work, client: int) -> None:
        turn = client
        while not self._stop.is_set():
            balancer = self._balancers[turn % len(self._balancers)]
            self._at[client] = balancer.address
            try:
                work(balancer)
            except ConnectionRefusedError:
                turn += 1  # nobody there: no request was lost by that
            except (OSError, http.client.HTTPException, smtplib.SMTPException, AssertionError) as error:
                self.failed[client] += 1
                self.failures.append(f"{work.__name__} by {balancer.address}: {error!r}")

    def _recipient(self, kind: str) -> str:
        return f"{kind}-{next(self._numbers)}@dest.test"

    def _done(self, recipient: str, balancer: Balancer) -> bool:
        self.acknowledged[recipient] += 1
        self.by_balancer[balancer.address] += 1
        return self._stop.wait(PAUSE_S)

    def _request(self, balancer: Balancer) -> None:
        """Requests over one connection, as long as it is kept."""
        connection = http.client.HTTPSConnection(
            balancer.address,
            balancer.fronts["443"],
            timeout=20,
            source_address=(self._source, 0),
            context=self._tls,
        )
        headers = {
            "Authorization": f"Basic {self._login}",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        try:
            while True:
                recipient = self._recipient("http")
                fields = {"from": f"a@{self._domain}", "to": recipient, "subject": "x", "text": "x"}
                connection.request("POST", f"/v3/{self._domain}/messages", urllib.parse.urlencode(fields), headers)
                answer = connection.getresponse()
                said = answer.read()
                assert answer.status == 200, (answer.status, said)
                if self._done(recipient, balancer) or answer.getheader("connection") == "close":
                    return
        finally:
            connection.close()

    def _session(self, balancer: Balancer) -> None:
        """Transactions in one session, until it is ended by a 421 between two of them."""
        client = smtplib.SMTP(timeout=20, source_address=(self._source, 0))
        self._transactions(client, balancer, "587", "smtp")

    def _submission(self, balancer: Balancer) -> None:
        """The same inside TLS."""
        client = smtplib.SMTP_SSL(timeout=20, source_address=(self._source, 0), context=self._tls)
        self._transactions(client, balancer, "465", "smtps")

    def _transactions(self, client: smtplib.SMTP, balancer: Balancer, door: str, kind: str) -> None:
        client._host = balancer.address  # type: ignore[attr-defined]  # for the name in TLS, which nobody checks
        try:
            code, _ = client.connect(balancer.address, balancer.fronts[door])
            if code == 421:
                return
            assert code == 220, code
            code, _ = client.ehlo("client.test")
            while True:
                recipient = self._recipient(kind)
                if code != 421:
                    code, _ = client.docmd("MAIL FROM:<a@other.test>")
                if code == 421:
                    return  # at a command boundary, no transaction under way: connect again
                assert (code, client.docmd(f"RCPT TO:<{recipient}>")[0]) == (250, 250)
                assert client.docmd("DATA")[0] == 354
                client.send(b"Subject: x\r\n\r\ntext\r\n.\r\n")
                code, said = client.getreply()
                assert code == 250, (code, said)
                if self._done(recipient, balancer):
                    return
        finally:
            with suppress(OSError):
                client.close()
