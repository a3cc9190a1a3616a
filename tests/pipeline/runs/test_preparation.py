"""A plan over files and items that contradict each other: the right values, or a clear refusal, and always told."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from rasterio.enums import Resampling
from rasterio.windows import Window
from stackstac.raster_spec import RasterSpec

from pipeline.errors import NoScenesError
from pipeline.imagery import scene_examination
from pipeline.imagery.file_reader import AssetReader
from pipeline.planning.prepare import Prepared, prepare
from pipeline.records.scene import SCL, Scene
from pipeline.runs.preparation import prepare_run
from tests.conftest import tiny_config

Items = list[dict[str, Any]]


class Archive:
    """A copy of the tiny archive whose items and files can be changed."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.folder, self.source = folder, source
        self.items: Items = json.loads((source / "items.json").read_text())["features"]
        self.items = [copy.deepcopy(i) for i in self.items if "scl" in i["assets"]]

    def properties(self, only: int | None = None, **changes: Any) -> None:
        """Sets properties (``None`` removes), ``_`` standing for the colon after the prefix."""
        for item in self.items if only is None else [self.items[only]]:
            for name, value in changes.items():
                item["properties"].pop(key := name.replace("__", ":"), None)
                if value is not None:
                    item["properties"][key] = value

    def raster(self, only: int | None = None, **band: Any) -> None:
        """Gives every band these raster metadata, and no others."""
        for item in self.items if only is None else [self.items[only]]:
            for key, asset in item["assets"].items():
                if key != "scl":
                    asset.pop("raster:bands", None)
                    if band:
                        asset["raster:bands"] = [band]

    def files(
        self, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]], only: int | None = None, **profile: Any
    ) -> None:
        """Writes the band files anew with other numbers, and perhaps another nodata tag."""
        for item in self.items if only is None else [self.items[only]]:
            for key, asset in item["assets"].items():
                if key == "scl":
                    continue
                path = self.folder / item["id"] / f"{key}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                with rasterio.open(asset["href"]) as old:
                    numbers, about = old.read(1), old.profile
                changed = change(numbers)
                settings = {"driver": "GTiff", "tiled": True, "blockxsize": 64, "blockysize": 64}
                with rasterio.open(path, "w", **{**about, **settings, "dtype": changed.dtype, **profile}) as new:
                    new.write(changed, 1)
                asset["href"] = str(path)

    def prepared(self, examine: bool = True, **settings: Any) -> Prepared:
        path = self.folder / "items.json"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": self.items}))
        source = {"provider": settings.pop("provider", "generic"), "url": str(path)}
        if "bands" in settings:
            source["bands"] = settings.pop("bands")
        config = tiny_config(self.source, self.folder / "out", source=source, **settings)
        return prepare_run(config) if examine else prepare(config)


@pytest.fixture
def archive(tiny_archive: Path, tmp_path: Path) -> Archive:
    return Archive(tiny_archive, tmp_path)


@pytest.fixture(scope="module")
def truth(tiny_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, npt.NDArray[np.float32]]:
    """What the unchanged archive says, by its own metadata."""
    prepared = Archive(tiny_archive, tmp_path_factory.mktemp("truth")).prepared(provider="earth-search")
    return {scene.id: values(scene) for scene in prepared.plan.scenes}


def values(scene: Scene) -> npt.NDArray[np.float32]:
    """Reflectance ``[3, h, w]`` of three bands as a run would read it."""
    grid = RasterSpec(32632, (640_000.0, 5_147_440.0, 642_560.0, 5_150_000.0), (10.0, 10.0))
    found = []
    for name in ("B03", "B08", "B11"):
        asset = scene.assets[name]
        reader = AssetReader(
            url=asset.href,
            spec=grid,
            resampling=Resampling.bilinear,
            dtype=np.dtype("float32"),
            fill_value=np.nan,
            scale_offset=(1, 0),
            nodata={asset.href: asset.nodata},
        )
        found.append(reader.read(Window(0, 0, 256, 256)) * np.float32(asset.scale) + np.float32(asset.offset))
    return np.stack(found)


