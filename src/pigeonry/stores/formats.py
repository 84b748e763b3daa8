"""What every engine says of data that this release cannot work with."""

from __future__ import annotations

__all__ = ["NewerFormat", "SchemaUnusable"]


class NewerFormat(Exception):
    """The store was written by a newer release; its text says so for the operator."""


class SchemaUnusable(Exception):
    """The store's schema is not there, is older, or is not as the settings say; its text says what to do."""
