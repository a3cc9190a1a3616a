"""The region templates and example run files that come with the project can be used as they are."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest
import yaml
from shapely.geometry import box, shape

from pipeline.settings.run_file import RunConfig
from pipeline.spie.config import SpieConfig
from pipeline.spie.labels import PRODUCTS
from spex_core.legend import Legend
from workflows.period import parse_period

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
TEMPLATES = sorted((WORKFLOWS / "regions").glob("*.yaml"))
EXAMPLES = sorted(
    path
    for path in (WORKFLOWS / "examples").glob("*.yaml")
    if "region" in yaml.safe_load(path.read_text(encoding="utf-8"))
)
"""Run files; the others belong to other commands."""
PERIOD = parse_period("2026-10", dt.date(2026, 11, 20))


def _filled(template: Path) -> RunConfig:
    data = yaml.safe_load(template.read_text(encoding="utf-8"))
    return RunConfig.from_dict({**data, "start": PERIOD.start, "end": PERIOD.end}, template.parent, str(template))


def test_there_are_templates_and_examples() -> None:
    assert {path.stem for path in TEMPLATES} >= {"accra-coast", "wallonia-hesbaye"}
    assert {path.stem for path in EXAMPLES} >= {"earth_search", "planetary_computer", "real"}


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_template_is_a_run_file_once_a_period_is_filled_in(template: Path) -> None:
    config = _filled(template)
    assert (config.start, config.end) == (dt.date(2026, 10, 1), dt.date(2026, 10, 31))
    assert config.name == template.stem
    assert config.region.is_file()
    assert len(Legend.from_yaml(config.legend)) > 0


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_outlines_are_valid_apart_and_of_a_size_that_maps_in_an_hour(template: Path) -> None:
    features = json.loads(_filled(template).region.read_text(encoding="utf-8"))["features"]
    outlines = [shape(feature["geometry"]) for feature in features]
    assert all(outline.is_valid and box(-180, -80, 180, 84).contains(outline) for outline in outlines)
    assert len({feature["properties"]["id"] for feature in features}) == len(features)
    assert all(feature["properties"]["name"] for feature in features)
    assert not any(a.overlaps(b) for i, a in enumerate(outlines) for b in outlines[:i])
    assert 0.001 < sum(outline.area for outline in outlines) < 0.2  # square degrees: some 10 to 2,500 km2


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_a_valid_run_file_below_the_repository(example: Path) -> None:
    config = RunConfig.from_yaml(example)
    root = WORKFLOWS.parent
    assert config.output.resolve().is_relative_to(root / "out")  # git ignores it
    if config.source.provider == "generic":
        assert Path(str(config.source.url)).resolve().is_relative_to(root / "data")
        assert config.region.resolve().is_relative_to(root / "data")
    else:
        assert config.source.url is None
        assert config.region.is_file()


def test_data_set_example_names_regions_and_labels_that_are_there() -> None:
    config = SpieConfig.from_yaml(WORKFLOWS / "examples" / "spie.yaml")
    assert config.output.resolve().is_relative_to(WORKFLOWS.parent / "out")
    assert all(area.region.is_file() for area in config.areas)
    assert config.labels.provider in PRODUCTS


@pytest.mark.parametrize("name", ["earth_search", "planetary_computer", "spie"])
def test_recipe_against_a_live_service_says_that_it_is_not_verified(name: str) -> None:
    text = (WORKFLOWS / "examples" / f"{name}.yaml").read_text(encoding="utf-8")
    assert "cannot run it" in text
    assert "internet" in text


def test_published_legend_is_the_built_in_one() -> None:
    assert Legend.from_yaml(WORKFLOWS / "legends" / "worldcover9.yaml") == Legend.from_yaml("worldcover9")
