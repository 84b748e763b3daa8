"""What the server says, written once: texts for people, codes for programs.

Replies that every message meets are encoded here, once for all; the rest are encoded when they are said.

Standards: RFC 5321 section 4.2 (codes), RFC 3463 (enhanced codes), RFC 4954 section 6 (AUTH), RFC 6531 section 3.7.4.2.
"""

from __future__ import annotations

from typing import Final

from pigeonry.domain.reply import EnhancedStatus, Reply
from pigeonry.protocol.smtp.data import TextProblem


def _encoded(code: int, text: str, subject: int, detail: int) -> bytes:
    return Reply(code, text, EnhancedStatus(subject, detail)).octets()


OK: Final = _encoded(250, "OK", 0, 0)
SENDER_OK: Final = _encoded(250, "OK", 1, 0)
RECIPIENT_OK: Final = _encoded(250, "OK", 1, 5)
CHUNK_OK: Final = _encoded(250, "Chunk received", 0, 0)
GO_AHEAD: Final = b"354 End with <CRLF>.<CRLF>\r\n"
BYE: Final = _encoded(221, "Bye", 0, 0)
CANNOT_VERIFY: Final = _encoded(252, "Not verified; send a message and see", 1, 5)
HELP: Final = _encoded(214, "See RFC 5321", 0, 0)
READY_FOR_TLS: Final = _encoded(220, "Ready to start TLS", 0, 0)
AUTHENTICATED: Final = _encoded(235, "Authentication succeeded", 7, 0)

CLOSING: Final = Reply(421, "Closing: the service is restarting, connect again", EnhancedStatus(3, 2))
ENOUGH_ERRORS: Final = Reply(421, "Too many errors", EnhancedStatus(7, 0))
ENOUGH_COMMANDS: Final = Reply(421, "Too many commands without a message", EnhancedStatus(7, 0))
ENOUGH_LOGINS: Final = Reply(421, "Too many failed logins", EnhancedStatus(7, 0))
ENOUGH_TRANSACTIONS: Final = Reply(421, "Enough messages on this connection, connect again", EnhancedStatus(7, 0))
NOT_SMTP: Final = Reply(421, "This is SMTP", EnhancedStatus(5, 1))

LINE_TOO_LONG: Final = Reply(500, "Line too long", EnhancedStatus(5, 2))
BAD_LINE: Final = Reply(500, "A line ends with CRLF and holds no other CR, LF or NUL", EnhancedStatus(5, 2))
UNKNOWN: Final = Reply(500, "Command not recognised", EnhancedStatus(5, 1))
NO_ARGUMENT: Final = Reply(501, "The command takes no argument", EnhancedStatus(5, 4))
NOT_OFFERED: Final = Reply(502, "Command not implemented", EnhancedStatus(5, 1))
HELLO_FIRST: Final = Reply(503, "Send EHLO first", EnhancedStatus(5, 1))
MAIL_FIRST: Final = Reply(503, "Send MAIL first", EnhancedStatus(5, 1))
RCPT_FIRST: Final = Reply(503, "Send a valid RCPT first", EnhancedStatus(5, 1))
NESTED: Final = Reply(503, "A mail transaction is open: finish it or send RSET", EnhancedStatus(5, 1))

AUTH_REQUIRED: Final = Reply(530, "Authentication required", EnhancedStatus(7, 0))
AUTH_NEEDS_TLS: Final = Reply(538, "Encryption required: start TLS first", EnhancedStatus(7, 11))
AUTH_DONE: Final = Reply(503, "Already authenticated", EnhancedStatus(5, 1))
AUTH_CANCELLED: Final = Reply(501, "Authentication cancelled", EnhancedStatus(7, 0))
AUTH_UNKNOWN: Final = Reply(504, "Mechanism not supported: use PLAIN or LOGIN", EnhancedStatus(5, 4))
TLS_GROUPED: Final = Reply(503, "Nothing may follow STARTTLS before TLS is up", EnhancedStatus(5, 1))

TOO_MANY_RECIPIENTS: Final = Reply(452, "Too many recipients: send the rest in another message", EnhancedStatus(5, 3))
TOO_LARGE: Final = Reply(552, "The message is larger than this server takes", EnhancedStatus(3, 4))
CHUNKS_REFUSED: Final = Reply(503, "An earlier chunk was refused: send RSET", EnhancedStatus(5, 1))

TEXT_PROBLEMS: Final = {
    TextProblem.BARE_LINE_END: Reply(550, "The message holds a bare CR or LF", EnhancedStatus(6, 11)),
    TextProblem.LINE_TOO_LONG: Reply(550, "The message holds a line that is too long", EnhancedStatus(6, 0)),
    TextProblem.TOO_LARGE: TOO_LARGE,
}
