"""What a process counts and measures, with one name each, for Prometheus.

What happens per message is a plain addition to a ``Tally``; everything else is asked of the parts when somebody
scrapes. So a message costs well under a microsecond here, and a part that nobody scrapes costs nothing.

docs/reference/metrics.md has a line for each metric; a test holds it to ``CATALOGUE``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final, Literal

import msgspec
from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from pigeonry.domain.outcome import Outcome

__all__ = ["CATALOGUE", "Metrics", "Sample", "Tally"]

Sample = tuple[tuple[str, ...], float]
Source = Callable[[], Iterable[Sample]]


class Described(msgspec.Struct, frozen=True):
    """One metric.

    Args:
        meaning: One sentence: what it counts, or what a high value says.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()


CATALOGUE: Final = (
    Described(
        "pigeonry_messages_accepted_total", "counter", "Messages accepted: durable, and ours to deliver.", ("door",)
    ),
    Described("pigeonry_recipients_accepted_total", "counter", "Recipients of accepted messages.", ("door",)),
    Described(
        "pigeonry_messages_refused_total",
        "counter",
        "Messages that were complete and not taken, because the store could not in time.",
        ("door",),
    ),
    Described(
        "pigeonry_attempts_total",
        "counter",
        "Delivery attempts by what they came to: delivered, deferred, refused, in_doubt, withdrawn.",
        ("outcome",),
    ),
    Described("pigeonry_queue_recipients", "gauge", "Recipients in memory: waiting, dispatched or in an attempt."),
    Described("pigeonry_content_octets", "gauge", "Octets of messages kept in memory for their first attempt."),
    Described("pigeonry_delivery_connections", "gauge", "Outgoing connections, standing or being opened."),
    Described(
        "pigeonry_tls_broken_hosts",
        "gauge",
        "Receiving hosts whose broken TLS is remembered: mail goes to them with any certificate (certificate), or in "
        "clear (handshake), unless more is demanded.",
        ("broken",),
    ),
    Described(
        "pigeonry_quota_units",
        "gauge",
        "Units of limits that hold over all workers, such as connections to a site: held by this worker, and used.",
        ("state",),
    ),
    Described(
        "pigeonry_quota_shrunk",
        "gauge",
        "1 while shares of limits cannot be renewed: only safe parts of them are used, none where the limit is 1.",
    ),
    Described(
        "pigeonry_rates_safe",
        "gauge",
        "1 while what is left of rates cannot be asked: each worker keeps to its part of each rate, one at a time.",
    ),
    Described(
        "pigeonry_account_limit_refused_total", "counter", "Messages refused because their account was over its limit."
    ),
    Described(
        "pigeonry_egress_source",
        "gauge",
        "1 for how this node stands with an egress source: owned, elsewhere (another node holds the lease of an "
        "address that this one has: a mistake), absent, unanswered (its lease could not be renewed).",
        ("source", "state"),
    ),
    Described(
        "pigeonry_egress_source_lent",
        "gauge",
        "1 while another node lends a source to this one, which owns no address of a pool that it is in.",
        ("source",),
    ),
    Described(
        "pigeonry_egress_pool_up",
        "gauge",
        "1 while there is an address of a pool to send from, owned or lent by another node, else 0.",
        ("pool",),
    ),
    Described(
        "pigeonry_egress_relayed_connections",
        "gauge",
        "Connections that this worker makes from its addresses for mail of other nodes.",
    ),
    Described(
        "pigeonry_egress_relays_refused_total",
        "counter",
        "Connections that other nodes asked for and that were not theirs to have: no address of ours, no place where "
        "our mail would go, too many of them, or we were about to stop.",
    ),
    Described(
        "pigeonry_egress_waiting_recipients",
        "gauge",
        "Recipients that were found to wait for an address of a pool when they were last looked at.",
        ("pool",),
    ),
    Described("pigeonry_door_connections", "gauge", "Incoming connections that stand.", ("door",)),
    Described(
        "pigeonry_proxy_headers_refused_total",
        "counter",
        "Connections closed before their door had them, by reason: malformed or late (a balancer's PROXY header), "
        "crowded (others were quicker, with their header or with TLS).",
        ("door", "reason"),
    ),
    Described("pigeonry_bodies_in_flight_octets", "gauge", "Octets of requests received and not answered yet."),
    Described("pigeonry_shedding", "gauge", "1 while the store asks the doors to refuse, else 0."),
    Described("pigeonry_log_head", "gauge", "Events in the log of the shards owned: the sum of their highest numbers."),
    Described(
        "pigeonry_ledger_difference",
        "gauge",
        "Recipients by which the store's counts and its events differ, for minutes of acceptance that are over: "
        "anything but 0 is an error of ours, and the log says where.",
    ),
    Described(
        "pigeonry_event_gaps_total",
        "counter",
        "Events that are missing from the log: their numbers were given out and they are not there.",
    ),
    Described("pigeonry_index_lag_events", "gauge", "Events that are in the log and not in the search index yet."),
    Described(
        "pigeonry_cluster_connections",
        "gauge",
        "Connections of other nodes for commands, once they have shown who they are.",
    ),
    Described(
        "pigeonry_cluster_refused_total",
        "counter",
        "Connections for commands that were refused, by why: handshake, slow (others were quicker), peer (it is no "
        "member, or speaks no version of ours), resources.",
        ("reason",),
    ),
    Described(
        "pigeonry_cluster_unreachable_total", "counter", "Commands to other nodes that came back without an answer."
    ),
    Described(
        "pigeonry_cluster_certificate_expires_seconds",
        "gauge",
        "When the certificate that this node shows other nodes ends, in seconds since the Unix epoch.",
    ),
    Described(
        "pigeonry_loop_late_seconds", "histogram", "How late the event loop ran a timer: over 0.1 it is overloaded."
    ),
)
_LATE_BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_OUTCOMES: Final = {
    "Delivered": "delivered",
    "Deferred": "deferred",
    "Refused": "refused",
    "InDoubt": "in_doubt",
    "Withdrawn": "withdrawn",
}


