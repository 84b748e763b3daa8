"""Version 3 of the API: one module for each resource, each with ``routes(...)``."""
