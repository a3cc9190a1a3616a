"""Public data sets on folders generated in the layout of their release: names, bands, scale, codes, splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from pipeline.datasets import DATASETS, open_dataset
from pipeline.datasets.config import DatasetConfig
from pipeline.datasets.dataset import Opened
from pipeline.datasets.spacenet2 import FULL_SCALE
from pipeline.errors import ChipError, ConfigError
from pipeline.evaluation import EvaluationConfig, evaluate
from pipeline.machine.progress import LogProgress
from spex_core.bands import BAND_INDEX
from spex_core.legend import Legend

UTM = {"crs": "EPSG:26918", "transform": Affine(1, 0, 400_000, 0, -1, 4_300_000)}
LONLAT = {"crs": "EPSG:4326", "transform": Affine(2.7e-6, 0, -115.3, 0, -2.7e-6, 36.2)}


def write(path: Path, values: np.ndarray, **place: Any) -> Path:
    """A GeoTIFF of ``[C, H, W]``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    place = place or UTM
    count, height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=values.dtype, **place
    ) as file:
        file.write(values)
    return path


def level_1c(size: int, first: int = 100) -> np.ndarray:
    """Thirteen bands with values of their own, so that a wrong order shows."""
    layers = np.arange(13, dtype=np.uint16) * 100 + first
    return np.broadcast_to(layers[:, None, None], (13, size, size)).astype(np.uint16)


L1C = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")


def opened(name: str, root: Path, split: str | None = None, **options: str) -> Opened:
    return open_dataset(DatasetConfig(name=name, root=root, split=split, options=options))


def counts(found: Opened, index: int = 0) -> dict[str, int]:
    """Labelled pixels of a chip by class."""
    _, target, weight = found.chips.chip(index)
    assert ((target.sum(axis=0) > 0) == (weight > 0)).all()
    sums = (target * weight).sum(axis=(1, 2))
    return {name: int(pixels) for name, pixels in zip(found.dataset.legend.names, sums, strict=True) if pixels}


def sen1floods11(root: Path) -> Path:
    hand = root / "v1.1" / "data" / "flood_events" / "HandLabeled"
    splits = root / "v1.1" / "splits" / "flood_handlabeled"
    splits.mkdir(parents=True)
    for split, names in {"train": ["Ghana_1"], "valid": ["India_2"], "test": ["Mekong_3", "USA_4"]}.items():
        for name in names:
            label = np.zeros((1, 32, 32), np.int16)
            label[:, :8], label[:, 8:10] = 1, -1
            write(hand / "S2Hand" / f"{name}_S2Hand.tif", level_1c(32).astype(np.int16), **LONLAT)
            write(hand / "LabelHand" / f"{name}_LabelHand.tif", label, **LONLAT)
        lines = "".join(f"{name}_S1Hand.tif,{name}_LabelHand.tif\n" for name in names)
        (splits / f"flood_{split}_data.csv").write_text(lines)
    return root


def dfc2020_bench(root: Path) -> Path:
    base = root / "dfc2020_s1s2"
    for patch in (609, 12):
        labels = np.arange(11, dtype=np.uint8).repeat(3)[None, :, None].repeat(33, axis=2)[:, :32, :32]
        write(base / "dfc" / f"ROIs0000_test_dfc_0_p{patch}.tif", labels)
        write(base / "s2" / f"ROIs0000_test_s2_0_p{patch}.tif", level_1c(32))
    (base / "dfc-test-new.csv").write_text("ROIs0000_test_dfc_0_p609.tif\nROIs0000_test_dfc_0_p12.tif\n")
    return root


def dfc2020_contest(root: Path) -> Path:
    for patch in (0, 10, 2):
        folder = root / "ROIs0000_validation"
        name = f"ROIs0000_validation_{{}}_0_p{patch}.tif"
        write(folder / "dfc_validation" / name.format("dfc"), np.full((1, 32, 32), 10, np.uint8))
        write(folder / "s2_validation" / name.format("s2"), level_1c(32, first=100 + patch))
    return root


def segmunich(root: Path) -> Path:
    (root / "dataset").mkdir(parents=True)
    (root / "dataset" / "val.txt").write_text("7\n9\n\n")
    codes = (0, 21, 22, 23, 31, 5, 32, 33, 41, 13, 14, 11, 12)
    for name in ("7", "9"):
        image = np.arange(1, 11, dtype=np.uint16)[:, None, None] * np.full((1, 26, 26), 100, np.uint16)
        write(root / "val" / "img" / f"{name}.tif", image)
        label = np.array(codes, np.uint8).repeat(2)[None, :, None].repeat(26, axis=2)
        write(root / "val" / "label" / f"{name}.tif", label)
    return root


def chesapeake(root: Path) -> Path:
    for tile in ("m_3807503_ne_18_1", "m_3807504_nw_18_1"):
        folder = root / "md_1m_2013_extended-debuffered-test_tiles"
        image = np.array([51, 102, 153, 204], np.uint8)[:, None, None].repeat(260, 1).repeat(520, 2)
        labels = np.full((1, 260, 520), 1, np.uint8)
        labels[:, :10], labels[:, 10:20], labels[:, 20:30] = 15, 5, 6
        write(folder / f"{tile}_naip-new.tif", image)
        write(folder / f"{tile}_lc.tif", labels)
    return root


