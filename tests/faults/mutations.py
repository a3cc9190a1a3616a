"""Documents made wrong: one or two changes of a kind that hand-written, generated and hostile files show.

Pure functions of a random generator, so that a failure can be played again by its number.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

import yaml

Path = tuple[str | int, ...]

STRANGE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 0.5, -0.0, 1e308, -1e308, 1e-320, 10**30, 2**31, 2**63,
    float("inf"), float("-inf"), float("nan"),
    "", " ", "null", "nan", "1e999", "0x10", "1_000",
    "2026-13-45", "2026-02-30T25:61:61Z", "0000-00-00", "9999-12-31T23:59:59Z",
    "a" * 100_000, "\x00", "a\x00b", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\u202eevil", "\ud800", "\ufeff",
    "\r\n\t",
    "'\"`$(id)`", "{{7*7}}", "../../../etc/passwd", "/etc/passwd", "//", "C:\\x", "~", "~root/x",
    "file:///etc/passwd", "file:///vsicurl%3Fhttp://127.0.0.1:9/x", "/vsizip//vsicurl/http://127.0.0.1:9/x",
    "http://127.0.0.1:9/x.tif", "http://[::1", "https://user:secret@127.0.0.1:9/x",
    "s3://bucket/key", "gopher://x", "ftp://127.0.0.1:9/",
    "EPSG:32632", "EPSG:-1", "EPSG:99999999999999999999", "POINT(0 0)", "<VRTDataset/>",
    [], {}, [[]], [None], [{}], {"": ""}, {"type": "Feature"}, [0] * 10_000, {"a": {"b": {"c": {}}}}, ["x"] * 3,
    {str(i): i for i in range(2000)},
)  # fmt: skip
"""Values that stand where another kind of value is meant."""


def places(document: Any, at: Path = ()) -> list[Path]:
    """Every place of a tree, the root first."""
    found = [at]
    if isinstance(document, dict):
        for key, value in document.items():
            found += places(value, (*at, key))
    elif isinstance(document, list):
        for position, value in enumerate(document[:20]):
            found += places(value, (*at, position))
    return found


def changed(document: Any, dice: random.Random) -> Any:
    """A copy of a tree with one change."""
    tree = copy.deepcopy(document)
    paths = [path for path in places(tree) if path]
    if not paths:
        return dice.choice(STRANGE)
    path = dice.choice(paths)
    holder = tree
    for step in path[:-1]:
        holder = holder[step]
    last = path[-1]
    CHANGES[dice.choice(tuple(CHANGES))](tree, holder, last, dice)
    return tree


def _replace(tree: Any, holder: Any, last: Any, dice: random.Random) -> None:
    holder[last] = copy.deepcopy(dice.choice(STRANGE))


def _remove(tree: Any, holder: Any, last: Any, dice: random.Random) -> None:
    del holder[last]


def _swap(tree: Any, holder: Any, last: Any, dice: random.Random) -> None:
    """Another part of the same document in its place."""
    other = tree
    for step in dice.choice(places(tree)):
        other = other[step]
    holder[last] = copy.deepcopy(other)


def _scale(tree: Any, holder: Any, last: Any, dice: random.Random) -> None:
    value = holder[last]
    if isinstance(value, int | float):
        holder[last] = value * dice.choice((0, -1, 1e-3, 1e-9, 1e3, 1e9, 1e300))
    elif isinstance(value, str):
        holder[last] = dice.choice(
            (value.upper(), value[::-1], value * 50, value[: len(value) // 2], f" {value} ", value.encode())
        )
        if isinstance(holder[last], bytes):
            holder[last] = value.replace("e", "é").replace("a", "\x07")
    elif isinstance(value, list):
        holder[last] = dice.choice((value * 40, value[::-1], value[:1], [value], [*value, "x"]))
    elif isinstance(value, dict):
        holder[last] = dice.choice(
            ([value], list(value), {**value, "extra": 1}, {k.upper(): v for k, v in value.items()})
        )


def _rename(tree: Any, holder: Any, last: Any, dice: random.Random) -> None:
    if isinstance(holder, dict):
        holder[dice.choice((f"{last}s", f" {last}", str(last).upper(), "\x1b[1m", "\ud800", "", "__proto__"))] = (
            holder.pop(last)
        )
    else:
        holder[last] = None


def _nest(tree: Any, holder: Any, last: Any, dice: random.Random) -> None:
    value = holder[last]
    for _ in range(dice.choice((3, 60, 150))):
        value = [value] if dice.random() < 0.5 else {"a": value}
    holder[last] = value


BOMB = "bomb"
Change = Callable[[Any, Any, Any, random.Random], None]
CHANGES: dict[str, Change] = {
    "replace": _replace,
    "replace, as often again": _replace,
    "remove": _remove,
    "swap": _swap,
    "scale": _scale,
    "rename": _rename,
    "nest": _nest,
}


def as_json(document: Any, dice: random.Random) -> bytes:
    """The document as a JSON file, and now and then not quite."""
    return damaged(json.dumps(document).encode(), dice)


def as_yaml(document: Any, dice: random.Random) -> bytes:
    """The document as a YAML file, and now and then not quite."""
    try:
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=dice.random() < 0.5)
    except (yaml.YAMLError, UnicodeError, RecursionError):
        text = json.dumps(document)
    if dice.random() < 0.1:
        text += dice.choice(
            (
                "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n",
                "e: &e [*e]\n",
                "f: !!python/object/apply:os.system [touch was-here]\n",
                "<<: {name: other}\n",
                "? [1, 2]\n: 3\n",
                "name: again\n",
                "---\nname: second\n",
                "%YAML 9.9\n",
                "\t- tab\n",
            )
        )
    if dice.random() < 0.03:
        lines = [line.split(": ")[0] for line in text.splitlines() if ": " in line]
        if lines:
            bomb = "\n".join(f"{BOMB}{i}: &{BOMB}{i} [{', '.join([f'*{BOMB}{i - 1}'] * 10)}]" for i in range(1, 10))
            text = f"{BOMB}0: &{BOMB}0 [x]\n{bomb}\n{text}\n" + text.replace(
                f"{(at := dice.choice(lines))}: ", f"{at}: *{BOMB}9 #", 1
            )
    return damaged(text.encode("utf-8", "surrogatepass"), dice)


def damaged(data: bytes, dice: random.Random) -> bytes:
    """Four times in five as it is; else cut, flipped, doubled, or in another encoding."""
    if dice.random() < 0.8 or not data:
        return data
    at, length = dice.randrange(len(data)), dice.randrange(1, 40)
    return dice.choice(
        (
            data[:at],
            data[:at] + bytes([data[at] ^ (1 << dice.randrange(8))]) + data[at + 1 :],
            data[:at] + data[at + length :],
            data[:at] + data[at : at + length] * dice.choice((2, 1000)) + data[at:],
            b"\xef\xbb\xbf" + data,
            data.decode("utf-8", "replace").encode("utf-16"),
            data[:at] + dice.randbytes(length) + data[at:],
            data + b"\0" * 1000,
            data + data,
            b"",
        )
    )
