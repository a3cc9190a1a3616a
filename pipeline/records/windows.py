"""Pixel rectangles: what two have in common, and where one lies in an array that holds another."""

from __future__ import annotations

from pipeline.records.plan import Window


def intersection(a: Window, b: Window) -> Window | None:
    """Common pixels of two windows; ``None`` where there are none."""
    row, col = max(a.row, b.row), max(a.col, b.col)
    height = min(a.row + a.height, b.row + b.height) - row
    width = min(a.col + a.width, b.col + b.width) - col
    return Window(row, col, height, width) if height > 0 and width > 0 else None


def slices(window: Window, within: Window) -> tuple[slice, slice]:
    """Row and column slices of ``window`` in an array that holds ``within``."""
    row, col = window.row - within.row, window.col - within.col
    return slice(row, row + window.height), slice(col, col + window.width)
