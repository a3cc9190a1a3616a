"""What an archive holds: native grids, offsets, overlaps, valid COGs, readable STAC."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pystac
import pytest
import rasterio
import shapely
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate

from pipeline.errors import OutputError
from pipeline.simulation import DEMO_SPEC, Archive, ArchiveSpec, publish_items, write_archive
from pipeline.simulation.granules import granule_grid
from pipeline.simulation.scene import OFFSET_DN, acquire
from pipeline.simulation.sensor import PAD_PX
from spex_core.bands import BANDS
from spex_core.legend import Legend
from tests.pipeline.simulation.conftest import small_spec


def scene_file(archive: Archive, tile: str, date: str, band: str) -> Path:
    return next((archive.folder / "scenes" / tile).glob(f"{date}*")) / f"{band}.tif"


def read(path: Path, window: Window | None = None) -> npt.NDArray[np.uint16]:
    with rasterio.open(path) as source:
        return np.asarray(source.read(1, window=window))


def test_bands_have_their_native_grid(archive: Archive, spec: ArchiveSpec) -> None:
    frame = spec.granules[0].frame
    for band in BANDS:
        with rasterio.open(scene_file(archive, spec.granules[0].tile, "20260618", band.name)) as source:
            assert source.res == (band.gsd_m, band.gsd_m)
            assert source.shape == (192 * 10 // band.gsd_m, 192 * 10 // band.gsd_m)
            assert (source.transform.c, source.transform.f) == (frame.left, frame.top)
            assert source.crs.to_epsg() == 32632
            assert source.nodata == 0
            assert source.dtypes == ("uint16",)


def test_every_raster_is_a_valid_cog_with_overviews(archive: Archive) -> None:
    paths = sorted(archive.folder.rglob("*.tif"))
    assert len(paths) == 2 * 2 * 11 + 2
    for path in paths:
        valid, errors, warnings = cog_validate(str(path), strict=True, quiet=True)
        assert valid, (path, errors, warnings)
        with rasterio.open(path) as source:
            assert source.overviews(1), path
            assert source.compression.name == "deflate"


def test_overviews_of_the_truth_hold_only_legend_codes(archive: Archive) -> None:
    codes = set(Legend.from_yaml().codes)
    for path in archive.truth.values():
        with rasterio.open(path) as source:
            assert source.colormap(1)[10] == (0, 100, 0, 255)
        with rasterio.open(path, OVERVIEW_LEVEL=0) as overview:
            assert set(np.unique(overview.read(1)).tolist()) <= codes


def test_neighbouring_granules_agree_where_they_overlap(archive: Archive, spec: ArchiveSpec) -> None:
    left, right = (granule.tile for granule in spec.granules)
    for date in ("20260618", "20260703"):
        for name, step in (("B02", 1), ("B08", 1), ("B11", 2), ("SCL", 2)):
            size, shared = 192 // step, 64 // step
            a = read(scene_file(archive, left, date, name), Window(size - shared, 0, shared, size))
            b = read(scene_file(archive, right, date, name), Window(0, 0, shared, size))
            assert np.array_equal(a, b), (date, name)
    a, b = (read(archive.truth[tile]) for tile in (left, right))
    assert np.array_equal(a[:, -64:], b[:, :64])


def test_a_block_does_not_depend_on_the_blocking(spec: ArchiveSpec) -> None:
    frame = replace(spec.granules[0].frame, height=96, width=128)
    part = replace(frame, left=frame.left + 480, top=frame.top - 320, height=40, width=60)
    acquisition = spec.acquisitions[0]
    whole, cut = (acquire(spec.world, acquisition, f, spec.world.cover(f, PAD_PX), OFFSET_DN) for f in (frame, part))
    assert np.array_equal(whole.bands["B04"][32:72, 48:108], cut.bands["B04"])
    assert np.array_equal(whole.bands["B12"][16:36, 24:54], cut.bands["B12"])
    assert np.array_equal(whole.scl[16:36, 24:54], cut.scl)


def test_the_same_spec_gives_the_same_bytes(archive: Archive, tmp_path: Path) -> None:
    spec = small_spec(granules=small_spec().granules[:1])
    again = write_archive(tmp_path / "again", spec, "http://127.0.0.1:1/base")
    for path in sorted(again.folder.joinpath("scenes").rglob("*.tif")):
        assert path.read_bytes() == archive.folder.joinpath(path.relative_to(again.folder)).read_bytes(), path.name


@pytest.mark.parametrize(
    ("style", "applied", "baseline", "in_files"),
    [
        ("earth-search", False, "05.10", 1000),
        ("earth-search", True, "05.10", 0),
        ("earth-search", False, "03.01", 0),
        ("planetary-computer", False, "05.10", 1000),
        ("planetary-computer", False, "02.14", 0),
    ],
)
def test_files_carry_the_offset_that_the_item_tells(
    archive: Archive, tmp_path: Path, style: str, applied: bool, baseline: str, in_files: int
) -> None:
    base = small_spec()
    spec = replace(
        base,
        granules=granule_grid(32632, 643_000, 5_147_000, size_px=64, overlap_px=0),
        acquisitions=(replace(base.acquisitions[0], baseline=baseline),),
        style=style,  # type: ignore[arg-type]
        offset_applied=applied,
    )
    written = write_archive(tmp_path / "a", spec, "https://example.org")
    item = written.items[0]
    dn = read(scene_file(written, spec.granules[0].tile, "20260618", "B08")).astype(int) - in_files
    reference = read(scene_file(archive, base.granules[0].tile, "20260618", "B08"))[:64, :64].astype(int) - 1000
    valid = reference > 1 - in_files
    assert np.array_equal(dn[valid & (dn > 1)], reference[valid & (dn > 1)])
    assert item["properties"]["s2:processing_baseline"] == baseline
    if style == "earth-search":
        band = item["assets"]["nir"]["raster:bands"][0]
        assert band["scale"] * in_files + band["offset"] == pytest.approx(0.0)
        carried = baseline < "04.00" or applied
        assert item["properties"]["earthsearch:boa_offset_applied"] is carried
    else:
        assert "raster:bands" not in item["assets"]["B08"]
        assert set(item["assets"]) == {*(band.name for band in BANDS), "SCL"}


def test_pixels_east_of_the_swath_edge_are_nodata_in_every_file(archive: Archive, spec: ArchiveSpec) -> None:
    tile = spec.granules[1].tile
    scl = read(scene_file(archive, tile, "20260703", "SCL"))
    assert 0.05 < (scl == 0).mean() < 0.95
    for band in BANDS:
        empty = read(scene_file(archive, tile, "20260703", band.name)) == 0
        step = 20 // band.gsd_m
        assert np.array_equal(empty, np.repeat(np.repeat(scl == 0, step, axis=0), step, axis=1)), band.name


def test_scene_classification_agrees_with_what_is_seen(archive: Archive, spec: ArchiveSpec) -> None:
    tile = spec.granules[0].tile
    cloudy, clear = (
        {n: read(scene_file(archive, tile, date, n)).astype(float) for n in ("B02", "B8A", "SCL")}
        for date in ("20260618", "20260703")
    )
    scl, scl_clear = cloudy["SCL"].astype(int), clear["SCL"].astype(int)
    thick, shadow = scl == 9, scl == 3
    assert thick.mean() > 0.05
    assert shadow.mean() > 0.01
    assert not np.isin(scl_clear, (3, 8, 9, 10)).any()
    blue = cloudy["B02"].reshape(96, 2, 96, 2).mean(axis=(1, 3))
    assert np.median(blue[thick]) > 4000
    valid = scl_clear > 0
    assert np.median(cloudy["B8A"][shadow & valid]) < 0.75 * np.median(clear["B8A"][shadow & valid])
    cover = next(i for i in archive.items if tile in i["id"] and "20260618" in i["id"])["properties"]["eo:cloud_cover"]
    assert cover == pytest.approx(100 * np.isin(scl, (8, 9, 10)).mean(), abs=0.01)


def test_clear_scene_classification_fits_the_truth(archive: Archive, spec: ArchiveSpec) -> None:
    tile = spec.granules[0].tile
    scl = read(scene_file(archive, tile, "20260703", "SCL"))
    truth = read(archive.truth[tile])[::2, ::2]
    assert (scl[truth == 10] == 4).mean() > 0.9
    assert (scl[(truth == 40) | (truth == 30)] == 4).mean() > 0.6


@pytest.mark.parametrize("projection", ["1", "2"])
@pytest.mark.parametrize("style", ["earth-search", "planetary-computer"])
def test_items_open_in_pystac_and_tell_their_grid(tmp_path: Path, style: str, projection: str) -> None:
    spec = small_spec(
        style=style,
        projection=projection,
        granules=granule_grid(32632, 643_000, 5_147_000, size_px=64, overlap_px=0)
        + granule_grid(32733, 300_000, 8_000_000, size_px=64, overlap_px=0),
    )
    written = write_archive(tmp_path / "a", spec, "https://example.org/s2")
    assert len(written.items) == 4
    for data in written.items:
        item = pystac.Item.from_dict(data, migrate=False)
        assert item.datetime is not None
        if projection == "1":
            assert item.properties["proj:epsg"] in (32632, 32733)
        else:
            assert item.properties["proj:code"] in ("EPSG:32632", "EPSG:32733")
        for asset in item.assets.values():
            assert asset.href.startswith("https://example.org/s2/scenes/")
            assert asset.extra_fields["proj:shape"] in ([64, 64], [32, 32])
        assert shapely.from_geojson(json.dumps(data["geometry"])).is_valid
    assert {data["properties"]["mgrs:utm_zone"] for data in written.items} == {32, 33}
    assert len({data["id"] for data in written.items}) == 4


def test_the_static_catalog_reaches_every_file(archive: Archive) -> None:
    catalog = pystac.Catalog.from_file(str(archive.catalog))
    items = list(catalog.get_items(recursive=True))
    scenes = {item.id for item in items if item.collection_id == "sentinel-2-l2a"}
    assert scenes == {item["id"] for item in archive.items}
    assert {item.collection_id for item in items if item.id not in scenes} == {"esa-worldcover"}
    assert len(items) - len(scenes) == len(archive.truth)
    for item in items:
        for asset in item.assets.values():
            assert Path(str(asset.get_absolute_href())).is_file()


def test_items_can_be_published_at_another_address(archive: Archive) -> None:
    published = json.loads(publish_items(archive.folder, "http://127.0.0.1:9/").read_text())
    href = published["features"][0]["assets"]["red"]["href"]
    assert href.startswith("http://127.0.0.1:9/scenes/")
    assert (archive.folder / href.removeprefix("http://127.0.0.1:9/")).is_file()


def test_the_region_lies_inside_the_scenes_and_its_parts_do_not_overlap(archive: Archive) -> None:
    features = json.loads(archive.region.read_text())["features"]
    parts = [shapely.from_geojson(json.dumps(f["geometry"])) for f in features]
    assert [f["properties"]["name"] for f in features] == [r.name for r in DEMO_SPEC.regions]
    scenes = shapely.union_all([shapely.from_geojson(json.dumps(i["geometry"])) for i in archive.items])
    assert scenes.buffer(1e-5).contains(shapely.union_all(parts))
    for i, part in enumerate(parts):
        assert part.is_valid
        for other in parts[:i]:
            assert part.intersection(other).area < 1e-9


def test_a_folder_with_files_is_refused(archive: Archive, spec: ArchiveSpec) -> None:
    with pytest.raises(OutputError, match="not empty"):
        write_archive(archive.folder, spec, "https://example.org")
    with pytest.raises(OutputError, match="no simulated archive"):
        publish_items(archive.folder / "truth", "https://example.org")


@pytest.mark.parametrize("change", [{"left": 643_010}, {"size_px": 62}, {"overlap_px": 64}, {"overlap_px": 3}])
def test_granules_off_the_20_m_lattice_are_refused(change: dict[str, int]) -> None:
    arguments = {"left": 643_000, "top": 5_147_000, "size_px": 64, "overlap_px": 0} | change
    with pytest.raises(ValueError, match="multiple"):
        granule_grid(32632, **arguments)  # type: ignore[arg-type]


def test_a_granule_of_full_size_is_named_as_the_real_one() -> None:
    names = granule_grid(32632, 600_000, 5_100_000, size_px=10_980, overlap_px=980, columns=2)
    assert names[0].tile == "32TPS"
    assert names[1].tile == "32TQS"
    assert names[1].frame.left == 700_000
