"""A band file that lies in several places: read wherever it can be, always as the same numbers, and told."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ReadError
from pipeline.imagery import copies, file_reader
from pipeline.imagery.composite import read_composite
from pipeline.imagery.copies import Notes, as_numbers_of
from pipeline.imagery.stack import load
from pipeline.records.plan import Window, ZoneGrid
from pipeline.records.scene import Scene, SceneAsset
from pipeline.settings.run_file import CompositeConfig, SourceConfig
from pipeline.sources.hrefs import AssetDoor
from pipeline.sources.items import normalise_item
from tests.pipeline.loopback_server import Request, Response, file_answer, serve
from tests.pipeline.tiny_scenes import EPSG, LEFT, TOP, write_scene

PX = 128
GRID = ZoneGrid(EPSG, LEFT, TOP, 10.0, PX, PX)
WINDOW = Window(0, 0, PX, PX)
DOOR = AssetDoor(("http", "file"), (), ("127.0.0.1",), True)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_reader, "BACKOFF_S", 0.01)
    settings = file_reader.gdal_options
    monkeypatch.setattr(file_reader, "gdal_options", lambda href: {**settings(href), "GDAL_HTTP_RETRY_DELAY": "0.01"})


def scene_at(folder: Path, *prefixes: str, dn: Any = 2000, **changes: Any) -> Scene:
    """One scene whose files lie below each prefix."""
    first, *others = (
        normalise_item(
            write_scene(folder, "S2A_30UXB", dn=dn, href_prefix=prefix, **changes), "generic",
            source=SourceConfig.model_validate({"allowed_roots": [str(folder), "http://127.0.0.1/"]}), door=DOOR,
        )
        for prefix in prefixes
    )  # fmt: skip
    places = {name: tuple(other.assets[name] for other in others) for name in first.assets}
    assets = {name: dataclasses.replace(asset, copies=places[name]) for name, asset in first.assets.items()}
    return dataclasses.replace(first, assets=assets)


def truncated(root: Path, request: Request) -> Response:
    answer = file_answer(root, request)
    return Response(206, answer.body[:40], answer.headers)


FAULTS: dict[str, Callable[[Path, Request], Response]] = {
    "not there": lambda root, request: Response(404),
    "not allowed": lambda root, request: Response(403),
    "dead": lambda root, request: Response(0),
    "broken": lambda root, request: Response(500),
    "truncated": truncated,
    "no raster": lambda root, request: Response(206, b"<html>", {"Content-Range": "bytes 0-5/6"}),
    "no ranges": lambda root, request: Response(200, b"x" * 70_000),
}
SILENT = ("dead", "broken", "truncated")
"""Faults of a server, not of one file."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_copy_is_read_where_the_first_file_cannot_be(fault: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    pixels = rng.integers(1, 9000, (PX, PX), np.uint16)
    with (
        serve(lambda request: FAULTS[fault](tmp_path, request)) as bad,
        serve(lambda request: file_answer(tmp_path, request)) as good,
    ):
        broken = scene_at(tmp_path, bad.url, good.url, dn={"B02": pixels})
        whole = scene_at(tmp_path, good.url, dn={"B02": pixels})
        expected = read_composite([whole], GRID, WINDOW, CompositeConfig(), DOOR)
        found = read_composite([broken], GRID, WINDOW, CompositeConfig(), DOOR)
        again = read_composite([broken], GRID, WINDOW, CompositeConfig(), DOOR)
    assert expected.valid_count.all()
    for composite in (found, again):
        assert composite.reflectance.tobytes() == expected.reflectance.tobytes()
        assert composite.unread == ()
        (line,) = composite.problems
        assert line.startswith("S2A_30UXB: B02, B03, B04")
        assert f"{bad.url}/S2A_30UXB/B02.tif {'is not asked' if fault in SILENT else 'cannot be read'}" in line
        assert line.endswith(f"; {good.url}/S2A_30UXB/B02.tif is read in its place")
    assert expected.problems == ()


def test_a_server_that_is_dead_is_not_asked_for_every_file(tmp_path: Path) -> None:
    with (
        serve(lambda request: Response(0)) as dead,
        serve(lambda request: file_answer(tmp_path, request)) as good,
    ):
        scene = scene_at(tmp_path, dead.url, good.url)
        load([scene], ["SCL"], GRID, WINDOW, DOOR)
        asked = len(dead.requests)
        load([scene], ["B02", "B03", "B04"], GRID, WINDOW, DOOR)
        assert len(dead.requests) == asked > 0
        # It is asked again when its time is over.
        server, (since, message) = next(iter(copies._silent.items()))
        copies._silent[server] = (since - file_reader.GIVEN_UP_S, message)
        load([scene], ["B05"], GRID, WINDOW, DOOR)
        assert len(dead.requests) > asked


def test_a_file_that_is_gone_says_nothing_about_its_neighbours(tmp_path: Path) -> None:
    def answer(request: Request) -> Response:
        return Response(404) if "B02" in request.path else file_answer(tmp_path, request)

    with serve(answer) as first, serve(lambda request: file_answer(tmp_path, request)) as second:
        notes: Notes = {}
        load([scene_at(tmp_path, first.url, second.url)], ["B02", "B03"], GRID, WINDOW, DOOR, notes)
        assert list(notes) == [("S2A_30UXB", "B02")]
        assert {request.path for request in second.requests} == {"/S2A_30UXB/B02.tif"}


