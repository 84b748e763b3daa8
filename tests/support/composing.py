"""What tests of composing share: fixed time, counted ids, one sending domain."""

from pigeonry.compose.draft import Draft
from pigeonry.compose.form import Upload
from pigeonry.domain.tenant import SendingDomain
from pigeonry.protocol.mime.builder import base64_lines

NOW = 1_767_225_600.5


class FixedClock:
    def now(self) -> float:
        return NOW

    def monotonic(self) -> float:
        return 5.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here waits")


class CountingIds:
    def __init__(self) -> None:
        self._count = 0

    def octets(self, count: int) -> bytes:
        self._count += 1
        return self._count.to_bytes(count)


def sending_domain(**changes: object) -> SendingDomain:
    return SendingDomain(id="0" * 24, name="example.org", account="acct", created_at=0.0, **changes)  # type: ignore[arg-type]


def octets(draft: Draft) -> bytes:
    body = b"".join(draft.pieces) or draft.composed.body
    assert isinstance(body, bytes)
    assert draft.composed.summary.size == len(body)
    return body


def upload(name: str, content: bytes, *, field: str = "attachment", kind: str = "") -> Upload:
    return Upload(field, name, kind, len(content), [base64_lines(content)])
