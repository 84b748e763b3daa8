"""The rule book as configuration has it: the shipped files, and the operator's over them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pigeonry.delivery.rulebook.loading import RuleBookInvalid, book_of, shipped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pigeonry.delivery.rulebook.book import RuleBook

__all__ = ["rule_book", "rule_book_problems"]


def rule_book(files: Sequence[str]) -> RuleBook:
    """The rule book with these files of the operator's.

    Raises:
        RuleBookInvalid: One cannot be read or is wrong; each sentence names the file or the rule.
    """
    problems: list[str] = []
    own: dict[str, str] = {}
    for name in files:
        try:
            own[name] = Path(name).read_text("utf-8")
        except OSError as error:
            problems.append(f"{name}: cannot be read ({error.strerror})")
        except UnicodeDecodeError:
            problems.append(f"{name}: is not UTF-8")
    if problems:
        raise RuleBookInvalid(problems)
    return book_of(shipped(), own)


def rule_book_problems(files: Sequence[str]) -> list[str]:
    """What is wrong with the operator's files, one sentence each."""
    if not files:
        return []  # ours were held to it when they were written
    try:
        rule_book(files)
    except RuleBookInvalid as error:
        return [f"rulebook.files: {problem}" for problem in error.problems]
    return []