def test_what_no_place_has_is_one_error_that_names_them_all(tmp_path: Path) -> None:
    with serve(lambda request: Response(500)) as one, serve(lambda request: Response(404)) as other:
        scene = scene_at(tmp_path, one.url, other.url)
        with pytest.raises(ReadError) as caught:
            load([scene], ["B02"], GRID, WINDOW, DOOR)
        composite = read_composite([scene], GRID, WINDOW, CompositeConfig(), DOOR)
    assert str(caught.value).startswith(
        f"{one.url}/S2A_30UXB/B02.tif cannot be read: HTTP response code: 500; {other.url}"
    )
    assert composite.unread == ("S2A_30UXB",)
    assert len(composite.problems) == 1


def test_a_hiccup_of_both_places_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is asked again with all patience before a file is given up."""
    ends = time.monotonic() + 0.3

    def answer(request: Request) -> Response:
        return Response(503) if time.monotonic() < ends else file_answer(tmp_path, request)

    with serve(answer) as one, serve(answer) as other:
        scene = scene_at(tmp_path, one.url, other.url)
        monkeypatch.setattr(file_reader, "BACKOFF_S", 0.2)
        assert (load([scene], ["B02"], GRID, WINDOW, DOOR) == 2000).all()


def test_a_copy_has_its_own_scale_offset_and_nodata(tmp_path: Path) -> None:
    """A catalog that has taken the offset out of its files, and marks gaps with another number."""
    rng = np.random.default_rng(2)
    pixels = rng.integers(1001, 9000, (PX, PX), np.uint16)
    pixels[:10] = 0
    first = scene_at(tmp_path / "one", str(tmp_path / "one"), dn={"B02": pixels})
    taken = np.where(pixels == 0, 65535, pixels.astype(np.int64) - 1000).astype(np.uint16)
    other = scene_at(tmp_path / "two", str(tmp_path / "two"), dn={"B02": taken}, file_nodata=None)
    expected = load([first], ["B02"], GRID, WINDOW, DOOR)
    copy = dataclasses.replace(other.assets["B02"], offset=0.0, nodata=65535)
    asset = dataclasses.replace(first.assets["B02"], href=str(tmp_path / "gone.tif"), copies=(copy,))
    scene = dataclasses.replace(first, assets={**first.assets, "B02": asset})
    assert np.isnan(expected[0, 0, :10]).all()
    assert load([scene], ["B02"], GRID, WINDOW, DOOR).tobytes() == expected.tobytes()


@settings(max_examples=100, deadline=None)
@given(
    numbers=st.lists(st.integers(1100, 60_000), min_size=1, max_size=20),
    scales=st.tuples(*[st.sampled_from([1e-4, 2e-4, 1e-3])] * 2),
    offsets=st.tuples(*[st.sampled_from([0.0, -0.1, -0.2])] * 2),
)
def test_numbers_of_a_copy_mean_the_same_reflectance(
    numbers: list[int], scales: tuple[float, float], offsets: tuple[float, float]
) -> None:
    one, other = (SceneAsset("x", scale, offset) for scale, offset in zip(scales, offsets, strict=True))
    values = np.array([*numbers, np.nan], np.float32)
    found = as_numbers_of(one, other, values.copy())
    reflectance = values[:-1].astype(float) * other.scale + other.offset
    np.testing.assert_allclose(found[:-1].astype(float) * one.scale + one.offset, reflectance, rtol=1e-6, atol=1e-6)
    assert np.isnan(found[-1])
    if scales[0] == scales[1]:
        assert (found[:-1] == np.round(found[:-1])).all(), "whole numbers stay whole"


def test_providers_sign_their_own_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signed: list[tuple[str, str]] = []

    class Signer:
        def __init__(self, provider: str) -> None:
            self.provider = provider

        def sign(self, href: str) -> str:
            signed.append((self.provider, Path(href).parts[-3]))
            return href

    monkeypatch.setattr(copies, "signer_for", Signer)
    one, two = (scene_at(tmp_path / name, str(tmp_path / name)) for name in ("one", "two"))
    two = dataclasses.replace(two, id="other", provider="planetary-computer")
    copy = dataclasses.replace(one.assets["B03"], provider="cdse")
    gone = dataclasses.replace(two.assets["B03"], href=str(tmp_path / "away" / "x" / "B03.tif"), copies=(copy,))
    scenes = [one, dataclasses.replace(two, assets={**two.assets, "B03": gone})]
    load(scenes, ["B02", "B03"], GRID, WINDOW, DOOR)
    assert set(signed) == {
        ("generic", "one"), ("planetary-computer", "two"), ("planetary-computer", "away"), ("cdse", "one"),
    }  # fmt: skip


def test_scenes_with_copies_survive_json(tmp_path: Path) -> None:
    scene = scene_at(tmp_path, str(tmp_path), str(tmp_path / "else"))
    scene = dataclasses.replace(scene, tile="30UXB", datatake_start=scene.datetime)
    assert scene.assets["B02"].copies
    assert Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene
    plain = dataclasses.replace(scene.assets["B02"], copies=()).to_dict()
    assert "copies" not in plain
    assert SceneAsset.from_dict(plain).copies == ()
