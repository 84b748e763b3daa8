"""Log lines: JSON for machines or text for a person, on standard error.

One line says what happened in an event name and says the rest in fields. Nothing is logged per message above
``debug``: messages have events, and a log that repeats them costs more than the mail. Secrets are never fields.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

import structlog

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LEVELS", "Logger", "configure"]

Logger = structlog.typing.FilteringBoundLogger

LEVELS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure(*, level: str, form: Literal["json", "human"], stream: TextIO | None = None, **fields: Any) -> Logger:
    """Set up logging for this process and return its logger; ``fields`` stand on every line.

    Lines of libraries that use ``logging`` come out in the same form, warnings and worse only.
    """
    out = stream or sys.stderr
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=form == "json"),
    ]
    renderer: list[structlog.typing.Processor]
    if form == "json":
        renderer = [structlog.processors.format_exc_info, _head_first, structlog.processors.JSONRenderer(default=str)]
    else:
        renderer = [_human(out)]
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(LEVELS[level], logging.WARNING), force=True)
    logger: Logger = structlog.get_logger(**fields)
    return logger


def _head_first(_logger: Any, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """When, how bad and what before everything else: lines are also read by people."""
    return {name: line[name] for name in ("timestamp", "level", "event") if name in line} | dict(line)


def _human(out: TextIO) -> structlog.typing.Processor:
    """For people; a traceback without the values of variables, which may be secrets."""
    return structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback)