def spacenet2(root: Path) -> Path:
    folder = root / "AOI_2_Vegas_Train"
    for number in (1, 3, 4, 10, 11):
        left, top = -115.3, 36.2
        values = np.array([500, 600, 700], np.uint16)[:, None, None].repeat(40, 1).repeat(40, 2)
        write(folder / "RGB-PanSharpen" / f"RGB-PanSharpen_AOI_2_Vegas_img{number}.tif", values, **LONLAT)
        eight = np.arange(1, 9, dtype=np.uint16)[:, None, None].repeat(40, 1).repeat(40, 2) * 100
        write(folder / "MUL-PanSharpen" / f"MUL-PanSharpen_AOI_2_Vegas_img{number}.tif", eight, **LONLAT)
        step = 2.7e-6
        ring = [(4, 4), (14, 4), (14, 14), (4, 14), (4, 4)]
        polygon = [[[left + x * step, top - y * step] for x, y in ring]]
        features = [{"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": polygon}}]
        document = {
            "type": "FeatureCollection",
            "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}},
            "features": [] if number == 10 else features,
        }
        path = folder / "geojson" / "buildings" / f"buildings_AOI_2_Vegas_img{number}.geojson"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))
    return root


def check_sentinel(found: Opened, index: int = 0, first: int = 100) -> None:
    """Every band in its channel, as reflectance."""
    reflectance, _, _ = found.chips.chip(index)
    for name, channel in BAND_INDEX.items():
        assert reflectance[channel, 5, 5] == pytest.approx((first + 100 * L1C.index(name)) * 1e-4)


def test_sen1floods11(tmp_path: Path) -> None:
    found = opened("sen1floods11", sen1floods11(tmp_path))
    assert len(found.chips) == 2
    assert counts(found) == {"Water": 8 * 32, "Land": 22 * 32}
    check_sentinel(found)
    assert len(opened("sen1floods11", tmp_path / "v1.1", "val").chips) == 1


def test_dfc2020_of_copernicus_bench(tmp_path: Path) -> None:
    found = opened("dfc2020", dfc2020_bench(tmp_path))
    assert len(found.chips) == 2
    # Codes 0, 3 (savanna) and 8 (snow) do not count; 10 has two of its three rows.
    expected = dict.fromkeys(found.dataset.legend.names, 3 * 32) | {"Water": 2 * 32}
    assert counts(found) == expected
    check_sentinel(found)


def test_dfc2020_of_the_contest_in_the_order_of_its_patches(tmp_path: Path) -> None:
    found = opened("dfc2020", dfc2020_contest(tmp_path), "contest-validation")
    assert counts(found) == {"Water": 32 * 32}
    for index, patch in enumerate((0, 2, 10)):
        check_sentinel(found, index, first=100 + patch)


def test_segmunich(tmp_path: Path) -> None:
    found = opened("segmunich", segmunich(tmp_path))
    assert counts(found) == dict.fromkeys(found.dataset.legend.names, 2 * 26)
    reflectance, _, _ = found.chips.chip(1)
    present = {name for name, channel in BAND_INDEX.items() if np.isfinite(reflectance[channel]).all()}
    assert present == set(BAND_INDEX) - {"B08"}
    assert reflectance[BAND_INDEX["B02"], 0, 0] == pytest.approx(0.02)
    assert reflectance[BAND_INDEX["B12"], 0, 0] == pytest.approx(0.10)
    ten = opened("segmunich", tmp_path, bands="B02 B03 B04 B05 B06 B07 B08 B8A B11 B12")
    assert ten.chips.chip(0)[0][BAND_INDEX["B02"], 0, 0] == pytest.approx(0.01)
    with pytest.raises(ConfigError, match="must name ten"):
        opened("segmunich", tmp_path, bands="B02 B03")


def test_chesapeake_land_cover(tmp_path: Path) -> None:
    found = opened("chesapeake", chesapeake(tmp_path))
    assert len(found.chips) == 2 * 2  # two tiles, two windows in each
    assert counts(found) == {"Impervious, other": 2560, "Impervious, road": 2560, "Water": 226 * 256}
    reflectance, _, _ = found.chips.chip(0)
    values = {name: float(reflectance[BAND_INDEX[name], 0, 0]) for name in ("B04", "B03", "B02", "B08")}
    assert list(values.values()) == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert np.isnan(reflectance[[BAND_INDEX[name] for name in ("B05", "B11", "B12", "B8A")]]).all()
    assert found.sensor[BAND_INDEX["B08"]].gsd_m == 1
    four = opened("chesapeake-4", tmp_path)
    assert counts(four) == {"Barren or impervious": 5120, "Water": 226 * 256}


