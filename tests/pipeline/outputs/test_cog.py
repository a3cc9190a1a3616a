"""The written maps: valid COGs whose every pixel, at every level, is a legend code; the same bytes every time.

The first group holds the traps that shape :mod:`pipeline.outputs.cog`; each shows the trap itself, so a mended GDAL is
noticed.
"""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp, Resampling
from rio_cogeo.cogeo import cog_translate, cog_validate

from pipeline.errors import CogError
from pipeline.mapstore.index_cells import INDEX_NODATA
from pipeline.mapstore.store import RunStore
from pipeline.mapstore.zone_store import ZoneStore
from pipeline.outputs.cog import check_cog, write_confidence_cog, write_landcover_cog, write_valid_count_cog
from pipeline.predict.stitch import BlockLayers
from pipeline.settings.run_file import TilingConfig
from spex_core.indices import SPECTRAL_INDICES
from tests.pipeline.small_plans import EPSG, LEGEND, filled_store, plan_of, zone_of

CODES = {LEGEND.nodata, *LEGEND.codes}


def zone_store(folder: Path, height: int, width: int, *, block_px: int = 256, empty_share: float = 0.1) -> ZoneStore:
    tiling = TilingConfig(tile_px=64, overlap_px=16, block_px=block_px)
    plan = plan_of(zone_of(height, width, tiling), tiling=tiling)
    return filled_store(folder, plan, empty_share=empty_share).zone(EPSG)


@pytest.fixture(scope="module")
def zone(tmp_path_factory: pytest.TempPathFactory) -> ZoneStore:
    """Odd sizes, more than one file tile, two overview levels, store blocks (400) that do not fit file tiles (512)."""
    return zone_store(tmp_path_factory.mktemp("store"), 1031, 1207, block_px=400)


