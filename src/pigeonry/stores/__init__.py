"""Real stores behind the ports: SQLite for one node, memory for tests. Chosen in ``app.wiring`` only."""
