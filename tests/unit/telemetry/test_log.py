from __future__ import annotations

import io
import json
import logging
from typing import Any, Literal

import pytest

from pigeonry.telemetry.log import configure


def written(form: Literal["json", "human"], level: str = "info", **fields: Any) -> tuple[Any, io.StringIO]:
    out = io.StringIO()
    return configure(level=level, form=form, stream=out, **fields), out


def test_a_line_is_one_json_object_that_says_when_how_bad_and_what_first() -> None:
    log, out = written("json", worker=1)
    log.info("ready", pending=3, text="two\nlines")
    (line,) = out.getvalue().splitlines()
    assert list(json.loads(line)) == ["timestamp", "level", "event", "worker", "pending", "text"]
    assert json.loads(line) | {"timestamp": ""} == {
        "timestamp": "",
        "level": "info",
        "event": "ready",
        "worker": 1,
        "pending": 3,
        "text": "two\nlines",
    }


def test_what_is_under_the_level_is_not_written() -> None:
    log, out = written("json", level="warning")
    log.info("ready")
    log.warning("late")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["late"]


def test_libraries_are_heard_in_the_same_form_when_it_is_serious() -> None:
    _, out = written("json", level="debug")
    logging.getLogger("library").info("chatter")
    logging.getLogger("library").warning("trouble with %s", "it")
    (line,) = out.getvalue().splitlines()
    assert json.loads(line)["event"] == "trouble with it"


@pytest.mark.parametrize("form", ["json", "human"])
def test_a_traceback_shows_no_values(form: Literal["json", "human"]) -> None:
    log, out = written(form)
    password = "hun" + "ter2"
    try:
        int(f"{password[:0]}x")
    except ValueError:
        log.exception("broken")
    assert "Traceback" in out.getvalue()
    assert password not in out.getvalue()


def test_a_person_who_pipes_it_gets_no_colours() -> None:
    log, out = written("human")
    log.info("ready", pending=3)
    assert "ready" in out.getvalue()
    assert "pending=3" in out.getvalue()
    assert "\x1b" not in out.getvalue()
