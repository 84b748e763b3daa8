"""Providers out of TOML: the files that come with the program, and an operator's over them.

Every fault is told with its file and rule, all of them at once. What an operator's file says of a provider takes the
place of all that the shipped one says; a file with an id of its own adds a provider.

Trust: the files belong to the operator. A rule of theirs is held to the same proof as ours.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any, Final

import msgspec

from pigeonry.delivery.rulebook.book import RuleBook
from pigeonry.delivery.rulebook.proof import problems_of
from pigeonry.delivery.rulebook.rules import Provider

__all__ = ["RuleBookInvalid", "book_of", "shipped"]

_FOLDER: Final = "providers"


class RuleBookInvalid(Exception):
    """The rule book cannot be used. ``problems`` has one sentence for each fault."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def shipped() -> dict[str, str]:
    """The files that come with the program, by name: their texts."""
    folder = resources.files("pigeonry.delivery.rulebook") / _FOLDER
    files = [file for file in folder.iterdir() if file.name.endswith(".toml")]
    return {file.name: file.read_text("utf-8") for file in sorted(files, key=lambda file: file.name)}


def book_of(texts: Mapping[str, str], own: Mapping[str, str] | None = None) -> RuleBook:
    """The rule book of some files.

    Args:
        texts: The shipped files.
        own: The operator's, by path; a later one wins over an earlier one.

    Raises:
        RuleBookInvalid: With every problem there is.
    """
    problems: list[str] = []
    providers: dict[str, Provider] = {}
    for name, provider in _providers(texts.items(), problems):
        if provider.id in providers:
            problems.append(f"{name}: another file is about {provider.id} already")
        providers[provider.id] = provider
    for _, provider in _providers((own or {}).items(), problems):
        providers[provider.id] = provider
    if not problems:
        problems = problems_of(providers.values())
    if problems:
        raise RuleBookInvalid(problems)
    return RuleBook(providers.values())


def _providers(texts: Iterable[tuple[str, str]], problems: list[str]) -> list[tuple[str, Provider]]:
    return [(name, provider) for name, text in texts if (provider := _provider(name, text, problems)) is not None]


def _provider(name: str, text: str, problems: list[str]) -> Provider | None:
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problems.append(f"{name}: is not TOML: {error}")
        return None
    rules = tree.get("rules", [])
    if not isinstance(rules, list) or not isinstance(tree.get("id"), str):
        problems.append(f"{name}: has no id" if "id" not in tree else f"{name}: write its rules as [[rules]]")
        return None
    before = len(problems)
    for at, rule in enumerate(rules, 1):
        _prefix(f"{name}: rule {at}", rule, tree["id"], problems)
    if len(problems) > before:
        return None
    try:
        return msgspec.convert(tree, Provider)
    except msgspec.ValidationError as error:
        problems.append(f"{name}: {_placed(str(error), rules)}")
        return None


def _prefix(place: str, rule: Any, provider: str, problems: list[str]) -> None:
    """Let a rule's id begin with its provider's."""
    if not isinstance(rule, dict) or not isinstance(rule.get("id"), str):
        problems.append(f"{place}: has no id")
    else:
        rule["id"] = f"{provider}.{rule['id']}"


def _placed(message: str, rules: list[dict[str, Any]]) -> str:
    """Msgspec's sentence with the rule's name in the place of its number."""
    for at, rule in enumerate(rules):
        message = message.replace(f"`$.rules[{at}]", f"`{rule['id']}")
    return message.replace("`$.", "`").replace("`$`", "the file")
