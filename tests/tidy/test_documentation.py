"""What the pages say of the repository is there: paths, modules, tests, links, standards."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "pigeonry"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
INVARIANTS = [f"I{number}" for number in range(1, 10)]

_CODE = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)*/?")
_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
_RFC = re.compile(r"\bRFC\s+(\d{3,5})((?:(?:,\s+|\s+and\s+|-)\d{4}\b)*)")
_STATUSES = {"yes", "partial", "no"}


def test_every_link_leads_somewhere() -> None:
    lost = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in _LINK.findall(page.read_text())
        if not (page.parent / target).exists()
    ]
    assert lost == []


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_every_path_and_module_that_a_page_names_exists(page: str) -> None:
    words = [word for word in _CODE.findall((ROOT / page).read_text()) if "::" not in word]
    paths = [word for word in words if "/" in word and _PATH.fullmatch(word)]
    assert [path for path in paths if not _exists(path)] == []
    folders = {folder.name for folder in SOURCE.iterdir() if folder.is_dir()}
    modules = [word for word in words if re.fullmatch(r"[a-z_]+(\.\w+)+", word) and word.partition(".")[0] in folders]
    assert modules != []
    assert [module for module in modules if not _is_module(module)] == []


def test_every_test_that_the_architecture_names_exists() -> None:
    named = [word for word in _CODE.findall((ROOT / "ARCHITECTURE.md").read_text()) if "::" in word]
    assert len(named) >= len(INVARIANTS)
    missing = [word for word in named if word.partition("::")[2] not in _tests_of(ROOT / word.partition("::")[0])]
    assert missing == []


def test_every_invariant_names_a_test_that_holds_it() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text().partition("## Invariants")[2].partition("\n## ")[0]
    pieces = dict(re.findall(r"\*\*(I\d)\*\*(.*?)(?=\n- \*\*I|\Z)", text, re.DOTALL))
    assert list(pieces) == INVARIANTS
    assert [name for name, piece in pieces.items() if "::test_" not in piece] == []


def test_every_standard_that_the_code_cites_is_listed_with_its_status() -> None:
    cited: set[int] = set()
    for path in SOURCE.rglob("*.py"):
        for first, more in _RFC.findall(path.read_text()):
            cited |= {int(first), *map(int, re.findall(r"\d{4}", more))}
    head, *lines = (ROOT / "docs" / "reference" / "rfc.tsv").read_text().splitlines()
    assert head.split("\t") == ["rfc", "status", "note"]
    rows = [line.split("\t") for line in lines]
    assert [row for row in rows if len(row) != 3 or row[1] not in _STATUSES or not row[2]] == []
    listed = [int(row[0]) for row in rows]
    assert listed == sorted(set(listed))
    assert cited - set(listed) == set()


def _exists(path: str) -> bool:
    return any((base / path).exists() or (base / f"{path}.py").exists() for base in (ROOT, SOURCE))


def _is_module(dotted: str) -> bool:
    """Whether it is one of our modules, or a name that one of them defines."""
    path = SOURCE.joinpath(*dotted.split("."))
    if path.is_dir() or path.with_suffix(".py").exists():
        return True
    module = path.parent.with_suffix(".py")
    return module.exists() and re.search(rf"\b{path.name}\b", module.read_text()) is not None


def _tests_of(file: Path) -> set[str]:
    if not file.exists():
        return set()
    nodes = ast.walk(ast.parse(file.read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
