from __future__ import annotations

from pathlib import Path

import pytest

from pigeonry.app.reference import pages

FOLDER = Path(__file__).parents[3] / "docs" / "reference"


@pytest.mark.parametrize("name", ["settings.md", "metrics.md", "cli.md"])
def test_a_page_says_what_the_code_says(name: str) -> None:
    assert (FOLDER / name).read_text() == pages()[name], "python -m pigeonry.app.reference docs/reference"


def test_every_setting_has_a_sentence() -> None:
    assert "| None |" not in pages()["settings.md"]
