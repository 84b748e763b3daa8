"""The vocabulary: frozen data and plain errors. Does no I/O and imports nothing of ours."""
