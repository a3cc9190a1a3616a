"""``regions.where`` on features that are in memory: SQLite's language, over a table of their properties.

GDAL answers it itself where it reads the file; both know comparisons, AND, OR, NOT, IN, LIKE, IS NULL.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import RegionError

MAX_COLUMNS = 500
LONGEST_S = 30.0
_NUMBER = "spex feature number"
_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}


def matching(properties: Sequence[Mapping[str, Any]], where: str, told: str) -> list[int]:
    """Positions of the features whose properties satisfy a condition, ascending.

    Args:
        properties: Of each feature.
        where: An SQL condition; names in it are properties.
        told: What the message calls the file.

    Raises:
        RegionError: It is no condition, or names what is not there; the message lists the properties.
    """
    names = _columns(properties)
    table = sqlite3.connect(":memory:")
    try:
        table.execute(f"CREATE TABLE features ({', '.join(map(_quoted, (_NUMBER, *names.values())))})")
        marks = ", ".join("?" * (len(names) + 1))
        rows = ([number, *_row(values, names)] for number, values in enumerate(properties))
        table.executemany(f"INSERT INTO features VALUES ({marks})", rows)
        # The condition is the user's, but nothing in it reaches a file or runs without end.
        table.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY)
        end = time.monotonic() + LONGEST_S
        table.set_progress_handler(lambda: time.monotonic() > end, 100_000)
        found = table.execute(f"SELECT {_quoted(_NUMBER)} FROM features WHERE (\n{where}\n)").fetchall()
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        there = ", ".join(list(names.values())[:30]) or "none"
        raise RegionError(f"regions.where {where[:200]!r}: {error}; the properties of {told} are: {there}") from error
    finally:
        table.close()
    numbers = {row[0] for row in found if isinstance(row[0], int)}
    return [number for number in range(len(properties)) if number in numbers]


def _columns(properties: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Lower-case name → name as written first; SQL does not tell cases apart."""
    names: dict[str, str] = {}
    for values in properties:
        for name in values:
            if len(names) < MAX_COLUMNS and name.lower() != _NUMBER and "\0" not in name:
                names.setdefault(name.lower(), name)
    return names


def _row(values: Mapping[str, Any], names: Mapping[str, str]) -> list[Any]:
    lower: dict[str, Any] = {}
    for name, value in values.items():
        lower.setdefault(name.lower(), value)
    return [_value(lower.get(name)) for name in names]


def _value(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return float(value) if abs(value) < 2**1000 else str(value)
    if value is None or isinstance(value, int | float | str):
        return value
    return json.dumps(value, default=str)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
