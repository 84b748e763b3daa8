"""The options by which a command says whose mail it is about: all that are given must apply."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

__all__ = ["Account", "Domain", "Site", "Source", "Tag", "To"]

Account = Annotated[str, Parameter(help="Mail of this account.")]
Domain = Annotated[str, Parameter(help="Mail from this sending domain.")]
To = Annotated[str, Parameter(help="Mail to recipients in this domain.")]
Tag = Annotated[str, Parameter(help="Mail with this tag.")]
Site = Annotated[str, Parameter(help="Mail to this receiving site.")]
Source = Annotated[str, Parameter(help="Mail that leaves from this address.")]
