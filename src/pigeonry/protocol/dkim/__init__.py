"""DKIM signatures: canonical forms, keys and their DNS records, and the signer. Does no I/O."""
