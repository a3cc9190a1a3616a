"""A finished run is known by its own files and by being listed, whatever others publish beside it."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.mapstore.store import CLEANED_PLAN_FILE, PLAN_FILE, RESULT_FILE
from pipeline.records.result import RunResult
from pipeline.runs.finished import earlier_result, of_earlier_layout, write_result
from tests.pipeline.outputs.test_publish import WEST, finished_run, publish
from tests.pipeline.small_plans import region_of
from workflows.earlier_folders import adopt, is_cleaned_island


def test_a_finished_run_is_found_again_until_something_of_it_is_gone(tmp_path: Path) -> None:
    prepared, store = finished_run(tmp_path, region_of(WEST))
    outputs = publish(prepared, store).outputs
    result = RunResult(prepared.plan.run_id, 0, outputs, 1.0, 1, 1, 1, 0, 0, (), 1.0)
    write_result(prepared, store, result)
    publish(*finished_run(tmp_path, region_of(WEST), name="other"))  # renews catalog, table and page
    found = earlier_result(prepared, store.folder)
    assert found is not None
    assert found.reused
    assert found.outputs == outputs

    record = json.loads((store.folder / RESULT_FILE).read_text())
    old = {key: value for key, value in record.items() if key != "layout"}
    old["sizes"] = {**old["sizes"], "report/index.html": 1, "catalog.json": 1}  # as earlier versions noted them
    (store.folder / RESULT_FILE).write_text(json.dumps(old))
    assert of_earlier_layout(store.folder)
    assert earlier_result(prepared, store.folder) is None, "published again from its store"
    (store.folder / PLAN_FILE).rename(store.folder / CLEANED_PLAN_FILE)
    assert earlier_result(prepared, store.folder) is not None, "there is nothing to publish it from"
    assert is_cleaned_island(tmp_path, prepared.plan.run_id)
    (store.folder / CLEANED_PLAN_FILE).rename(store.folder / PLAN_FILE)

    (store.folder / RESULT_FILE).write_text(json.dumps(record))
    collection = tmp_path / "spex-landcover" / "collection.json"
    listed = collection.read_text()
    collection.write_text(listed.replace(outputs["items"][0].name, "another.json"))
    assert earlier_result(prepared, store.folder) is None, "no reader finds it"
    collection.write_text(listed)
    item = outputs["items"][0].read_text()
    outputs["items"][0].write_text(item.replace(prepared.plan.run_id, "f" * 16))
    assert earlier_result(prepared, store.folder) is None, "another run of the same name and period has replaced it"


def test_what_an_earlier_version_computed_is_taken_over_once(tmp_path: Path) -> None:
    island, output = tmp_path / "test" / "2026-05", tmp_path
    prepared, store = finished_run(island, region_of(WEST))
    assert adopt(island, output, prepared.plan.run_id)
    assert (output / ".spex" / prepared.plan.run_id / PLAN_FILE).is_file()
    assert not store.folder.exists()
    assert not adopt(island, output, prepared.plan.run_id)
