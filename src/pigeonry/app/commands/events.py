"""``pigeonry events count``: what the log holds, read from its files, whether the node runs or not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pigeonry.app.local import node_data
from pigeonry.app.output import ConfigFile, Json, print_json, print_rows
from pigeonry.domain.errors import NotFound

__all__ = ["count"]

_COUNT = (
    "SELECT octets ->> '$.event', octets ->> '$.severity', count(*) FROM event WHERE length(octets) > 0 GROUP BY 1, 2"
)


def count(*, config: ConfigFile = None, json: Json = False) -> None:
    """Count the events by what they say: accepted, delivered, failed for now and for good, rejected."""
    import apsw

    _, data = node_data(config)
    if not Path(data).exists():
        raise NotFound(f"There is no data folder {data}: does `pigeonry serve` run with this configuration?")
    counts: Counter[str] = Counter(accepted=0, delivered=0, failed_temporary=0, failed_permanent=0, rejected=0)
    for path in sorted(Path(data).glob("shards/*/*.db")):
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        for kind, severity, number in connection.execute(_COUNT):
            counts[kind if severity is None else f"{kind}_{severity}"] += number
        connection.close()
    if json:
        print_json(dict(counts))
    else:
        print_rows([{"event": kind, "count": number} for kind, number in counts.items()], ("event", "count"))
