"""The settings of the SMTP door as it takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pigeonry.doors.smtp.config import SmtpDoorConfig
from pigeonry.protocol.smtp.service import Limits as SmtpLimits

if TYPE_CHECKING:
    from pigeonry.app.settings import Settings

__all__ = ["smtp_config"]


def smtp_config(settings: Settings, hostname: str, *, dev: bool) -> SmtpDoorConfig:
    """What the settings say of it.

    Args:
        dev: Whether passwords may be said in clear text, which development on loopback alone allows.
    """
    smtp = settings.smtp
    return SmtpDoorConfig(
        hostname=hostname,
        limits=SmtpLimits(message_octets_max=smtp.message_octets_max, recipients_max=smtp.recipients_max),
        trusted_networks=smtp.trusted_networks,
        allow_plain_auth=dev,
        connections_max=smtp.connections_max,
        idle_s=smtp.idle_s,
    )
