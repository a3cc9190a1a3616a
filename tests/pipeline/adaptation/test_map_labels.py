"""Labels of a land-cover product, from a real STAC API over HTTP: alone, and beside a survey."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.adaptation.adapt import AdaptOptions, adapt
from pipeline.adaptation.map_labels import taken_codes
from pipeline.errors import LabelError, SurveyError
from pipeline.machine.progress import LogProgress
from pipeline.simulation import publish_items, serve_files, serve_stac
from spex_core.legend import Legend
from tests.conftest import tiny_config
from tests.pipeline.adaptation.test_adapt import survey_of, without_legend
from tests.spex_core.conftest import build_tiny_model


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.adaptation.validation.TREES", 10)
    monkeypatch.setattr("pipeline.adaptation.validation.FOLDS", 2)
    monkeypatch.setattr("pipeline.adaptation.adapt.DOMAIN_WINDOWS", 2)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    model = build_tiny_model(Legend.from_yaml(), band_encoding=True)
    model.config.masks_by_class_words = True
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.usefixtures("quick")
def test_without_a_survey_labels_come_from_the_product_of_the_catalog(
    tiny_archive: Path, base: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "archive"
    shutil.copytree(tiny_archive, folder)
    with serve_files(folder) as files, serve_stac(publish_items(folder, files)) as api:
        source = {"provider": "earth-search", "url": api}
        config = without_legend(tiny_config(folder, tmp_path / "map", source=source), base)
        options = AdaptOptions(None, "class", tmp_path / "own", labels=True)
        made = adapt(config, options, LogProgress())
    shipped = Legend.from_yaml()
    assert set(made.legend.codes) <= set(shipped.codes)
    assert len(made.legend) >= 2
    assert {c.color for c in made.legend} <= {c.color for c in shipped}
    assert made.validation is not None
    assert made.validation.by_people == {}
    assert made.facts["labels_pixels"] == sum(made.samples.values()) > 20
    card = (options.output / "README.md").read_text()
    assert "Labels are those of ESA WorldCover" in card
    assert "Apache-2.0" in card
    assert json.loads((options.output / "validation.json").read_text())["points"] is None


@pytest.mark.usefixtures("quick")
def test_beside_a_survey_the_product_teaches_what_the_survey_lacks(
    tiny_archive: Path, base: Path, tmp_path: Path
) -> None:
    config = without_legend(tiny_config(tiny_archive, tmp_path / "map"), base)
    points = survey_of(tiny_archive, tmp_path / "points.csv", 60)
    made = adapt(config, AdaptOptions(points, "class", tmp_path / "own", labels=True), LogProgress())
    assert {"arable field", "meadow", "spruce forest"} < set(made.legend.names)
    assert not {"Trees", "Grassland", "Cropland"} & set(made.legend.names), "the survey has classes of these kinds"
    assert made.validation is not None
    assert made.validation.by_people.keys() == {"adapted", "forest"}
    assert made.validation.judged == (made.validation.by_people["adapted"], made.validation.by_people["forest"])
    card = (tmp_path / "own" / "README.md").read_text()
    assert "people's labels alone" in card
    assert "points.csv (column class) and ESA WorldCover" in card


def test_classes_that_are_alike_are_not_taught_twice() -> None:
    shipped = Legend.from_yaml()
    assert taken_codes(shipped, ()) == dict(zip(shipped.codes, shipped.names, strict=True))
    taken = taken_codes(shipped, ("spruce forest", "water", "wheat"))
    assert taken[80] == "water", "called like the product's: one class"
    assert not {10, 40} & set(taken)
    assert {30, 50} <= set(taken)


def test_no_labels_at_all_and_a_catalog_without_them_are_told(tiny_archive: Path, base: Path, tmp_path: Path) -> None:
    config = without_legend(tiny_config(tiny_archive, tmp_path / "map"), base)
    with pytest.raises(SurveyError, match="--labels worldcover"):
        adapt(config, AdaptOptions(None, "class", tmp_path / "own"), LogProgress())
    folder = tmp_path / "archive"
    shutil.copytree(tiny_archive, folder)
    shutil.rmtree(folder / "esa-worldcover", ignore_errors=True)
    catalog = json.loads((folder / "catalog.json").read_text())
    catalog["links"] = [link for link in catalog["links"] if "worldcover" not in link["href"]]
    (folder / "catalog.json").write_text(json.dumps(catalog))
    config = without_legend(tiny_config(folder, tmp_path / "map"), base)
    with pytest.raises(LabelError, match="no labels"):
        adapt(config, AdaptOptions(None, "class", tmp_path / "own", labels=True), LogProgress())
