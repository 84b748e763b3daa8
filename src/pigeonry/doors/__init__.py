"""Where mail and requests come in: one package for each protocol, all handing over ``domain.submission.Submission``."""
