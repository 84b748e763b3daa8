"""HAProxy with the configuration that is shipped, on a loopback address: changed in addresses and ports only."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pigeonry.ports.environment import Clock

__all__ = ["Balancer", "BalancerFailed", "placed"]

SHIPPED: Final = Path(__file__).parents[3] / "packaging" / "haproxy" / "haproxy.cfg"
PROGRAMS: Final = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"
READY_S: Final = 30.0  # until it has found the nodes good: two checks, a second apart
PROBE_S: Final = 0.1  # between two looks


class BalancerFailed(Exception):
    """HAProxy is not there, or did not come up; the text is a sentence for the report."""


def placed(
    text: str,
    address: str,
    *,
    fronts: Mapping[str, int],
    nodes: Sequence[str],
    ports: Mapping[str, int],
    certificate: Path,
    admin: Path,
) -> str:
    """The shipped file's text with our addresses.

    Args:
        fronts: The ports on this address for what the file binds at 80, 443, 587 and 465.
        nodes: The nodes' addresses, where the file says 10.0.0.11 and 10.0.0.12.
        ports: What the file calls 8080, 587, 465 and 9180, on the nodes.
        certificate: PEM, chain and key.
        admin: Its socket.
    """
    for number, node in enumerate(nodes):
        text = text.replace(f"10.0.0.{11 + number}:", f"{node}:")
    for door, port in fronts.items():
        text = re.sub(rf"bind :{door}\b", f"bind {address}:{port}", text)
    for shipped, port in ports.items():
        text = re.sub(rf"(127\.\S+:|\bport ){shipped}\b", rf"\g<1>{port}", text)
    text = text.replace("/etc/haproxy/pigeonry.pem", str(certificate))
    text = text.replace("/run/haproxy/admin.sock", str(admin))
    text = text.replace("maxconn 20000", "maxconn 500")  # within the descriptors that any user may have
    text = text.replace("log /dev/log local0", "log stdout format raw local0")
    return re.sub(r"    (user|group) haproxy\n", "", text)


class Balancer:
    """One HAProxy.

    Args:
        folder: For its files.
        fronts, nodes, ports, certificate: As ``placed`` has them.
    """

    def __init__(
        self,
        folder: Path,
        address: str,
        *,
        fronts: Mapping[str, int],
        nodes: Sequence[str],
        ports: Mapping[str, int],
        certificate: Path,
        clock: Clock,
    ) -> None:
        self.address = address
        self._clock = clock
        self._admin = folder / f"{address}.sock"
        self._config = folder / f"{address}.cfg"
        self._log = folder / f"{address}.log"
        self._process: asyncio.subprocess.Process | None = None
        self._config.write_text(
            placed(
                SHIPPED.read_text(),
                address,
                fronts=fronts,
                nodes=nodes,
                ports=ports,
                certificate=certificate,
                admin=self._admin,
            )
        )

    async def start(self) -> None:
        """Start it, and wait until it has found every node good.

        Raises:
            BalancerFailed: It did not.
        """
        program = shutil.which("haproxy", path=PROGRAMS)
        if program is None:
            raise BalancerFailed("haproxy is not installed (Debian: haproxy)")
        self._admin.unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(program, "-db", "-f", str(self._config)), stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        give_up = self._clock.monotonic() + READY_S
        while not await self._sees_all():
            if self._process.returncode is not None or self._clock.monotonic() > give_up:
                raise BalancerFailed(f"the balancer does not see all nodes; see {self._log}")
            await self._clock.sleep(PROBE_S)

    async def die(self) -> None:
        """End it with SIGKILL; nothing when it does not run."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def _sees_all(self) -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(self._admin)
        except OSError:
            return False
        try:
            writer.write(b"show stat\n")
            rows = [line.split(",") for line in (await reader.read()).decode().splitlines()]
        finally:
            writer.close()
        states = [row[17].split()[0] for row in rows if row[0] in ("api", "submission") and row[1].startswith("node")]
        return bool(states) and all(state == "UP" for state in states)
