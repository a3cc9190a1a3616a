"""Loops in C give, byte by byte, what NumPy gives, whatever the pixels; and refuse arrays that do not fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.tasks import scaled_indices
from pipeline.explain.patches import PatchCounter, label_block
from pipeline.explain.statistics import _Tally
from pipeline.imagery.composite import nan_median
from pipeline.imagery.file_numbers import numbers_of
from pipeline.imagery.upsampling import upsample_bilinear
from pipeline.machine import pixel_loops
from pipeline.mapstore.index_cells import CELL_PX, INDEX_NODATA, INDEX_SCALE, cell_means, class_sums
from pipeline.predict.classifier import fill_invalid
from pipeline.predict.stitch import finalise
from pipeline.records.plan import Window
from spex_core.indices import SPECTRAL_INDICES
from spex_core.legend import Legend

LOOPS = pixel_loops.loops
LEGEND = Legend.from_yaml()
CODES = np.array([LEGEND.nodata, *LEGEND.codes, 7], np.uint8)
"""Those of the map, none, and one that is not in the legend."""
ODD = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, 0.5, 1e-3, 1e-30, -1e-3, 0.0005, 3.4e38], np.float32)
ODD_DIFFERENCES = np.array([np.nan, 0.0, -0.0, 1e-3, 5e-4, -5e-4, 1.0, 3.0, -1.0, 7.5], np.float32)

pytestmark = pytest.mark.skipif(LOOPS is None, reason="installed without a compiler")
shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=40, deadline=None)


def both(compute: Callable[[], Any]) -> None:
    """Computes with the loops and without, and compares bytes; NaN is NaN, whatever its bits."""
    try:
        pixel_loops.loops = LOOPS
        found = _flat(compute())
        pixel_loops.loops = None
        expected = _flat(compute())
    finally:
        pixel_loops.loops = LOOPS
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        if ours.dtype.kind == "f":
            ours, theirs = (np.where(np.isnan(a), np.float32(np.nan), a) for a in (ours, theirs))
        assert ours.tobytes() == theirs.tobytes()


def _flat(answer: Any) -> list[npt.NDArray[Any]]:
    return [np.asarray(part) for part in (answer if isinstance(answer, (tuple, list)) else (answer,))]


def floats(seed: int, shape: tuple[int, ...], odd: npt.NDArray[np.float32], low: float, high: float) -> Any:
    """Values of a range, some of them odd: none, a few, or whole stretches."""
    draw = np.random.default_rng(seed)
    values = draw.uniform(low, high, shape).astype(np.float32)
    strange = draw.random(shape) < draw.choice([0.0, 0.02, 0.5])
    values[strange] = draw.choice(odd, int(strange.sum()))
    if draw.random() < 0.3:
        values[..., : shape[-1] // 2] = np.nan
    return values


def map_of(seed: int, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Codes in speckles or stripes."""
    draw = np.random.default_rng(seed)
    coarse = draw.choice(CODES[: draw.integers(1, len(CODES) + 1)], shape)
    return np.repeat(coarse, draw.integers(1, 4), axis=1)[:, : shape[1]]


@quick
@given(seeds, shapes)
def test_final_layers(seed: int, shape: tuple[int, int]) -> None:
    draw = np.random.default_rng(seed)
    scores = floats(seed, (len(LEGEND), *shape), ODD, -0.2, 1.2)
    if draw.random() < 0.5:  # halves of a percent, and classes that are level
        scores = (draw.integers(0, 511, scores.shape) / np.float32(510)).astype(np.float32)
    count, mask = draw.integers(0, 3, shape).astype(np.uint8), draw.random(shape) < 0.8

    def layers() -> tuple[Any, ...]:
        found = finalise(scores, count, mask, LEGEND)
        return found.scores, found.landcover, found.confidence

    both(layers)


@quick
@given(seeds, shapes)
def test_spectral_indices(seed: int, shape: tuple[int, int]) -> None:
    reflectance = floats(seed, (10, *shape), ODD_DIFFERENCES, -0.05, 0.6)
    both(lambda: scaled_indices(reflectance))