def test_spacenet2(tmp_path: Path) -> None:
    spacenet2(tmp_path)
    train, validation = (opened("spacenet2", tmp_path, split) for split in ("train", "val"))
    assert (len(train.chips), len(validation.chips)) == (4, 1)
    assert counts(train) == {"Building": 100, "No building": 1500}
    assert counts(train, 3) == {"No building": 1600}  # img10 has no building
    reflectance, _, _ = train.chips.chip(0)
    assert reflectance[BAND_INDEX["B04"], 0, 0] == pytest.approx(500 / FULL_SCALE)
    assert np.isnan(reflectance[BAND_INDEX["B08"]]).all()
    eight = opened("spacenet2", tmp_path, "train", city="vegas", product="MUL-PanSharpen").chips.chip(0)[0]
    order = [BAND_INDEX[name] for name in ("B02", "B03", "B04", "B06", "B08")]
    assert eight[order, 0, 0] * FULL_SCALE == pytest.approx([200, 300, 500, 600, 700], rel=1e-5)


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_a_folder_of_something_else_is_refused_with_the_file_that_is_missing(name: str, tmp_path: Path) -> None:
    with pytest.raises(ChipError, match=str(tmp_path)):
        opened(name, tmp_path)


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_unknown_splits_and_options_are_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown split 'holdout'"):
        opened(name, tmp_path, "holdout")
    with pytest.raises(ConfigError, match="unknown option colour"):
        opened(name, tmp_path, colour="blue")


def test_an_unknown_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'landcover7'.*sen1floods11"):
        opened("landcover7", tmp_path)


def test_a_split_file_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    sen1floods11(tmp_path)
    file = tmp_path / "v1.1" / "splits" / "flood_handlabeled" / "flood_test_data.csv"
    file.write_text("x_S1Hand.tif,../../../secret_LabelHand.tif\n")
    with pytest.raises(ChipError, match="is not a file name"):
        opened("sen1floods11", tmp_path)


def test_a_file_with_other_bands_is_named(tmp_path: Path) -> None:
    segmunich(tmp_path)
    path = write(tmp_path / "val" / "img" / "7.tif", np.ones((3, 26, 26), np.uint16))
    with pytest.raises(ChipError, match=rf"{path} has 3 bands; the release has 10"):
        opened("segmunich", tmp_path).chips.chip(0)


def test_crosswalks_name_classes_of_both_sides() -> None:
    codes = set(Legend.from_yaml().codes)
    for dataset in DATASETS.values():
        assert set(dataset.worldcover) <= set(dataset.legend.names), dataset.name
        members = [code for group in dataset.worldcover.values() for code in group]
        assert len(members) == len(set(members)), dataset.name
        assert set(members) <= codes, dataset.name


def test_an_evaluation_prints_the_protocol_beside_the_published_figures(tmp_path: Path) -> None:
    source = {"dataset": {"name": "sen1floods11", "root": str(sen1floods11(tmp_path))}}
    data = {"name": "floods", "checkpoint": "index-rules", "sources": [source]}
    result = evaluate(EvaluationConfig.from_dict(data), LogProgress())
    by_name = {figure.metric: figure for figure in result.protocol}
    assert by_name["mean IoU"].measured == pytest.approx(100 * result.rows["index_rules"].assessment.miou)
    assert ("U-Net", 91.4) in [(model, figure) for model, figure, _ in by_name["mean IoU"].published]
    assert "legend worldcover9" in result.protocol_note
    part = {"dataset": {**source["dataset"], "count": 1}}
    result = evaluate(EvaluationConfig.from_dict({**data, "sources": [part]}), LogProgress())
    assert "no figures of the benchmark" in result.protocol_note


def test_buildings_are_counted_as_objects(tmp_path: Path) -> None:
    dataset = {"name": "spacenet2", "root": str(spacenet2(tmp_path)), "split": "train"}
    groups = {"No building": [10, 20, 30, 40, 60, 70, 80, 90], "Building": [50]}
    data = {"name": "s", "checkpoint": "index-rules", "sources": [{"dataset": dataset}], "groups": groups}
    result = evaluate(EvaluationConfig.from_dict(data), LogProgress())
    f1, iou = result.protocol
    assert f1.metric.startswith("F1 of buildings")
    assert f1.measured == 0  # one grey image: whatever it is called, no building is found as an object
    assert iou.measured == pytest.approx(100 * result.rows["index_rules"].assessment.iou[1])


def test_classes_without_a_counterpart_are_told_and_not_compared(tmp_path: Path) -> None:
    dataset = {"name": "segmunich", "root": str(segmunich(tmp_path))}
    data = {"name": "s", "checkpoint": "index-rules", "sources": [{"dataset": dataset}]}
    result = evaluate(EvaluationConfig.from_dict(data), LogProgress())
    assert int(result.rows["index_rules"].assessment.reference.sum()) == 2 * 8 * 52
    assert any("not compared: Background, Permanent crops" in note for note in result.notes)
    own = evaluate(EvaluationConfig.from_dict({**data, "legend": "dataset"}), LogProgress())
    assert int(own.rows["index_rules"].assessment.reference.sum()) == 2 * 13 * 52
