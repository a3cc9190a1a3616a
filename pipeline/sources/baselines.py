"""What an item says of its processing: the baseline, and whether the files already carry the offset that it brought.

Both stand in items under many names, and numbers lose their zeros on the way: ``"05.10"``, ``"N0510"``, ``"5.1"`` and
``5.1`` are one baseline.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_BASELINE_KEYS = ("s2:processing_baseline", "processing:version")
"""Asked first, in this order; then every property whose name ends in ``processing_baseline``."""
_NAME_KEYS = (
    *("producturi", "productid", "productidentifier", "productname", "producttitle", "title"),
    *("granuleid", "datastripid", "s3path", "safe"),
)
"""Ends of property names, letters and digits only, whose values may be product names."""
_DOTTED = re.compile(r"^[Nn]?(\d{1,2})\.(\d{1,2})$")
_DIGITS = re.compile(r"^[Nn]?(\d{1,2})(\d{2})$")
_IN_PRODUCT_NAME = re.compile(r"(?:^|[_/])N(\d{2})\.?(\d{2})(?=_|\.SAFE|/|$)")
_FIRST_PRODUCT_BASELINE = 3
"""Sen2Cor's own versions (2.8, 2.11) stand in ``processing:version`` too; below this only ``02.14`` is a baseline."""
_WORDS = {"true": True, "yes": True, "1": True, "1.0": True, "false": False, "no": False, "0": False, "0.0": False}


def processing_baseline(item: Mapping[str, Any]) -> tuple[int, int] | None:
    """Processing baseline (major, minor) of an item: from its properties, else from a product name; else None."""
    properties = _properties(item)
    for key in _BASELINE_KEYS:
        value = properties.get(key)
        found = parse_baseline(value)
        if key == "processing:version" and found is not None and found[0] < _FIRST_PRODUCT_BASELINE:
            found = found if re.match(r"^[Nn]?0", str(value).strip()) else None
        if found is not None:
            return found
    for value in _ending(properties, "processingbaseline"):
        if (found := parse_baseline(value)) is not None:
            return found
    for name in _product_names(item, properties):
        if match := _IN_PRODUCT_NAME.search(name):
            return int(match[1]), int(match[2])
    return None


def parse_baseline(value: Any) -> tuple[int, int] | None:
    """One spelling of a baseline as (major, minor); None if it is none.

    A number has lost the zeros at its end: 5.1 is 05.10 and 4.0 is 04.00, while 5.09 is 05.09; so has the text "5.1".
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        if not 0 < value < 10_000:  # NaN is not either
            return None
        value = f"{value:.2f}" if value < 100.0 else f"{value:.0f}"
    text = str(value).strip()
    if match := _DOTTED.match(text):
        return int(match[1]), int(match[2].ljust(2, "0"))
    if match := _DIGITS.match(text):
        return int(match[1]), int(match[2])
    return (int(text), 0) if re.fullmatch(r"0?\d", text) and int(text) else None


def offset_applied(item: Mapping[str, Any]) -> tuple[bool, str] | None:
    """Whether the files already carry the offset, as a flag of the item says, and the flag's name.

    Earth Search calls it ``earthsearch:boa_offset_applied``, its first version ``sentinel:boa_offset_applied``, others
    ``s2:boa_offset_applied``. None where no flag says so, or two contradict each other.
    """
    said = {
        key: flag
        for key, value in sorted(_properties(item).items())
        if _plain(key).endswith("boaoffsetapplied") and (flag := _truth(value)) is not None
    }
    if len(set(said.values())) != 1:
        return None
    key = next(iter(said))
    return said[key], key


def _truth(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, str | int | float):
        return _WORDS.get(str(value).strip().lower())
    return None


def _properties(item: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = item.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def _plain(key: Any) -> str:
    return re.sub(r"[^a-z0-9]", "", str(key).lower())


def _ending(properties: Mapping[str, Any], *ends: str) -> Iterator[Any]:
    """Values of the properties whose names end so, in the order of the names."""
    for key in sorted(properties, key=str):
        if _plain(key).endswith(ends):
            yield properties[key]


def _product_names(item: Mapping[str, Any], properties: Mapping[str, Any]) -> Iterator[str]:
    for key in ("s2:product_uri", "sentinel:product_id"):
        yield str(properties.get(key) or "")
    yield str(item.get("id") or "")
    yield from map(str, _ending(properties, *_NAME_KEYS))
    assets = item.get("assets")
    for asset in assets.values() if isinstance(assets, Mapping) else ():
        if isinstance(asset, Mapping):
            yield str(asset.get("href") or "").partition("?")[0]
