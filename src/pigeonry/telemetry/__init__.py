"""What operators see: log lines and metrics, each with one name."""
