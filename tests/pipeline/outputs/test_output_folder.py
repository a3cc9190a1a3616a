"""What publishing would stumble over is told before anything is computed; what is not ours stays as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline
from pipeline.commands.cli import main
from pipeline.errors import OutputError
from pipeline.machine.progress import LogProgress
from pipeline.outputs.output_folder import check_items, check_output
from pipeline.runs.map_region import map_region
from pipeline.settings.run_file import RunConfig
from tests.pipeline.outputs.small_items import product, write_items
from tests.pipeline.small_plans import run_config
from tests.strangers import snapshot

OURS = ["catalog.json", "collection.json", "items.parquet", "report", ".spex", "archive", "spex-landcover-models"]


OF_OUR_ENDS = st.from_regex(r"[A-Za-z0-9]{1,8}\.(json|JSON|Parquet|yaml)", fullmatch=True)


def cases(name: str) -> st.SearchStrategy[str]:
    return st.tuples(*(st.sampled_from([c.lower(), c.upper()]) for c in name)).map("".join)


@settings(deadline=None, max_examples=60)
@given(
    collection=st.sampled_from(OURS).flatmap(cases)
    | st.from_regex(r"[A-Za-z0-9]{1,8}\.(json|JSON|Parquet|yaml)", fullmatch=True)
)
def test_a_collection_that_collides_with_a_file_of_ours_is_refused(collection: str) -> None:
    with pytest.raises(OutputError, match=r"publish\.collection_id .* choose another id"):
        check_output(Path("/nowhere"), collection)


@settings(deadline=None, max_examples=40)
@given(
    collection=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True).filter(lambda s: s.lower() not in OURS)
)
def test_other_collections_are_taken(collection: str) -> None:
    if not collection.lower().endswith("-models"):
        check_output(Path("/nowhere"), collection)


FOREIGN: dict[str, Callable[[Path], Any]] = {
    "catalog of somebody else": lambda o: (o / "catalog.json").write_text(
        json.dumps({"type": "Catalog", "id": "agency", "links": []})
    ),
    "a collection as catalog.json": lambda o: (o / "catalog.json").write_text('{"type": "Collection", "id": "spex"}'),
    "text as catalog.json": lambda o: (o / "catalog.json").write_text("not JSON"),
    "deep catalog.json": lambda o: (o / "catalog.json").write_text("[" * 100_000),
    "bytes as catalog.json": lambda o: (o / "catalog.json").write_bytes(b"\xff\xfe\x00"),
    "a folder called catalog.json": lambda o: (o / "catalog.json").mkdir(),
    "link to a foreign catalog": lambda o: (
        (o.parent / "theirs.json").write_text('{"type": "Catalog", "id": "x"}'),
        (o / "catalog.json").symlink_to(o.parent / "theirs.json"),
    ),
    "a file called as the collection": lambda o: (o / "spex-landcover").write_text("notes"),
    "a file called as the models": lambda o: (o / "spex-landcover-models").write_text("notes"),
    "an item as collection.json": lambda o: (
        (o / "spex-landcover").mkdir(),
        (o / "spex-landcover" / "collection.json").write_text('{"type": "Feature"}'),
    ),
    "models that are none": lambda o: (
        (o / "spex-landcover-models").mkdir(),
        (o / "spex-landcover-models" / "collection.json").write_text("[]"),
    ),
    "a folder called items.parquet": lambda o: (o / "spex-landcover" / "items.parquet").mkdir(parents=True),
    "a file called report": lambda o: (o / "report").write_text("notes"),
    "a folder called index.html": lambda o: (o / "report" / "index.html").mkdir(parents=True),
    "collection folder elsewhere": lambda o: (o / "spex-landcover").symlink_to(o.parent),
    "report elsewhere": lambda o: (o / "report").symlink_to(o.parent),
    "state elsewhere": lambda o: (o / ".spex").symlink_to(o.parent),
    "a file called .spex": lambda o: (o / ".spex").write_text("notes"),
}


@pytest.fixture
def config(tiny_archive: Path, tmp_path: Path) -> RunConfig:
    from tests.conftest import tiny_config

    (tmp_path / "out").mkdir()
    return tiny_config(tiny_archive, tmp_path / "out")


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_thing_in_the_way_is_told_before_anything_is_searched(
    kind: str, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the catalog was searched")

    monkeypatch.setattr("pipeline.planning.prepare.find_scenes", refuse)
    FOREIGN[kind](config.output)
    before = snapshot(config.output.parent)
    for start in (lambda: map_region(config, LogProgress()), lambda: pipeline.plan(config)):
        with pytest.raises(OutputError, match=r"(move|remove|choose|give another)"):
            start()
    assert snapshot(config.output.parent) == before


def test_an_item_folder_in_the_way_is_told_once_its_name_is_known(config: RunConfig) -> None:
    planned = pipeline.plan(config)
    item = f"tiny_2026-06-01_2026-07-31_{planned.zones[0].grid.epsg}"
    place = config.output / "spex-landcover" / item
    place.parent.mkdir()
    place.symlink_to(config.output.parent, target_is_directory=True)
    with pytest.raises(OutputError, match="symbolic link"):
        map_region(config, LogProgress())
    place.unlink()
    (place / "landcover.tif").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"landcover\.tif cannot be written"):
        map_region(config, LogProgress())
    with pytest.raises(OutputError, match=r"landcover\.tif cannot be written"):
        check_items(config.output, "spex-landcover", [item], ["landcover.tif"])


def test_the_command_ends_with_code_2_and_one_message(
    tiny_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "catalog.json").write_text('{"type": "Catalog", "id": "agency"}')
    run_file = tmp_path / "run.yaml"
    run_file.write_text(
        f"name: a\nregion: {tiny_archive}/region.geojson\nstart: 2026-06-01\nend: 2026-07-31\noutput: {output}\n"
        f"source: {{url: {tiny_archive}/catalog.json}}\nmodel: {{checkpoint: index-rules}}\n"
    )
    for command in ("run", "plan"):
        with pytest.raises(SystemExit) as caught:
            main([command, str(run_file)])
        assert caught.value.code == 2
        told = capsys.readouterr().err
        assert "catalog of somebody else" in " ".join(told.split())
        assert "Traceback" not in told


def test_our_own_catalog_is_ours_under_another_name_too(tmp_path: Path) -> None:
    write_items(tmp_path, product())
    root = tmp_path / "catalog.json"
    root.write_text(json.dumps({**json.loads(root.read_text()), "title": "Maps of our agency"}))
    check_output(tmp_path, "spex-landcover")
    root.write_text(json.dumps({**json.loads(root.read_text()), "id": "agency"}))
    with pytest.raises(OutputError, match="somebody else"):
        check_output(tmp_path, "spex-landcover")
    (tmp_path / ".spex" / "0123456789abcdef").mkdir()
    (tmp_path / ".spex" / "0123456789abcdef" / "result.json").write_text("{}")  # a run was finished here
    check_output(tmp_path, "spex-landcover")


def test_the_default_configuration_passes(tmp_path: Path) -> None:
    check_output(tmp_path / "new", run_config().publish.collection_id)
