"""Metadata of the store that somebody else has written, or that is damaged: one message, never another error."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import StoreError
from pipeline.mapstore.layers import LAYERS
from pipeline.mapstore.store import RunStore
from pipeline.settings.run_file import TilingConfig
from tests.pipeline.small_plans import EPSG, LEGEND, plan_of, zone_of

TILING = TilingConfig(tile_px=64, overlap_px=16, block_px=64)
METADATA = [f"{EPSG}/{layer}/zarr.json" for layer in LAYERS] + [f"{EPSG}/zarr.json", "zarr.json"]


def _numbers_changed(document: Any, change: Any) -> Any:
    if isinstance(document, dict):
        return {key: _numbers_changed(value, change) for key, value in document.items()}
    if isinstance(document, list):
        return [_numbers_changed(value, change) for value in document]
    return change if isinstance(document, int) and not isinstance(document, bool) else document


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(METADATA), data=st.data())
def test_metadata_of_anything_is_one_message_and_never_another_error(
    tmp_path: Path, name: str, data: st.DataObject
) -> None:
    plan = plan_of(zone_of(100, 150, TILING), zone_of(40, 30, TILING, epsg=32633), tiling=TILING)
    store = RunStore.create(tmp_path / "run", plan, LEGEND)
    path = store.zarr_path / name
    whole = path.read_bytes()
    document = json.loads(whole)
    anything = st.none() | st.integers(-2, 10**12) | st.text(max_size=4) | st.lists(st.integers(0, 3), max_size=2)
    ways = {
        "bytes": st.binary(max_size=30),
        "cut": st.integers(0, len(whole) - 1).map(lambda stop: whole[:stop]),
        "a field": st.tuples(st.sampled_from(sorted(document)), anything | st.just({})).map(
            lambda pair: json.dumps(document | {pair[0]: pair[1]}).encode()
        ),
        "numbers": anything.map(lambda value: json.dumps(_numbers_changed(document, value)).encode()),
        "deep": st.just(b"[" * 100_000),
    }
    written = data.draw(ways[data.draw(st.sampled_from(sorted(ways)))])
    path.write_bytes(written)
    try:
        with contextlib.suppress(StoreError):
            again = RunStore.open(tmp_path / "run", plan)
            again.finished_blocks()
            again.zone(EPSG).read("landcover")
            assert name == "zarr.json" or written == whole, "a zone's metadata is taken only as the run wrote it"
    finally:
        path.write_bytes(whole)
    assert RunStore.open(tmp_path / "run", plan).finished_blocks() == {}
