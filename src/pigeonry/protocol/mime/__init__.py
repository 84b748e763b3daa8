"""Internet messages as octets: reading and writing headers, addresses, MIME trees. Sans-IO, and quick about it."""
