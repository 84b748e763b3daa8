"""``pigeonry dev``."""

from __future__ import annotations

import asyncio
import gc
from typing import Annotated

from cyclopts import Parameter

from pigeonry.app.output import Json

__all__ = ["dev"]


def dev(
    *,
    data: Annotated[
        str, Parameter(help="Folder that keeps everything; the next run goes on from it.")
    ] = "./.pigeonry/dev",
    http: Annotated[str | None, Parameter(help="HOST:PORT of API and inbox, on loopback.")] = None,
    smtp: Annotated[str | None, Parameter(help="HOST:PORT of SMTP submission, on loopback.")] = None,
    api_key: Annotated[str, Parameter(help="The key to use instead of `dev`.")] = "dev",
    json: Json = False,
) -> int:
    """Run the API, SMTP submission and a capture inbox in this terminal. Nothing leaves the machine.

    Without --http and --smtp the usual ports are taken, or the next free ones. Ctrl-C ends it.
    """
    gc.disable()  # imports make no garbage, and looking for it takes a tenth of the start; enabled when it is ready
    try:
        return _run(data=data, http=http, smtp=smtp, api_key=api_key, json=json)
    finally:
        gc.enable()


def _run(*, data: str, http: str | None, smtp: str | None, api_key: str, json: bool) -> int:
    import uvloop

    from pigeonry.app.config import ConfigInvalid
    from pigeonry.app.dev import DevRun, choose_sockets
    from pigeonry.auth.keys import SECRET_OCTETS_MAX

    problems = [] if data else ["--data: names no folder"]
    if not (api_key.isascii() and api_key.isprintable() and 0 < len(api_key) <= SECRET_OCTETS_MAX):
        problems.append(f"--api-key: a key has 1 to {SECRET_OCTETS_MAX} characters that can be typed")
    if problems:
        raise ConfigInvalid(problems)
    asked = {door for door, address in (("http", http), ("smtp", smtp)) if address is not None}
    run = DevRun(choose_sockets(http=http, smtp=smtp), asked=asked, data=data, api_key=api_key, json=json)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run.run())
