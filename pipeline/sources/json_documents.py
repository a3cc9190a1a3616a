"""Text of a catalog's document → plain data; what is no JSON is told by what it is instead."""

from __future__ import annotations

import json
from typing import Any

from pipeline.errors import CatalogError

_FORMATS = {
    b"PAR1": "a Parquet file (stac-geoparquet): write it as JSON first, e.g. rustac translate items.parquet items.json",
    b"\x1f\x8b": "compressed with gzip: unpack it first",
    b"PK\x03\x04": "a ZIP archive: unpack it first",
    b"SQLite format 3": "a GeoPackage or another SQLite file, not a STAC catalog",
    b"II*\x00": "a TIFF image: source.url is the address of the catalog that describes it",
    b"MM\x00*": "a TIFF image: source.url is the address of the catalog that describes it",
}


def parse_document(content: bytes, name: str) -> Any:
    """One document; a list of items, or items line by line, as an item collection.

    Args:
        content: JSON in UTF-8, UTF-16 or UTF-32, with or without a byte-order mark.
        name: Its address, for messages.

    Raises:
        CatalogError: It is not JSON; the message says what it seems to be.
    """
    for start, what in _FORMATS.items():
        if content.startswith(start):
            raise CatalogError(f"{name} is not JSON: it is {what}")
    try:
        text = content.decode(json.detect_encoding(content))
    except UnicodeDecodeError as error:
        raise CatalogError(f"{name} is not JSON: it is text neither in UTF-8 nor in UTF-16 ({error.reason})") from error
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise CatalogError(f"{name} is not JSON: it is empty")
    if text.lstrip().startswith("<"):
        raise CatalogError(
            f"{name} is not JSON: it is a web page or XML; source.url is the address of a STAC API or of a "
            "catalog.json, not of a page that shows it"
        )
    try:
        document = json.loads(text)
    except RecursionError as error:
        raise CatalogError(f"{name} is not JSON: {error}") from error
    except ValueError as error:
        items = _items_by_line(text)
        if items is None:
            raise CatalogError(f"{name} is not JSON: {error}") from error
        document = items
    if isinstance(document, list) and document and all(map(_is_item, document)):
        return {"type": "FeatureCollection", "features": document}
    return document


def _items_by_line(text: str) -> list[Any] | None:
    """Items of a newline-delimited file, or of a JSON text sequence (RFC 8142); None if that is not what it is."""
    lines = [line.strip().strip("\x1e") for line in text.split("\n")]
    items = []
    for line in lines:
        if not line:
            continue
        try:
            items.append(json.loads(line))
        except (ValueError, RecursionError):
            return None
    return items if items and all(map(_is_item, items)) else None


def _is_item(value: Any) -> bool:
    return isinstance(value, dict) and (value.get("type") == "Feature" or "assets" in value)
