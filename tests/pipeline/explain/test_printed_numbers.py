"""Every number that is printed of a sub-region, measured again on the published rasters with numpy alone."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.features
import rasterio.warp
import scipy.ndimage

from pipeline.explain.kept_run import open_kept_run


def area_words(hectares: float) -> str:
    """Three digits, written here once more."""
    if hectares >= 9.95:
        digits = 2 - math.floor(math.log10(hectares))
        return f"{round(hectares, min(digits, 0)):,.0f} ha"
    return f"{hectares:.1f} ha" if hectares >= 0.995 else f"{hectares:.2f} ha"


def share_words(share: float) -> set[str]:
    return {f"{share * 100:.0f}%"} | ({"1%"} if share < 0.01 else set()) | ({"99%", "100%"} if share > 0.99 else set())


def measured(folder: Path, geometry: dict[str, Any]) -> dict[str, Any]:
    """Areas, patches, confidence and counts of a polygon, over whole rasters."""
    layers = {}
    for name in ("landcover", "confidence", "valid_count"):
        with rasterio.open(folder / f"{name}.tif") as file:
            layers[name], transform, crs, shape = file.read(1), file.transform, file.crs, file.shape
    outline = rasterio.warp.transform_geom("EPSG:4326", crs, geometry)
    inside = rasterio.features.geometry_mask([outline], shape, transform, invert=True)
    mapped = inside & (layers["landcover"] != 0)
    classes = {}
    for code in np.unique(layers["landcover"][mapped]):
        chosen = mapped & (layers["landcover"] == code)
        labels, patches = scipy.ndimage.label(chosen, np.ones((3, 3)))
        classes[int(code)] = {
            "area_ha": chosen.sum() / 100,
            "share": chosen.sum() / mapped.sum(),
            "share_of_map": (layers["landcover"] == code).sum() / (layers["landcover"] != 0).sum(),
            "patches": patches,
            "largest_patch_ha": np.bincount(labels[chosen]).max() / 100,
            "mean_confidence": layers["confidence"][chosen].mean() / 100,
        }
    return {
        "area_ha": inside.sum() / 100,
        "observed_share": mapped.sum() / inside.sum(),
        "mean_confidence": layers["confidence"][mapped].mean() / 100,
        "mean_observations": layers["valid_count"][mapped].mean(),
        "classes": classes,
    }


@pytest.fixture(scope="module")
def regions(output: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What is published of each sub-region, and what the rasters say."""
    (path,) = output.glob("spex-landcover/*/explanations.json")
    document = json.loads(path.read_text())
    found = [(entry, measured(path.parent, entry["geometry"])) for entry in document["regions"]]
    assert len(found) >= 4
    texts = {region.id: region.text for region in open_kept_run(output).regions()}
    assert texts == {entry["id"]: entry["text"] for entry, _ in found}
    return found


def test_published_figures_are_those_of_the_rasters(regions: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    for told, facts in regions:
        for name in ("area_ha", "observed_share", "mean_confidence", "mean_observations"):
            # A border of lon/lat edges may fall on either side of a pixel's centre.
            assert told[name] == pytest.approx(facts[name], rel=2e-3, abs=1e-4), (told["id"], name)
        assert {entry["code"] for entry in told["classes"]} == set(facts["classes"])
        for entry in told["classes"]:
            for name in ("area_ha", "share", "patches", "largest_patch_ha", "mean_confidence"):
                value = facts["classes"][entry["code"]][name]
                assert entry[name] == pytest.approx(value, rel=2e-2, abs=0.02), (told["id"], entry["name"], name)


def test_no_number_is_printed_that_is_not_measured(regions: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    printed = 0
    for told, facts in regions:
        words = {area_words(facts["area_ha"]), f"{facts['mean_observations']:.1f} clear"}
        words |= share_words(facts["observed_share"]) | share_words(facts["mean_confidence"])
        for one in facts["classes"].values():
            words |= {area_words(one["area_ha"]), area_words(one["largest_patch_ha"])}
            words |= share_words(one["share"]) | share_words(one["mean_confidence"])
            words |= share_words(one["largest_patch_ha"] / one["area_ha"])
            words.add(f"{abs(one['share'] - one['share_of_map']) * 100:.0f} percentage")
            words |= {f"{one['patches']:,} patches", f"{one['patches'] - 1:,} smaller"}
        text = told["text"].removeprefix(told["name"])
        numbers = re.findall(r"\d[\d,]*(?:\.\d+)?(?:%| ha| patches| smaller| clear| percentage)", text)
        assert len(numbers) == len(re.findall(r"(?<![\d.,])\d", text)), text
        for number in numbers:
            printed += 1
            assert number in words, (told["id"], number, text)
        assert all(claim["supported"] for claim in told["claims"])
        assert len(re.findall(r"[.](?=\s|$)", text)) <= 3
    assert printed >= 10
