"""What Mailgun's API has no word for: ``/v1/pigeonry``."""