@quick
@given(seeds, shapes, st.integers(1, 3))
def test_means_and_sums_of_cells(seed: int, shape: tuple[int, int], start: int) -> None:
    draw = np.random.default_rng(seed)
    codes = map_of(seed, shape)
    indices = draw.integers(-32767, 32768, (len(SPECTRAL_INDICES), *shape)).astype(np.int16)
    indices[draw.random(indices.shape) < 0.2] = INDEX_NODATA
    both(lambda: cell_means(codes, indices, LEGEND.codes))
    inside, first = draw.random(shape) < 0.7, (5 * start, 3 * start)
    window = Window(*first, *shape)
    cells = [(at + size - 1) // CELL_PX - at // CELL_PX + 1 for at, size in zip(first, shape, strict=True)]
    means = draw.integers(-INDEX_SCALE, INDEX_SCALE, (len(SPECTRAL_INDICES), len(LEGEND), *cells)).astype(np.int16)
    means[draw.random(means.shape) < 0.2] = INDEX_NODATA
    both(lambda: class_sums(codes, inside, window, means, LEGEND.codes))


@quick
@given(seeds, shapes)
def test_patches(seed: int, shape: tuple[int, int]) -> None:
    codes, mapped = map_of(seed, shape), np.random.default_rng(seed).random(shape) < 0.9
    both(lambda: label_block(codes, mapped))

    def summary() -> list[Any]:
        counter = PatchCounter(0, 2 * shape[1])
        for row in range(2):
            for column in range(2):
                counter.add(Window(row * shape[0], column * shape[1], *shape), codes[::-1] if row else codes, mapped)
        return [(code, patch.count, patch.largest_px) for code, patch in sorted(counter.summary().items())]

    both(summary)


@quick
@given(seeds, shapes)
def test_tallies(seed: int, shape: tuple[int, int]) -> None:
    draw = np.random.default_rng(seed)
    codes, inside = map_of(seed, shape), draw.random(shape) < 0.7
    layers = {
        "landcover": codes,
        "confidence": draw.integers(0, 256, shape).astype(np.uint8),
        "valid_count": draw.integers(0, 256, shape).astype(np.uint8),
    }
    means = np.zeros((len(SPECTRAL_INDICES), len(LEGEND), *(-(-size // CELL_PX) for size in shape)), np.int16)

    def sums() -> tuple[Any, ...]:
        tally = _Tally(0, shape[1])
        tally.add(Window(0, 0, *shape), inside, layers, means, LEGEND)  # type: ignore[arg-type]
        return tally.pixels, tally.counts, tally.confidence, tally.observations

    both(sums)


@quick
@given(seeds, st.tuples(st.integers(3, 30), st.integers(3, 30)))
def test_upsampling(seed: int, shape: tuple[int, int]) -> None:
    native = floats(seed, shape, ODD[:10], 0.0, 12_000.0)
    both(lambda: upsample_bilinear(native, 2))


@quick
@given(seeds, shapes, st.integers(1, 2))
def test_median_of_few_dates(seed: int, shape: tuple[int, int], dates: int) -> None:
    stack = floats(seed, (dates, *shape), np.array([np.nan, 0.0, 1e-30, -0.1], np.float32), -0.1, 1.0)
    both(lambda: nan_median(stack.copy()))


@quick
@given(seeds, shapes, st.sampled_from([0.0, 7.0, -9999.0, 65535.0, 1e9, 0.5, float("nan")]))
def test_numbers_of_files(seed: int, shape: tuple[int, int], nodata: float) -> None:
    raw = np.random.default_rng(seed).choice(np.array([0, 7, 500, 65535], np.uint16), shape)
    file = SimpleNamespace(nodata=None, mask_flag_enums=[[]])
    both(lambda: numbers_of(raw, file, nodata, lambda: np.ones(shape, np.uint8)))


@quick
@given(seeds, shapes)
def test_tiles_without_gaps(seed: int, shape: tuple[int, int]) -> None:
    wide = floats(seed, (10, shape[0] + 3, shape[1] + 5), np.array([np.nan, np.inf, 0.0], np.float32), -0.1, 1.0)
    tile = wide[:, 1 : shape[0] + 1, 2 : shape[1] + 2]  # as a tile lies in its block

    def filled() -> Any:
        answer = fill_invalid(tile)
        return image(0) if answer is None else answer

    both(filled)


def image(*shape: int, kind: Any = np.uint8) -> Any:
    return np.zeros(shape, kind)


SUMS = image(1, 1, 1, kind="i4"), image(1, 1, kind="i8"), image(1, 1, kind="i8")
LAYERS = image(3, 3), image(3, 3)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("label_block", (image(4, 4), image(4, 5), image(4, 4, kind="i4"), image(17, kind="i4"), image(17, kind="i8"))),
        ("label_block", (image(4, 4), image(4, 4), image(4, 4, kind="i4"), image(16, kind="i4"), image(16, kind="i8"))),
        ("codes_of_labels", (image(2, 2), np.full((2, 2), 9, "i4"), image(8))),
        ("codes_of_labels", (image(2, 2), np.full((2, 2), -1, "i4"), image(8))),
        ("join_lines", (np.full(3, 5, "i8"), image(3, kind="i8"), image(5, kind="i8"), image(5))),
        ("add_pixels", (*(image(3, 3) for _ in range(4)), 0, image(255, kind="i8"), image(256, kind="i8"))),
        (
            "cell_means",
            (image(9, 9), image(1, 9, 9, kind="i2"), image(256, kind="i2"), 0, image(1, 1, 1, 2, kind="i2")),
        ),
        (
            "cell_means",
            (image(8, 8), image(1, 8, 8, kind="i2"), np.full(256, 3, "i2"), 0, image(1, 2, 1, 1, kind="i2")),
        ),
        (
            "class_sums",
            (
                image(8, 8),
                image(8, 8),
                1,
                0,
                image(1, 1, 1, 1, kind="i2"),
                image(256, kind="i2"),
                0,
                image(1, 1, 1, kind="i4"),
                image(1, 1, kind="i8"),
                image(1, 1, kind="i8"),
            ),
        ),
        (
            "finalise",
            (
                image(2, 3, 3, kind="f4"),
                image(3, 3),
                image(3, 3),
                image(3),
                0,
                255,
                image(2, 3, 3),
                image(3, 3),
                image(3, 3),
            ),
        ),
        ("numbers", (image(3, 3, kind="u2"), 0, image(3, 4, kind="f4"))),
        ("numbers", (image(3, 3, kind="u1"), 0, image(3, 3, kind="f4"))),
        ("numbers", (image(3, 6, kind="u2")[:, ::2], 0, image(3, 3, kind="f4"))),
        ("numbers", (image(3, 3, kind="u2"), 0, b"cannot be written")),
        ("upsample_twice", (image(4, 4, kind="f4"), image(4, 6, kind="f4"), image(6, 6, kind="f4"))),
        ("median_of_two", (image(3, 3, kind="f4"), image(3, 2, kind="f4"), image(3, 3, kind="f4"), image(3, 3))),
        ("scaled_ratio", (image(3, 3, kind="f4"), None, image(2, 3, kind="f4"), None, image(3, 3, kind="i2"))),
        ("count_known", (image(2, 3, 3, kind="f4"), image(3, kind="i8"))),
        ("fill_gaps", (image(2, 3, 3, kind="f4"), image(2, kind="f4"), image(2, 3, 2, kind="f4"))),
    ],
)
def test_arrays_that_do_not_fit_are_refused(name: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises((ValueError, BufferError)):
        getattr(LOOPS, name)(*arguments)


def test_other_types_and_byte_orders_go_to_numpy() -> None:
    assert pixel_loops.fits(image(3, 3), types=(np.uint8,))
    assert not pixel_loops.fits(image(3, 3, kind=">u2"), types=(np.dtype(">u2"),))
    assert not pixel_loops.fits(image(3, 3, kind="f8"), types=(np.float32,))
    assert not pixel_loops.fits(image(3, 6)[:, ::2], types=(np.uint8,))


def test_the_compiler_may_not_round_otherwise() -> None:
    flags = (Path(__file__).resolve().parents[3] / "setup.py").read_text(encoding="utf-8")
    assert "-ffp-contract=off" in flags
    assert not re.search(r"-Ofast|-ffast-math|-funsafe|-fassociative|march", flags)
