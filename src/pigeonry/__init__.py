"""pigeonry: an email delivery platform that an organisation runs itself.

A message reads down the folders: doors -> admission, auth -> compose -> queue -> delivery -> events.
ARCHITECTURE.md at the root of the repository follows one message through them.
"""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("pigeonry")
