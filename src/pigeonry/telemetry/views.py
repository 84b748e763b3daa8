"""Says of a view in memory that its store stopped answering, and that it answers again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["tell_of_silence"]


def tell_of_silence(store: str, *, view: str, consequence: str) -> Callable[[bool], None]:
    """What a ``ports.feed.Follower`` calls when the store stops answering, and when it answers again.

    Args:
        store: Its name in the log's event: ``identity`` or ``directory``.
        view: What is kept in memory.
        consequence: What the silence means for it.
    """
    heard, silent = f"{store}_answers_again", f"{store}_does_not_answer"

    def tell(answers: bool) -> None:  # noqa: FBT001  # the follower's signature
        log = structlog.get_logger()
        if answers:
            log.info(heard, view=view)
        else:
            log.warning(silent, view=view, consequence=consequence)

    return tell
