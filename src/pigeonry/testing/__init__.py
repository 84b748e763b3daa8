"""The test kit: virtual time, seeded chance, and a small world of faulty mail servers. Never part of production."""
