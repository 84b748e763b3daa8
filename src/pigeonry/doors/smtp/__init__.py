"""Mail in by SMTP: submission with a login, and relay for networks that are trusted by name.

``SmtpDoor`` makes the protocols of its listeners; one ``Connection`` drives one ``protocol.smtp.server`` session.
"""

from pigeonry.doors.smtp.config import SmtpDoorConfig
from pigeonry.doors.smtp.listener import SmtpDoor

__all__ = ["SmtpDoor", "SmtpDoorConfig"]
