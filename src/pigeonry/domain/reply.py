"""What an SMTP server says: a reply code, an enhanced status and text.

Standards: RFC 5321 section 4.2 (replies), RFC 2034 and RFC 3463 section 2 (enhanced status codes).
"""

import msgspec

__all__ = ["EnhancedStatus", "Reply"]


class EnhancedStatus(msgspec.Struct, frozen=True, order=True):
    """Subject and detail of an enhanced status code (RFC 3463 section 2).

    The class digit is absent on purpose: it is always the first digit of the reply that carries it,
    so the two cannot disagree.
    """

    subject: int
    detail: int


class Reply(msgspec.Struct, frozen=True):
    """One SMTP reply.

    Args:
        code: The three-digit reply code.
        text: The text without code, enhanced status or line ends. Lines are separated by LF.
        status: The enhanced status, None where there is none (greeting, EHLO, 354).
    """

    code: int
    text: str
    status: EnhancedStatus | None = None

    @property
    def positive(self) -> bool:
        """Whether the peer agreed (2yz, or 3yz: go on)."""
        return 200 <= self.code < 400

    @property
    def permanent(self) -> bool:
        """Whether trying again is useless (5yz)."""
        return 500 <= self.code < 600

    @property
    def enhanced_code(self) -> str:
        """The enhanced status code as text, such as ``5.1.1``; empty when there is none."""
        if self.status is None:
            return ""
        return f"{self.code // 100}.{self.status.subject}.{self.status.detail}"

    def octets(self) -> bytes:
        """The reply as it goes on the wire, multi-line where the text has several lines."""
        enhanced = self.enhanced_code
        prefix = f"{enhanced} " if enhanced else ""
        lines = self.text.split("\n")
        out = [f"{self.code}-{prefix}{line}\r\n" for line in lines[:-1]]
        out.append(f"{self.code} {prefix}{lines[-1]}\r\n")
        return "".join(out).encode("utf-8", "replace")