@pytest.fixture(scope="module")
def landcover(zone: ZoneStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_landcover_cog(zone, tmp_path_factory.mktemp("out") / "landcover.tif", LEGEND, tags={"RUN": "0123"})


def level_values(path: Path, level: int) -> np.ndarray:
    with rasterio.open(path, overview_level=level) as source:
        return source.read(1)


# --- traps --------------------------------------------------------------------------------------------------------


def test_average_overviews_invent_classes_and_pass_validation(landcover: Path, tmp_path: Path) -> None:
    profile = {"driver": "GTiff", "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "DEFLATE"}
    wrong = tmp_path / "average.tif"
    cog_translate(landcover, wrong, profile, overview_resampling="average", in_memory=False, quiet=True)
    assert cog_validate(wrong, quiet=True)[0], "validation does not look at values"
    with pytest.raises(CogError, match=r"overview level 1 hold values .* not allowed"):
        check_cog(wrong, CODES)


def test_tags_written_after_translation_break_a_cog(landcover: Path, tmp_path: Path) -> None:
    late = tmp_path / "late.tif"
    late.write_bytes(landcover.read_bytes())
    with rasterio.open(late, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as target:
        target.update_tags(LATE="x" * 1000)
    with pytest.raises(CogError, match="not a valid COG"):
        check_cog(late, CODES)


def test_our_file_is_a_valid_cog_with_its_tags(landcover: Path) -> None:
    valid, errors, warnings = cog_validate(landcover, strict=True, quiet=True)
    assert (valid, errors, warnings) == (True, [], [])
    with rasterio.open(landcover) as source:
        assert source.tags()["RUN"] == "0123"
        assert source.tags()["LEGEND"] == LEGEND.name
        assert {f"CLASS_{c.code}": c.name for c in LEGEND}.items() <= source.tags(1).items()


@pytest.mark.parametrize("resampling", ["mode", "nearest"])
def test_overviews_exist_and_hold_legend_codes_only(zone: ZoneStore, tmp_path: Path, resampling: str) -> None:
    path = write_landcover_cog(zone, tmp_path / "map.tif", LEGEND, overview_resampling=resampling)  # type: ignore[arg-type]
    with rasterio.open(path) as source:
        assert source.overviews(1) == [2, 4]
        assert source.tags()["OVERVIEW_RESAMPLING"] == resampling.upper()
    for level in range(2):
        assert set(np.unique(level_values(path, level))) <= CODES


def test_writing_again_gives_the_same_bytes(zone: ZoneStore, landcover: Path, tmp_path: Path) -> None:
    again = write_landcover_cog(zone, tmp_path / "landcover.tif", LEGEND, tags={"RUN": "0123"})
    assert again.read_bytes() == landcover.read_bytes()
    first, second = (write_confidence_cog(zone, tmp_path / name).read_bytes() for name in ("a.tif", "b.tif"))
    assert first == second
    assert b"DATETIME" not in first


def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    store = zone_store(tmp_path / "run", 300, 700)
    here = write_landcover_cog(store, tmp_path / "here.tif", LEGEND)
    program = (
        "import sys\n"
        "from pipeline.outputs.cog import write_landcover_cog\n"
        "from pipeline.mapstore.store import RunStore\n"
        "from spex_core.legend import Legend\n"
        f"write_landcover_cog(RunStore.open(sys.argv[1]).zone({EPSG}), sys.argv[2], Legend.from_yaml())\n"
    )
    there = tmp_path / "there.tif"
    environment = {"GDAL_NUM_THREADS": "ALL_CPUS", "GDAL_CACHEMAX": "500", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "run"), str(there)], check=True, env=environment)
    assert there.read_bytes() == here.read_bytes()


# --- content ------------------------------------------------------------------------------------------------------


def test_pixels_and_grid_are_those_of_the_store(zone: ZoneStore, landcover: Path, tmp_path: Path) -> None:
    confidence = write_confidence_cog(zone, tmp_path / "confidence.tif")
    counts = write_valid_count_cog(zone, tmp_path / "valid_count.tif")
    for path, layer, nodata in (
        (landcover, "landcover", 0),
        (confidence, "confidence", 255),
        (counts, "valid_count", 255),
    ):
        with rasterio.open(path) as source:
            np.testing.assert_array_equal(source.read(1), zone.read(layer))  # type: ignore[arg-type]
            assert source.crs.to_epsg() == EPSG
            assert source.bounds == (600_000.0, 5_100_000.0 - 10_310.0, 600_000.0 + 12_070.0, 5_100_000.0)
            assert source.nodata == nodata
            assert source.dtypes == ("uint8",)
            assert source.descriptions[0]
            assert source.block_shapes == [(512, 512)]
            assert source.profile["compress"] == "deflate"


def test_colours_are_the_legends_and_nodata_is_transparent(landcover: Path) -> None:
    with rasterio.open(landcover) as source:
        assert source.colorinterp == (ColorInterp.palette,)
        colors = source.colormap(1)
    for entry in LEGEND:
        assert colors[entry.code] == (*entry.rgb, 255)
    assert colors[LEGEND.nodata][:3] == (0, 0, 0)


def test_class_names_lie_beside_the_map_where_gdal_looks(landcover: Path) -> None:
    band = ET.parse(landcover.with_name("landcover.tif.aux.xml")).getroot().find("PAMRasterBand")
    assert band is not None
    names = [category.text for category in band.findall("CategoryNames/Category")]
    rows = [[field.text for field in row.findall("F")] for row in band.findall("GDALRasterAttributeTable/Row")]
    for entry, row in zip(LEGEND, rows, strict=True):
        assert names[entry.code] == entry.name
        assert row == [str(entry.code), entry.name, *(str(v) for v in entry.rgb)]


def test_confidence_overviews_average_what_was_seen(tmp_path: Path) -> None:
    tiling = TilingConfig(tile_px=64, overlap_px=16, block_px=1024)
    plan = plan_of(zone_of(600, 600, tiling), tiling=tiling)
    store = RunStore.create(tmp_path / "run", plan, LEGEND)
    confidence = np.full((600, 600), 255, np.uint8)
    confidence[0:2, 0:2] = [[10, 20], [30, 255]]  # the mean of the three that were seen is 20
    layers = BlockLayers(np.zeros((9, 600, 600), np.uint8), np.zeros((600, 600), np.uint8), confidence)
    counts, means = np.ones((600, 600), np.uint8), np.full((len(SPECTRAL_INDICES), 9, 75, 75), INDEX_NODATA, np.int16)
    store.write_block(EPSG, plan.zones[0].blocks[0], layers, counts, means)
    path = write_confidence_cog(store.zone(EPSG), tmp_path / "confidence.tif")
    overview = level_values(path, 0)
    assert overview[0, 0] == 20
    assert (overview.ravel()[1:] == 255).all()


def test_statistics_are_those_of_the_seen_pixels(zone: ZoneStore, tmp_path: Path) -> None:
    with rasterio.open(write_confidence_cog(zone, tmp_path / "confidence.tif")) as source:
        tags, values = source.tags(1), source.read(1)
    seen = values[values != 255].astype(float)
    assert float(tags["STATISTICS_MEAN"]) == pytest.approx(seen.mean(), abs=1e-6)
    assert float(tags["STATISTICS_STDDEV"]) == pytest.approx(seen.std(), abs=1e-6)
    assert (int(tags["STATISTICS_MINIMUM"]), int(tags["STATISTICS_MAXIMUM"])) == (seen.min(), seen.max())


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 300), (512, 512), (513, 511), (40, 1100)])
def test_odd_and_tiny_sizes_are_valid(tmp_path: Path, height: int, width: int) -> None:
    store = zone_store(tmp_path / "run", height, width)
    for write, layer in ((write_confidence_cog, "confidence"), (write_valid_count_cog, "valid_count")):
        with rasterio.open(write(store, tmp_path / f"{layer}.tif")) as source:
            np.testing.assert_array_equal(source.read(1), store.read(layer))  # type: ignore[arg-type]
    path = write_landcover_cog(store, tmp_path / "landcover.tif", LEGEND)
    assert cog_validate(path, strict=True, quiet=True)[0]
    with rasterio.open(path) as source:
        np.testing.assert_array_equal(source.read(1), store.read("landcover"))
        assert bool(source.overviews(1)) == (max(height, width) > 512)


