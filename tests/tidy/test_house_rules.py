"""What no linter knows: the house rules that can be counted."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "pigeonry"
PYPROJECT = ROOT / "pyproject.toml"
FUNCTION_LINES_MAX = 75  # longer ones are listed below and may only shrink
FILE_LINES_MAX = 500

LONGER_FUNCTIONS: dict[str, int] = {"compose/mime.py:compose_mime": 78}
LONGER_FILES: dict[str, int] = {  # one state machine each, one story
    "protocol/smtp/client.py": 525,
    "protocol/smtp/server.py": 660,
}


def _modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def test_every_module_opens_with_what_it_is_for() -> None:
    silent = [str(path.relative_to(ROOT)) for path in _modules() if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def test_long_functions_do_not_grow_and_no_new_ones_come() -> None:
    found: dict[str, int] = {}
    for path in _modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    found[f"{path.relative_to(SOURCE)}:{node.name}"] = lines
    over = {name: lines for name, lines in found.items() if lines > LONGER_FUNCTIONS.get(name, FUNCTION_LINES_MAX)}
    assert over == {}


def test_long_files_do_not_grow_and_no_new_ones_come() -> None:
    found = {str(path.relative_to(SOURCE)): len(path.read_text().splitlines()) for path in _modules()}
    over = {name: lines for name, lines in found.items() if lines > LONGER_FILES.get(name, FILE_LINES_MAX)}
    assert over == {}


@pytest.mark.parametrize("word", ["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"])
def test_nothing_is_left_for_later_in_a_comment(word: str) -> None:
    marked = [
        str(path.relative_to(ROOT)) for path in _modules() if re.search(rf"#.*\b{word}\b", path.read_text()) is not None
    ]
    assert marked == []


def test_a_node_in_production_has_what_was_tested() -> None:
    locked, served = (
        set(re.findall(r"^[\w.-]+==\S+", (ROOT / name).read_text(), re.MULTILINE))
        for name in ("requirements.lock", "requirements-serve.lock")
    )
    wanted = {re.split(r"[>;]", line)[0] for line in tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]}
    assert served <= locked
    assert wanted <= {line.partition("==")[0] for line in served}


def test_no_module_is_named_for_nothing() -> None:
    vague = {"utils", "util", "helpers", "helper", "manager", "managers", "common", "misc"}
    named = [str(path.relative_to(ROOT)) for path in _modules() if path.stem in vague or path.parent.name in vague]
    assert named == []


def test_import_contracts_hold() -> None:
    run = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout


def test_each_decision_says_context_decision_alternatives_consequences() -> None:
    for page in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        text = page.read_text().lower()
        missing = [head for head in ("context", "decision", "alternatives", "consequences") if f"## {head}" not in text]
        assert missing == [], page.name


def test_every_number_that_has_a_name_has_a_reason() -> None:
    """A limit or a time says in a comment, on its lines or above them, or in a docstring below, why it is what it is."""
    bounds = re.compile(r"(?:_MAX|_MIN|_S|_MS)$")
    bare: list[str] = []
    for path in _modules():
        lines = path.read_text().splitlines()
        body = ast.parse("\n".join(lines)).body
        for node, after in zip(body, [*body[1:], None], strict=True):
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                continue
            said = "#" in "".join(lines[node.lineno - 1 : node.end_lineno]) or lines[node.lineno - 2].startswith("#")
            if bounds.search(node.target.id) and not said and not _is_text(after):
                bare.append(f"{path.relative_to(ROOT)}:{node.target.id}")
    assert bare == []


def _is_text(node: ast.stmt | None) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
