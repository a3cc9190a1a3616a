"""``docs/architecture.md`` says what is there: its picture has every room, and each row opens what it names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.test_architecture import ROOMS, ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if re.match(r"\| (?!to change \|)[^-].*\| .*`", line)]
"""Rows of the table "to change X, open Y"."""
LINKED = ("README.md", "CONTRIBUTING.md", "docs/architecture.md")


def _names(path: Path) -> set[str]:
    """What a Python file defines, at any depth: functions, classes, constants, fields; and all words of other files."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return set(re.findall(r"\w+", text))
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found.update(target.id for target in targets if isinstance(target, ast.Name))
    return found


def _cells(row: str) -> tuple[list[str], list[str]]:
    """Paths and other names that the second column of a row gives."""
    given = re.findall(r"`([^`]+)`", row.split("|")[2])
    paths = [name for name in given if "/" in name or "." in name]
    return paths, [name for name in given if name not in paths]


def test_the_table_is_long_enough_to_be_of_use() -> None:
    assert len(ROWS) >= 15
    subjects = [row.split("|")[1].strip() for row in ROWS]
    assert len(set(subjects)) == len(subjects)


@pytest.mark.parametrize("row", ROWS, ids=[row.split("|")[1].strip() for row in ROWS])
def test_a_row_opens_what_it_names(row: str) -> None:
    paths, names = _cells(row)
    assert paths
    assert not [path for path in paths if not (ROOT / path).exists()]
    assert not [path for path in paths if (ROOT / path).is_dir() != path.endswith("/")]
    found = set().union(*(_names(ROOT / path) for path in paths if (ROOT / path).is_file()))
    assert not [name for name in names if name not in found]


def test_a_row_that_names_what_is_gone_would_be_noticed() -> None:
    with pytest.raises(AssertionError):
        test_a_row_opens_what_it_names("| x | `pipeline/granules.py` |")
    with pytest.raises(AssertionError):
        test_a_row_opens_what_it_names("| x | `pipeline/records/grid.py` `no_such_function` |")


def test_the_picture_shows_every_room_in_the_order_of_import() -> None:
    picture = PAGE.split("```")[1]
    drawn = re.findall(r"[├└]── (\w+)", picture)
    assert drawn == list(ROOMS)
    for name in ("Scene", "Region", "ZoneGrid", "MapPlan", "RunResult"):
        assert name in picture


def test_the_way_of_a_tile_passes_rooms_that_exist() -> None:
    way = PAGE.split("```")[3]
    line = ("settings", "sources", "planning", "imagery", "predict", "engine", "mapstore", "explain", "outputs")
    assert not [room for room in line if not re.search(rf"\b{room}\b", way)]
    for room, module in re.findall(r"\b(\w+)\.(\w+)\b", way):
        assert (ROOT / "pipeline" / room / f"{module}.py").is_file()


def test_the_diagram_of_the_readme_uses_the_names_of_folders() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    diagram = next(block for block in readme.split("```") if "→" in block and "settings" in block)
    rooms = re.findall(r"[a-z]{4,}", diagram.replace("per block", ""))
    assert len(rooms) >= 8
    assert not [room for room in rooms if not (ROOT / "pipeline" / room).is_dir()]


@pytest.mark.parametrize("name", LINKED)
def test_paths_and_links_of_the_entrance_pages_exist(name: str) -> None:
    page = ROOT / name
    text = page.read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert not [link for link in links if link and not (page.parent / link).exists()]
    tops = "pipeline|spex_core|workflows|tests|docs|benchmarks"
    paths = re.findall(rf"`((?:{tops})/[\w./-]*)`", text)
    assert not [path for path in paths if not (ROOT / path).exists()]
