"""Real parts for the end-to-end tests: each starts on loopback, in a folder of its own, and stops by its pid."""
