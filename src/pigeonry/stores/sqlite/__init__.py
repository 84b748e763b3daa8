"""The embedded stores, on SQLite by apsw."""
