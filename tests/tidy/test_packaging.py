"""What is shipped for others to run: the bounds that nobody sees until somebody attacks."""

from __future__ import annotations

import re
from pathlib import Path

SHIPPED = Path(__file__).parents[2] / "packaging" / "haproxy" / "haproxy.cfg"


def test_every_http_frontend_of_the_balancers_bounds_the_time_of_a_head() -> None:
    """`timeout client` begins anew with each octet: alone, one drop every few seconds holds a connection for hours."""
    sections = re.split(r"^(?=\S)", SHIPPED.read_text(), flags=re.MULTILINE)
    frontends = [section for section in sections if section.startswith("frontend ") and "\n    mode http\n" in section]
    assert [section.split()[1] for section in frontends] == ["http", "https"]
    assert all("\n    timeout http-request " in section for section in frontends)
