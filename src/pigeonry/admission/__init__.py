"""May this come in now? Load, size, and which domain may send."""