def test_a_map_of_nothing_is_valid(tmp_path: Path) -> None:
    store = zone_store(tmp_path / "run", 600, 600, empty_share=1.1)
    for path in (
        write_landcover_cog(store, tmp_path / "landcover.tif", LEGEND),
        write_confidence_cog(store, tmp_path / "confidence.tif"),
    ):
        with rasterio.open(path) as source:
            assert not source.dataset_mask().any()
            assert "STATISTICS_MEAN" not in source.tags(1)
            assert not source.read(1, out_shape=(150, 150), resampling=Resampling.nearest, masked=True).count()


# --- failure ------------------------------------------------------------------------------------------------------


def test_a_code_that_is_not_in_the_legend_stops_the_map_and_leaves_nothing(tmp_path: Path) -> None:
    store = zone_store(tmp_path / "run", 100, 100)
    store.array("landcover")[3, 3] = 77
    out = tmp_path / "out"
    with pytest.raises(CogError, match=r"its pixels hold values \[77\]"):
        write_landcover_cog(store, out / "landcover.tif", LEGEND)
    assert list(out.iterdir()) == []


def test_a_failed_writing_leaves_the_former_file(tmp_path: Path) -> None:
    store = zone_store(tmp_path / "run", 100, 100)
    path = write_landcover_cog(store, tmp_path / "landcover.tif", LEGEND)
    before = path.read_bytes()
    store.array("landcover")[3, 3] = 77
    with pytest.raises(CogError):
        write_landcover_cog(store, path, LEGEND)
    assert path.read_bytes() == before


def test_a_destination_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    store = zone_store(tmp_path / "run", 10, 10)
    (tmp_path / "file").write_text("")
    with pytest.raises(CogError, match=r"landcover\.tif cannot be written"):
        write_landcover_cog(store, tmp_path / "file" / "landcover.tif", LEGEND)


def test_only_the_finished_files_are_left(landcover: Path) -> None:
    assert sorted(path.name for path in landcover.parent.iterdir()) == ["landcover.tif", "landcover.tif.aux.xml"]
