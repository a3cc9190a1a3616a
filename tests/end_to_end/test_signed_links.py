"""A catalog that signs its links anew at every search: one run, resumed with the links of today."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import rasterio

import pipeline
from pipeline.engine.cluster import Cluster
from pipeline.machine.progress import LogProgress
from pipeline.runs.map_region import map_region
from pipeline.settings.run_file import RunConfig
from pipeline.sources.hrefs import resolve
from spex_core.legend import Legend
from tests.conftest import tiny_config
from tests.pipeline.loopback_server import Request, Response, Server, file_answer, json_response, serve

pytestmark = pytest.mark.ray


class StopAfter(LogProgress):
    """Interrupts a run when so many blocks are finished."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self._left = blocks

    def advance(self, amount: int = 1) -> None:
        super().advance(amount)
        self._left -= amount
        if self._left == 0:
            raise KeyboardInterrupt


def pixels(path: Path) -> Any:
    """Of one map, whose tags name its run."""
    with rasterio.open(path) as opened:
        return opened.read(1)


@dataclass
class Archive:
    """Files for those who bring the signature of now; items with links that carry it."""

    signature: str
    server: Server

    def config(self, archive: Path, output: Path, **settings: Any) -> RunConfig:
        source = {"provider": "earth-search", "url": f"{self.server.url}/items.json"}
        return tiny_config(archive, output, **{"source": source, **settings})


@pytest.fixture
def signed(tiny_archive: Path, local_ray: Cluster) -> Iterator[Archive]:
    found = [(path, json.loads(path.read_text())) for path in sorted(tiny_archive.rglob("*.json"))]
    items = [(path, item) for path, item in found if str(item.get("id")).startswith("S2")]
    assert len(items) == 2

    def link(href: str, item_path: Path) -> str:
        path = resolve(href, str(item_path))
        return f"{archive.server.url}/{Path(path).relative_to(tiny_archive)}?X-Amz-Signature={archive.signature}"

    def signed_item(path: Path, item: dict[str, Any]) -> dict[str, Any]:
        assets = {key: {**asset, "href": link(asset["href"], path)} for key, asset in item["assets"].items()}
        return {**item, "links": [], "assets": assets}

    def answer(request: Request) -> Response:
        if request.path == "/items.json":
            return json_response({"type": "FeatureCollection", "features": [signed_item(*found) for found in items]})
        if request.query.get("X-Amz-Signature") != [archive.signature]:
            return Response(403)
        return file_answer(tiny_archive, request)

    with serve(answer) as server:
        archive = Archive("first", server)
        yield archive


def test_a_run_goes_on_with_the_links_of_today(
    tiny_archive: Path, signed: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pipeline.run(tiny_config(tiny_archive, tmp_path / "whole"))  # the same files, read from disk
    config = signed.config(tiny_archive, tmp_path / "resumed")
    planned = pipeline.plan(config)
    with pytest.raises(KeyboardInterrupt):
        map_region(config, StopAfter(blocks=2))
    signed.signature = "second"  # those of the first search have expired
    resumed = pipeline.run(config)
    assert resumed.run_id == planned.run_id
    assert (resumed.exit_code, resumed.computed_blocks, resumed.incomplete_blocks) == (0, 2, 0)
    for kind in ("landcover", "confidence", "valid_count"):
        assert pixels(resumed.outputs[kind][0]).tobytes() == pixels(whole.outputs[kind][0]).tobytes()
    assert (tmp_path / "resumed" / ".spex" / planned.run_id / "plan.json").is_file()
    for path in (tmp_path / "resumed").rglob("*"):
        assert not path.is_file() or not re.search(rb"(?i)signature=(first|second)", path.read_bytes()), path

    def refuse(*_: object) -> None:
        raise AssertionError("Ray was asked for")

    monkeypatch.setattr("pipeline.runs.map_region.connected", refuse)
    signed.signature = "third"
    assert pipeline.run(config).reused, "a new signature alone is nothing to publish either"


def test_new_colours_are_published_without_computing(
    tiny_archive: Path,
    local_ray: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    legend_file: Callable[[str], Path],
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("Ray was asked for")

    before = pipeline.run(tiny_config(tiny_archive, tmp_path / "map", legend=str(legend_file("#006400"))))
    monkeypatch.setattr("pipeline.runs.map_region.connected", refuse)
    after = pipeline.run(tiny_config(tiny_archive, tmp_path / "map", legend=str(legend_file("#112233"))))
    assert after.run_id == before.run_id
    assert not after.reused
    assert after.computed_blocks == 0
    with rasterio.open(after.outputs["landcover"][0]) as landcover:
        assert landcover.colormap(1)[10][:3] == (0x11, 0x22, 0x33)


@pytest.fixture
def legend_file(tmp_path: Path) -> Callable[[str], Path]:
    def write(colour: str) -> Path:
        data = Legend.from_yaml().to_dict()
        data["classes"][0]["color"] = colour
        path = tmp_path / "legend.yaml"
        path.write_text(json.dumps(data))  # JSON is YAML
        return path

    return write
