from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from pigeonry.telemetry.exposition import merge
from pigeonry.telemetry.metrics import Metrics, Tally


def page(messages: int) -> bytes:
    tally = Tally()
    for _ in range(messages):
        tally.accepted("http", 2)
    return Metrics(tally, {"pigeonry_queue_recipients": lambda: [((), 7.0)]}).page()


def test_samples_of_two_processes_stand_under_one_head_each_with_its_label() -> None:
    merged = merge({"0": page(1), "1": page(3)}, label="worker").decode()
    families = {family.name: family for family in text_string_to_metric_families(merged)}
    accepted = families["pigeonry_messages_accepted"]
    found = {(s.labels["worker"], s.labels["door"]): s.value for s in accepted.samples}
    assert found == {("0", "http"): 1.0, ("0", "smtp"): 0.0, ("1", "http"): 3.0, ("1", "smtp"): 0.0}
    assert {s.labels["worker"]: s.value for s in families["pigeonry_queue_recipients"].samples} == {"0": 7.0, "1": 7.0}
    assert merged.count("# TYPE pigeonry_messages_accepted_total counter") == 1


def test_histograms_stay_together() -> None:
    merged = merge({"0": page(0), "1": page(0)}, label="worker").decode()
    families = {family.name: family for family in text_string_to_metric_families(merged)}
    names = {sample.name for sample in families["pigeonry_loop_late_seconds"].samples}
    assert {"pigeonry_loop_late_seconds_bucket", "pigeonry_loop_late_seconds_sum"} <= names


def test_a_value_with_a_brace_in_a_label_is_left_as_it_is() -> None:
    assert merge({"0": b'a{b="{x y}"} 1\n'}, label="w") == b'a{w="0",b="{x y}"} 1\n'


def test_nothing_makes_nothing() -> None:
    assert merge({}, label="worker") == b""