def hole(numbers: npt.NDArray[Any], mark: float) -> npt.NDArray[Any]:
    numbers[: len(numbers) // 4] = mark
    return numbers


def applied(numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The files carry the offset already."""
    return np.maximum(numbers.astype(np.int32) - 1000, 1).astype(np.uint16)


def reflectance(numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return ((numbers - 1000.0) / 10_000.0).astype(np.float32)


def _scale_one(a: Archive) -> None:
    a.raster(data_type="uint16", scale=1.0, offset=0.0, nodata=0)


def _scale_one_without_baseline(a: Archive) -> None:
    _scale_one(a)
    a.properties(s2__processing_baseline=None, earthsearch__boa_offset_applied=None)


def _scale_one_without_type(a: Archive) -> None:
    a.raster(scale=1.0, offset=0.0)
    a.properties(earthsearch__boa_offset_applied=None)


def _old_flag(a: Archive) -> None:
    a.files(applied)
    a.raster()
    a.properties(earthsearch__boa_offset_applied=None, s2__processing_baseline=None)
    a.properties(sentinel__boa_offset_applied="true", sentinel__processing_baseline="04.00")


def _flag_lies_true(a: Archive) -> None:
    a.properties(earthsearch__boa_offset_applied=True)


def _flag_lies_false(a: Archive) -> None:
    a.files(applied)


def _baseline_number(a: Archive) -> None:
    a.raster()
    a.properties(s2__processing_baseline=None, earthsearch__boa_offset_applied=None, sentinel__processing_baseline=5.1)


def _nodata_in_metadata(a: Archive) -> None:
    a.files(lambda n: hole(n.astype(np.int16), -9999), nodata=None)
    a.raster(data_type="int16", nodata=-9999)
    a.properties(earthsearch__boa_offset_applied=None)


def _nodata_nowhere(a: Archive) -> None:
    a.files(lambda n: hole(n.astype(np.int16), -9999), nodata=None)


def _nodata_65535(a: Archive) -> None:
    a.files(lambda n: hole(n, 65535), nodata=None)


def _floats(a: Archive) -> None:
    a.files(reflectance, nodata=None)


def _percent(a: Archive) -> None:
    a.files(lambda n: 100 * reflectance(n), nodata=None)
    a.raster(data_type="float32", scale=1.0, offset=0.0)
    a.properties(earthsearch__boa_offset_applied=None)


def _wrong_zone(a: Archive) -> None:
    a.properties(proj__code="EPSG:32633")


def _wrong_place(a: Archive) -> None:
    for item in a.items:
        for asset in item["assets"].values():
            asset["proj:transform"][2] += 50_000


def _zone_from_tile(a: Archive) -> None:
    a.properties(proj__code=None)


def _zone_as_float(a: Archive) -> None:
    a.properties(proj__code=None, proj__epsg=32632.0)


CASES: dict[str, tuple[Callable[[Archive], None], bool, bool]] = {
    # what is wrong: how, whether a quarter is missing, whether people are told
    "integers of scale 1": (_scale_one, False, True),
    "integers of scale 1, no baseline": (_scale_one_without_baseline, False, True),
    "integers of scale 1, type not said": (_scale_one_without_type, False, True),
    "the flag's first name": (_old_flag, False, False),
    "a flag that says applied, and is wrong": (_flag_lies_true, False, True),
    "a flag that says not applied, and is wrong": (_flag_lies_false, False, True),
    "a baseline that became a number": (_baseline_number, False, False),
    "nodata in the metadata only": (_nodata_in_metadata, True, False),
    "nodata nowhere": (_nodata_nowhere, True, True),
    "nodata 65535": (_nodata_65535, True, True),
    "floats with the scale of integers": (_floats, False, True),
    "percent": (_percent, False, True),
    "another zone": (_wrong_zone, False, True),
    "another place": (_wrong_place, False, True),
    "the zone in the tile's name": (_zone_from_tile, False, False),
    "the zone as a float": (_zone_as_float, False, False),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_wrongly_is_read_rightly(
    case: str, archive: Archive, truth: dict[str, npt.NDArray[np.float32]]
) -> None:
    change, holed, told = CASES[case]
    change(archive)
    prepared = archive.prepared()
    assert len(prepared.plan.scenes) == 2
    assert prepared.search.skipped == ()
    assert bool(prepared.doubts) == told
    for scene in prepared.plan.scenes:
        found, expected = values(scene), truth[scene.id].copy()
        if holed:
            assert np.isnan(found[:, :62]).all()
            found, expected = found[:, 66:], expected[:, 66:]
        assert scene.epsg == 32632
        np.testing.assert_allclose(found, np.maximum(expected, -0.0999), atol=2e-4)
        assert bool(scene.doubt) == told


def test_an_archive_that_is_right_is_left_alone(archive: Archive) -> None:
    before, after = archive.prepared(examine=False, provider="earth-search"), archive.prepared(provider="earth-search")
    assert after.plan == before.plan
    assert after.doubts == ()


def test_a_scene_that_cannot_be_believed_is_set_aside_and_the_next_one_serves(archive: Archive) -> None:
    noise = np.random.default_rng(5)
    archive.files(lambda n: noise.integers(1, 60_000, n.shape).astype(np.uint16), only=0)
    prepared = archive.prepared()
    assert [scene.id for scene in prepared.plan.scenes] == [archive.items[1]["id"]]
    ((name, reason),) = prepared.search.skipped
    assert name == archive.items[0]["id"]
    assert "cannot be believed" in reason


def test_where_no_scene_is_left_the_message_says_why_and_what_to_do(archive: Archive) -> None:
    archive.files(lambda n: np.full_like(n, 60_000))
    with pytest.raises(NoScenesError, match=r"none of the 2 scenes.*cannot be believed.*scale, offset and nodata"):
        archive.prepared()


def test_the_same_files_are_looked_at_once(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.files(applied)
    first = archive.prepared()

    def never(*_: Any) -> Any:
        raise AssertionError("read again")

    with monkeypatch.context() as patch:
        patch.setattr(scene_examination, "read_sample", never)
        assert archive.prepared().plan == first.plan
    archive.files(lambda n: n)  # written anew: another time, another sample
    monkeypatch.setattr(scene_examination, "read_sample", never)
    with pytest.raises(AssertionError, match="read again"):
        archive.prepared()


def test_files_that_cannot_be_read_now_are_no_reason_to_refuse(archive: Archive) -> None:
    for item in archive.items:
        for asset in item["assets"].values():
            asset["href"] = str(archive.folder / "gone.tif")
    assert len(archive.prepared().plan.scenes) == 2


@pytest.mark.parametrize("broken", [b"", b"nonsense", None])
def test_a_damaged_cache_costs_nothing_but_time(
    archive: Archive, tmp_path: Path, broken: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = archive.prepared()
    kept = sorted((tmp_path / "cache").rglob("*.npz"))
    assert len(kept) == 2
    for path in kept:
        if broken is None:
            path.write_bytes(path.read_bytes()[:-50])
        else:
            path.write_bytes(broken)
    assert archive.prepared().plan == first.plan


@pytest.mark.parametrize("bands", [["B02", "B03", "B04", "B08"], ["B02", "B03", "B04", "B8A", "B11", "B12"]])
def test_a_band_subset_is_examined_as_well(archive: Archive, bands: list[str]) -> None:
    archive.files(applied)
    prepared = archive.prepared(bands=bands, model={})
    assert {a.offset for s in prepared.plan.scenes for n, a in s.assets.items() if n != SCL} == {0.0}


@pytest.mark.parametrize("wrong", [-0.1, 0.0])
def test_a_copy_with_another_radiometry_is_read_as_the_file_is(archive: Archive, wrong: float) -> None:
    """Its files carry the offset, or do not, and its metadata say the contrary."""
    scenes = archive.prepared(provider="earth-search").plan.scenes
    if wrong:
        archive.files(applied)
    names = [name for name in scenes[0].assets if name != SCL]
    hrefs = [a["href"] for key, a in archive.items[0]["assets"].items() if key != "scl"]
    assets = {
        name: dataclasses.replace(
            scenes[0].assets[name],
            copies=(dataclasses.replace(scenes[0].assets[name], href=href, offset=wrong, provider="generic"),),
        )
        for name, href in zip(names, hrefs, strict=True)
    }
    scene = dataclasses.replace(scenes[0], assets={**assets, SCL: scenes[0].assets[SCL]})
    (found,) = scene_examination.examine_scenes([scene]).scenes
    assert {found.assets[name].offset for name in names} == {-0.1}
    assert {found.assets[name].copies[0].offset for name in names} == {-0.1 - wrong}
