"""What domains publish about TLS to their mail hosts: TLSA records, MTA-STS policies, reports."""