class Tally:
    """What happens per message, as plain numbers."""

    __slots__ = ("attempts", "messages", "recipients", "refused")

    def __init__(self) -> None:
        self.messages = {"http": 0, "smtp": 0}
        self.recipients = {"http": 0, "smtp": 0}
        self.refused = {"http": 0, "smtp": 0}
        self.attempts = dict.fromkeys(_OUTCOMES.values(), 0)

    def accepted(self, door: str, recipients: int) -> None:
        """A message was accepted."""
        self.messages[door] += 1
        self.recipients[door] += recipients

    def attempted(self, outcome: Outcome) -> None:
        """An attempt came to an outcome."""
        self.attempts[_OUTCOMES[type(outcome).__name__]] += 1


class Metrics:
    """The metrics of one process.

    Args:
        tally: What is counted per message.
        sources: For metrics of the catalogue, by name: their samples, asked for at each scrape.
    """

    def __init__(self, tally: Tally, sources: Mapping[str, Source]) -> None:
        self._sources: dict[str, Source] = {
            "pigeonry_messages_accepted_total": lambda: _by_key(tally.messages),
            "pigeonry_recipients_accepted_total": lambda: _by_key(tally.recipients),
            "pigeonry_messages_refused_total": lambda: _by_key(tally.refused),
            "pigeonry_attempts_total": lambda: _by_key(tally.attempts),
            **sources,
        }
        late = next(metric for metric in CATALOGUE if metric.kind == "histogram")
        self._registry = CollectorRegistry(auto_describe=False)
        self._late = Histogram(late.name, late.meaning, buckets=_LATE_BUCKETS, registry=self._registry)
        ProcessCollector(registry=self._registry)
        self._registry.register(self)

    def loop_late(self, seconds: float) -> None:
        """A timer of the loop ran so late."""
        self._late.observe(seconds)

    def page(self) -> bytes:
        """The exposition."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """Everything but the histograms, as prometheus_client asks for it."""
        for metric in CATALOGUE:
            source = self._sources.get(metric.name)
            if source is None:
                continue
            family = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            made = family(metric.name, metric.meaning, labels=metric.labels)
            for labels, value in source():
                made.add_metric(labels, value)
            yield made


def _by_key(numbers: Mapping[str, int]) -> Iterable[Sample]:
    return [((key,), value) for key, value in numbers.items()]
