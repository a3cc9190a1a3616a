"""One chip as files: pixels, labels, weights, and the JSON with source, attributes and answers.

Attributes come from the imagery alone (SPIE, arXiv 2508.05202 section III); answers describe the labels and exist for
training only. Both are measured on the numbers that are stored.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.spie.labels import Codes
from spex_core.answers import describe
from spex_core.legend import Legend
from spex_core.priors import MIN_OBJECT_PX, AttributeRecord, candidate_masks, region_attributes

SCALE = 10_000
"""Stored value = reflectance * SCALE."""
MISSING = -32_768
"""Stored value of a missing band or pixel."""
MAX_RECORDS = 10
DESCRIBED_SHARE = 0.9
"""From this labelled share on, answers may speak of the whole image (amounts, places); else only the short ones."""
REFLECTANCE, LABEL, PROBABILITY, WEIGHT, RECORD = (
    "reflectance.npy",
    "label.npy",
    "probability.npy",
    "weight.npy",
    "json",
)
"""Endings of a chip's files; the part of a member's name after its first dot, as WebDataset cuts it."""


def encode_reflectance(reflectance: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """Reflectance, float32 with NaN, as int16: reflectance * 10,000, :data:`MISSING` where there is none."""
    scaled = np.clip(np.rint(np.nan_to_num(reflectance) * SCALE), MISSING + 1, -MISSING - 1).astype(np.int16)
    return np.where(np.isfinite(reflectance), scaled, np.int16(MISSING))


def decode_reflectance(stored: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    """Inverse of :func:`encode_reflectance`, to the ten-thousandth."""
    values = stored.astype(np.float32) / np.float32(SCALE)
    return np.where(stored == MISSING, np.float32(np.nan), values).astype(np.float32)


def chip_members(
    key: str,
    stored: npt.NDArray[np.int16],
    codes: Codes,
    observed: npt.NDArray[np.bool_],
    legend: Legend,
    facts: Mapping[str, Any],
    seed: int,
) -> dict[str, bytes]:
    """The files of a chip: ending → content; the same inputs give the same bytes.

    Args:
        key: Name of the chip.
        stored: int16 [10, h, w], see :func:`encode_reflectance`.
        codes: uint8 [h, w], legend codes, the legend's nodata where not labelled.
        observed: bool [h, w], pixels with a clear observation.
        legend: K classes.
        facts: Where, when, from what and under which licence; goes into the JSON as it is.
        seed: Of the answers' wording.
    """
    weight = (codes != legend.nodata) & observed
    labelled = np.where(weight, codes, np.uint8(legend.nodata))
    reflectance = decode_reflectance(stored)
    record = {
        "key": key,
        **facts,
        "attributes": attributes(reflectance, legend),
        "answers": answers(key, reflectance, labelled, legend, seed, whole=bool(weight.mean() >= DESCRIBED_SHARE)),
    }
    return {
        REFLECTANCE: _npy(stored),
        LABEL: _npy(codes),
        WEIGHT: _npy(weight.astype(np.uint8)),
        RECORD: (json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n").encode(),
    }


def attributes(reflectance: npt.NDArray[np.float32], legend: Legend) -> dict[str, list[dict[str, Any]]]:
    """Class noun → attribute records of its candidates, largest first; four decimals.

    Args:
        reflectance: float32 [10, h, w]; NaN: missing.
        legend: Its index rules find the candidates. Labels have no say in it.
    """
    return {
        entry.noun: [
            _rounded(record)
            for record in region_attributes(mask, reflectance, max_records=MAX_RECORDS, min_pixels=MIN_OBJECT_PX)
        ]
        for entry, mask in zip(legend, candidate_masks(reflectance, legend), strict=True)
    }


def answers(
    key: str,
    reflectance: npt.NDArray[np.float32],
    labelled: Codes,
    legend: Legend,
    seed: int,
    *,
    whole: bool,
) -> dict[str, dict[str, str]]:
    """Class noun → answers by form (``short``; with ``whole`` also ``brief`` and ``full``), true of the labels.

    Args:
        key: Chips differ in wording.
        reflectance: float32 [10, h, w]; NaN: missing.
        labelled: uint8 [h, w], legend codes; nodata where not labelled or not seen.
        legend: K classes.
        seed: Another seed, other words.
        whole: Nearly all of the chip is labelled.
    """
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed}\x00{key}".encode()).digest()[:16], "big"))
    masks = {entry.noun: labelled == entry.code for entry in legend}
    found: dict[str, dict[str, str]] = {}
    for noun, mask in masks.items():
        found[noun] = {"short": describe(noun, mask, rng, form="short")}
        if whole:
            others = {other: pixels for other, pixels in masks.items() if other != noun}
            found[noun]["brief"] = describe(noun, mask, rng, form="brief")
            found[noun]["full"] = describe(noun, mask, rng, form="full", reflectance=reflectance, others=others)
    return found


def _rounded(record: AttributeRecord) -> dict[str, Any]:
    def rounded(value: Any) -> Any:
        if isinstance(value, float):
            return round(value, 4) + 0.0
        if isinstance(value, dict):
            return {name: rounded(part) for name, part in value.items()}
        if isinstance(value, (tuple, list)):
            return [rounded(part) for part in value]
        return value

    return {name: rounded(value) for name, value in asdict(record).items()}


def _npy(array: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()
