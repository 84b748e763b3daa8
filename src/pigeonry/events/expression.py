"""The filter language of the events API.

::

    expression = conjunction *("OR" conjunction)
    conjunction = factor *(["AND"] factor)          a blank means AND
    factor = ["NOT"] (term / "(" expression ")")
    term = word / <"> phrase <"> / ">" number / "<" number

Addresses, ids, types and tags are compared exactly; texts by the words they contain; case never matters. For
``user-variables`` a JSON object may stand in place of an expression: each variable must then have that value.

Trust: an expression comes from outside: its length, depth and number of terms are bounded.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from pigeonry.domain.errors import BadRequest
from pigeonry.ports.event_index import Term

__all__ = ["parse", "show"]

EXPRESSION_CHARACTERS_MAX: Final = 2_048  # longer than any a person writes; Ghost's longest has 70
TERMS_MAX: Final = 64  # each is a condition of its own in the index
DEPTH_MAX: Final = 16  # of parentheses and NOT
_TOKEN: Final = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|([()])|([<>])|((?:[^\s"()<>])+))')
_TEXT_TOKEN: Final = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|([()])|((?!))|((?:[^\s"()])+))')  # < and > are letters
_EXACT: Final = frozenset({"event", "recipient", "message-id", "severity", "tags", "list", "recipients"})
_ESCAPED: Final = re.compile(r"\\(.)")


class _Reader:
    """The tokens of one expression, one after the other."""

    def __init__(self, field: str, text: str) -> None:
        self._field = field
        self._tokens: list[tuple[str, str]] = []
        self._at = 0
        self._terms = 0
        self._scan(text)

    def _scan(self, text: str) -> None:
        if len(text) > EXPRESSION_CHARACTERS_MAX:
            raise self.wrong(f"is longer than {EXPRESSION_CHARACTERS_MAX} characters")
        at, end = 0, len(text.rstrip())
        token = _TOKEN if self._field == "size" else _TEXT_TOKEN
        while at < end:
            found = token.match(text, at)
            if found is None:
                raise self.wrong("has a quotation mark without its end")
            phrase, bracket, compare, word = found.groups()
            if phrase is not None:
                self._tokens.append(("phrase", _ESCAPED.sub(r"\1", phrase[1:-1])))
            elif word is not None:
                self._tokens.append(("word", word))
            else:
                self._tokens.append(("sign", bracket or compare))
            at = found.end()

    def wrong(self, what: str) -> BadRequest:
        return BadRequest(f"Parameter {self._field} {what}.")

    def peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def expression(self, depth: int) -> Term:
        parts = [self._conjunction(depth)]
        while self.peek() == ("word", "OR"):
            self._at += 1
            parts.append(self._conjunction(depth))
        return parts[0] if len(parts) == 1 else Term("or", parts=tuple(parts))

    def _conjunction(self, depth: int) -> Term:
        parts = [self._factor(depth)]
        while True:
            token = self.peek()
            if token == ("word", "AND"):
                self._at += 1
            elif token[0] == "end" or token in (("word", "OR"), ("sign", ")")):
                return parts[0] if len(parts) == 1 else Term("and", parts=tuple(parts))
            parts.append(self._factor(depth))

    def _factor(self, depth: int) -> Term:
        if depth > DEPTH_MAX:
            raise self.wrong(f"is nested deeper than {DEPTH_MAX}")
        kind, text = self.peek()
        self._at += 1
        if (kind, text) == ("word", "NOT"):
            return Term("not", parts=(self._factor(depth + 1),))
        if (kind, text) == ("sign", "("):
            inner = self.expression(depth + 1)
            if self.peek() != ("sign", ")"):
                raise self.wrong("has a parenthesis without its end")
            self._at += 1
            return inner
        if kind == "end" or (kind, text) in (("sign", ")"), ("word", "OR"), ("word", "AND")):
            raise self.wrong("lacks a term")
        self._terms += 1
        if self._terms > TERMS_MAX:
            raise self.wrong(f"has more than {TERMS_MAX} terms")
        if kind == "sign":
            return self._comparison(text)
        return self._term(text)

    def _comparison(self, sign: str) -> Term:
        _, number = self.peek()
        self._at += 1
        try:
            finite = abs(float(number)) < float("inf")
        except ValueError:
            finite = False
        if self._field != "size" or not finite:
            raise self.wrong("can't be compared that way: < and > take a number, for size only")
        return Term("gt" if sign == ">" else "lt", self._field, number)

    def _term(self, text: str) -> Term:
        field = self._field
        if field == "message-id":
            return Term("is", field, text.strip("<>"))
        if field == "size":
            try:
                bound = float(text)
            except ValueError:
                raise self.wrong("is no number") from None
            if not abs(bound) < float("inf"):
                raise self.wrong("is no number")
            return Term("and", parts=(Term("gt", field, repr(bound - 0.5)), Term("lt", field, repr(bound + 0.5))))
        return Term("is" if field in _EXACT else "has", field, text)

    def finish(self, term: Term) -> Term:
        if self.peek()[0] != "end":
            raise self.wrong("has a parenthesis too many")
        return term


def parse(field: str, text: str) -> Term | None:
    """Read an expression about one field; None when it is empty.

    Raises:
        BadRequest: It is malformed or over a limit; the text names the field.
    """
    if field == "user-variables" and text.lstrip().startswith("{"):
        return _variables(text)
    reader = _Reader(field, text)
    if reader.peek()[0] == "end":
        return None
    return reader.finish(reader.expression(0))


def _variables(text: str) -> Term | None:
    """Variables and their values as a JSON object."""
    field = "user-variables"
    try:
        if len(text) > EXPRESSION_CHARACTERS_MAX:
            raise BadRequest(f"Parameter {field} is longer than {EXPRESSION_CHARACTERS_MAX} characters.")
        pairs = msgspec.json.decode(text, type=dict[str, str | int | float | bool | None])
        terms = tuple(Term("is", field, f"{name}={_value(value)}") for name, value in pairs.items())
    except (msgspec.MsgspecError, UnicodeError):
        raise BadRequest(f"Parameter {field} begins with a brace, but is no JSON object of plain values.") from None
    if len(terms) > TERMS_MAX:
        raise BadRequest(f"Parameter {field} has more than {TERMS_MAX} terms.")
    if not terms:
        return None
    return terms[0] if len(terms) == 1 else Term("and", parts=terms)


def _value(value: str | float | None) -> str:
    """A plain value as the index shows it."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def show(term: Term) -> str:
    """An expression that ``parse`` reads as this term (of one field)."""
    match term.op:
        case "and":
            return " AND ".join(f"({show(part)})" for part in term.parts)
        case "or":
            return " OR ".join(f"({show(part)})" for part in term.parts)
        case "not":
            return f"NOT ({show(term.parts[0])})"
        case "gt":
            return f">{term.value}"
        case "lt":
            return f"<{term.value}"
        case _:
            escaped = term.value.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'
