"""One request of 1,000 recipients with variables, again and again: how long until it is durable.

usage: batch.py [--requests 100] [--recipients 1000]

The node has two workers and the shipped configuration; delivery to a sink goes on meanwhile.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import tempfile
import time
from pathlib import Path
from urllib.parse import urlencode

from ingest import CONFIG, WORKERS
from parts import PIGEONRY, Group, Sink, free_port, greets, pigeonry_json, started, until

DOMAIN = "bench.test"
BAR_MS = 250.0
PAUSE_S = 1.0  # between requests: the bar is for one request, not for a node that is a million behind


def form(recipients: int, number: int) -> bytes:
    """A batch as programs send it: every recipient with variables of its own."""
    addresses = [f"r{number}x{index}@dest.test" for index in range(recipients)]
    variables = {address: {"name": f"Person {index}", "code": index} for index, address in enumerate(addresses)}
    fields = {
        "from": f"News <news@{DOMAIN}>",
        "to": ",".join(addresses),
        "subject": "Hello %recipient.name%",
        "text": "Dear %recipient.name%, your code is %recipient.code%.\n" * 20,
        "html": "<p>Dear <b>%recipient.name%</b>, your code is %recipient.code%.</p>\n" * 20,
        "recipient-variables": json.dumps(variables),
    }
    return urlencode(fields).encode()


def main() -> None:
    """Send the batches one after the other and print the distribution."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--recipients", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pigeonry-batch-") as name:
        folder = Path(name)
        sink, group = Sink(), Group("batch")
        port, smtp = free_port(), free_port()
        config = folder / "pigeonry.toml"
        config.write_text(
            CONFIG.format(folder=folder, workers=WORKERS, http=port, smtp=smtp, sink=sink.port, ops=free_port())
        )
        pigeonry_json(config, "domain", "add", DOMAIN)
        key = str(pigeonry_json(config, "key", "create")["key"])
        server = started([str(PIGEONRY), "serve", "--config", str(config)], group, folder / "serve.log")
        try:
            until(lambda: greets(smtp), "the node greets")
            times = _send(port, key, requests=options.requests, recipients=options.recipients)
            server.terminate()
            server.wait(60)
        finally:
            group.end()
            sink.stop()
    times.sort()
    p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
    print(f"requests {len(times)}, recipients each {options.recipients}")
    print(f"p50 {times[len(times) // 2]:.0f} ms, p99 {p99:.0f} ms (bar {BAR_MS:.0f} ms), longest {times[-1]:.0f} ms")


def _send(port: int, key: str, *, requests: int, recipients: int) -> list[float]:
    headers = {
        "Authorization": "Basic " + base64.b64encode(f"api:{key}".encode()).decode(),
        "Content-Type": "application/x-www-form-urlencoded",
    }
    times = []
    for number in range(requests):
        body = form(recipients, number)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        begun = time.perf_counter()
        connection.request("POST", f"/v3/{DOMAIN}/messages", body, headers)
        answer = connection.getresponse()
        text = answer.read()
        times.append((time.perf_counter() - begun) * 1000)
        connection.close()
        assert answer.status == 200, text
        time.sleep(PAUSE_S)
    return times


if __name__ == "__main__":
    main()
