from __future__ import annotations

import re
from pathlib import Path

import pytest

from spex_core import SENTINEL2_BANDS, Legend, LegendError

GOOD = (
    "name: two\nclasses:\n  - {code: 1, name: Water, color: '#0000ff'}\n  - {code: 2, name: Land, color: '#00ff00'}\n"
)


def test_worldcover9_has_esa_codes_in_order() -> None:
    legend = Legend.from_yaml("worldcover9")
    assert legend.codes == (10, 20, 30, 40, 50, 60, 70, 80, 90)
    assert legend.nodata == 0
    assert legend.classes[0].rgb == (0, 100, 0)
    assert legend.colormap()[0] == (0, 0, 0, 0)


def test_bands_stand_in_the_order_of_the_design() -> None:
    assert " ".join(SENTINEL2_BANDS) == "B02 B03 B04 B05 B06 B07 B08 B8A B11 B12"


def test_a_legend_survives_its_plain_data_form() -> None:
    legend = Legend.from_yaml()
    again = Legend.from_dict(legend.to_dict())
    assert again == legend
    assert again.fingerprint() == legend.fingerprint()


def test_a_prior_without_ranges_keeps_its_three_items_and_one_with_ranges_survives() -> None:
    plain = {
        "name": "one",
        "classes": [{"code": 1, "name": "Water", "color": "#0000ff", "prior": [["ndvi", None, 0.1]]}],
    }
    assert Legend.from_dict(plain).to_dict()["classes"][0]["prior"] == [["ndvi", None, 0.1]]
    ranged = ["ndvi", None, 0.1, {"high": [0.0, 0.3]}]
    plain["classes"][0]["prior"] = [ranged]  # type: ignore[index]
    assert Legend.from_dict(plain).to_dict()["classes"][0]["prior"] == [ranged]


def test_the_fingerprint_changes_with_any_class(tmp_path: Path) -> None:
    path = tmp_path / "legend.yaml"
    path.write_text(GOOD)
    before = Legend.from_yaml(path).fingerprint()
    path.write_text(GOOD.replace("Land", "Soil"))
    assert Legend.from_yaml(path).fingerprint() != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("code: 2", "code: 1"), "repeats code 1"),
        (("name: Land", "name: Water"), "repeats name Water"),
        (("code: 2", "code: 0"), "code 0 must be"),
        (("code: 2", "code: 300"), "code 300 must be"),
        (("name: two", "name: two\nnodata: 300"), "nodata 300 must be"),
        (("name: two", "name: two\nnodata: none"), "nodata 'none' is not an integer"),
        (("name: Land", "name: ''"), "code 2: 'name' and 'noun' must not be empty"),
        (("'#00ff00'}", "'#00ff00', prior: 5}"), "class 2: prior 5 is not a list"),
        (("'#00ff00'}", "'#00ff00', prior: [[ndvi, .nan, 1]]}"), "bound that is not finite"),
        (("code: 2", "code: two"), "class 2: code 'two' is not an integer"),
        (("'#00ff00'", "green"), "color 'green' is not '#rrggbb'"),
        (("name: Land, ", ""), "class 2 lacks name"),
        (("'#00ff00'}", "'#00ff00', prior: [[nvdi, 0, 1]]}"), "prior ['nvdi', 0, 1] is not"),
        (("'#00ff00'}", "'#00ff00', prior: [[ndvi, low, 1]]}"), "bounds that are not numbers"),
        (
            ("'#00ff00'}", "'#00ff00', prior: [[ndvi, 0, 1, 2]]}"),
            "class 2: prior ['ndvi', 0, 1, 2]: the fourth item is",
        ),
        (("'#00ff00'}", "'#00ff00', prior: [[ndvi, 0, 1, {mid: [0, 1]}]]}"), "the fourth item is {low: [least, most]"),
        (("'#00ff00'}", "'#00ff00', prior: [[ndvi, 0, null, {high: [0, 1]}]]}"), "high is open (null)"),
        (("'#00ff00'}", "'#00ff00', prior: [[ndvi, 0, 1, {low: 0.2}]]}"), "range of low is not [least, most]"),
        (("'#00ff00'}", "'#00ff00', prior: [[ndvi, 0, 1, {low: [0.2, .inf]}]]}"), "range of low is not [least, most]"),
        (
            ("'#00ff00'}", "'#00ff00', prior: [[ndvi, 0, 1, {low: [0.2, 0.4]}]]}"),
            "low 0 lies outside its range 0.2 to 0.4",
        ),
        ((GOOD, "- 1\n"), "mapping with 'name' and a list 'classes'"),
        ((GOOD, "name: none\nclasses: []\n"), "has no classes"),
        ((GOOD, "{"), "not valid YAML"),
    ],
)
def test_a_malformed_legend_is_refused_with_the_place(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "legend.yaml"
    path.write_text(GOOD.replace(*change))
    with pytest.raises(LegendError, match=re.escape(message)):
        Legend.from_yaml(path)


def test_an_unknown_legend_names_the_built_in_ones() -> None:
    with pytest.raises(LegendError, match="worldcover9"):
        Legend.from_yaml("worldcover10")


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "legend.yaml"
    path.write_bytes(GOOD.replace("Land", "Wüste").encode("latin-1"))
    with pytest.raises(LegendError, match="neither a readable file"):
        Legend.from_yaml(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("color:", "colour:"), r"class 1 has no field 'colour'; did you mean color\?"),
        (("noun:", "Noun:"), r"class 1 has no field 'Noun'; did you mean noun\?"),
        (("prior:", "piror:"), r"class 1 has no field 'piror'; did you mean prior\?"),
        (("classes:", "clases:"), r"no field 'clases'; did you mean classes\?"),
        (("nodata:", "no_data:"), r"no field 'no_data'; did you mean nodata\?"),
        (("name:", "x\x1b:"), r"no field|not valid YAML"),
        (("title:", "xyz:"), r"no field 'xyz'; there are name, title, nodata, classes"),
    ],
)
def test_a_field_that_is_not_known_is_told_with_a_likely_one(
    change: tuple[str, str], message: str, tmp_path: Path
) -> None:
    text = (
        "name: a\ntitle: A\nnodata: 0\nclasses:\n"
        "- {code: 1, name: trees, noun: tree, color: '#112233', prior: [[ndvi, 0.4, null]]}\n"
    )
    path = tmp_path / "legend.yaml"
    path.write_text(text.replace(*change, 1))
    with pytest.raises(LegendError, match=message):
        Legend.from_yaml(path)
    path.write_text(text)
    assert Legend.from_yaml(path).codes == (1,)
