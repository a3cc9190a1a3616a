"""Whatever lies in a settings file, reading it ends in settings or in one clear message, and soon."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.evaluation.config import EvaluationConfig
from pipeline.settings.run_file import RunConfig
from pipeline.settings.yaml_file import SettingsFile, of_command_line
from pipeline.spie.config import SpieConfig
from pipeline.training.config import TrainFile
from spex_core.strict_yaml import MAX_BYTES
from tests.pipeline.training.conftest import training_document

RUN = {"name": "alps", "region": "region.geojson", "start": "2026-06-01", "end": "2026-06-30"}
DOCUMENTS: dict[type[SettingsFile], dict[str, Any]] = {
    RunConfig: RUN,
    SpieConfig: {"name": "chips", "areas": [{"region": "r.geojson", "start": "2026-06-01", "end": "2026-06-30"}]},
    TrainFile: training_document(),
    EvaluationConfig: {"name": "check", "sources": [{"chips": {"folder": "made"}}]},
}
KINDS = sorted(DOCUMENTS, key=lambda kind: kind.__name__)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> type[SettingsFile]:
    found: type[SettingsFile] = request.param
    return found


def refusal(kind: type[SettingsFile], path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    begun = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        kind.from_yaml(path)
    assert time.monotonic() - begun < 5
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_plain_file_is_read_and_its_paths_start_at_it(kind: type[SettingsFile], tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(yaml.safe_dump(DOCUMENTS[kind]))
    read = kind.from_yaml(path)
    assert read == kind.from_dict(DOCUMENTS[kind], tmp_path)
    assert read != kind.from_dict(DOCUMENTS[kind], tmp_path / "elsewhere")


BAD_TEXTS = {
    "duplicate": ("name: a\noutput: x\nname: b\n", r"'name' is given twice, in lines 1 and 3"),
    "duplicate below": ("output: x\nsources:\n  - {a: 1,\n     a: 2}\n", r"'a' is given twice, in lines 3 and 4"),
    "alias bomb": (
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)),
        "aliases that expand",
    ),
    "merge bomb": (
        "a0: &a0 {k: v}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 12)),
        "aliases that expand",
    ),
    "circle": ("a: &a [*a]\n", "holds itself"),
    "deep": ("[" * MAX_BYTES, "nested"),
    "deep and mixed": ("[{a: " * 10_000, "nested"),
    "deep in blocks": ("- " * (MAX_BYTES // 2), "nested"),
    "deep by aliases": (
        "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [[[[[[[[[[*a{i - 1}]]]]]]]]]]\n" for i in range(1, 30)),
        "nested",
    ),
    "large": ("# " + "x" * MAX_BYTES, "larger than"),
    "not UTF-8": (b"name: \xff\xfe\n", "cannot be read"),
    "control characters": ("name: \x07\n", "not valid YAML"),
    "two documents": ("name: a\n---\nname: b\n", "not valid YAML"),
    "empty": ("", "must be a mapping"),
    "a list": ("- 1\n", "must be a mapping"),
    "an object": ("name: !!python/object/apply:os.system [ls]\n", "not valid YAML"),
    "a number that is none": ("name: !!int x\n", "cannot be read"),
    "a truth that is none": ("name: !!bool x\n", "cannot be read"),
    "a date that is none": ("name: a\nfoo: !!timestamp x\n", r"foo: Extra inputs"),
    "a very long number": (f"name: {'9' * 5000}\n", "cannot be read"),
    "a mapping as a key": ("? {a: b}\n: c\n", "not valid YAML"),
    "NUL": ('name: "a\\0b"\n', r"name: 'a\\x00b' holds a character"),
    "half a character": ('name: "\\ud800"\n', "holds a character"),
    "half a character in a key": ('"\\ud800": 1\n', "holds a character"),
    "an escape in a key": ('"\\e[31mred": 1\n', r"'\\x1b\[31mred'"),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_a_bad_file_is_refused_with_one_message(kind: type[SettingsFile], name: str, tmp_path: Path) -> None:
    text, message = BAD_TEXTS[name]
    told = refusal(kind, tmp_path / "file.yaml", text)
    assert re.search(message, told), told
    assert told.isprintable() or "\x1b" not in told
    assert len(told) < 5000


@pytest.mark.parametrize("day", ["2026-13-45", "2026-02-30", "0000-01-01", "2026-06-01T25:00:00", "soon", ".inf", "[]"])
@pytest.mark.parametrize("field", ["start", "end"])
def test_a_day_that_does_not_exist_is_told_by_its_field(field: str, day: str, tmp_path: Path) -> None:
    days = {"start": "2026-06-01", "end": "2026-06-30", field: day}
    text = "name: a\nregion: r.geojson\n" + "".join(f"{name}: {value}\n" for name, value in days.items())
    assert f"\n  {field}: " in refusal(RunConfig, tmp_path / "run.yaml", text)


def test_a_text_that_looks_like_no_date_is_text(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(RUN).replace("name: alps", "name: 2026-13-45"))
    assert RunConfig.from_yaml(path).name == "2026-13-45"


@pytest.mark.parametrize(
    ("kind", "change", "line"),
    [
        (RunConfig, {"ouptut": "x"}, r"ouptut: Extra inputs are not permitted; did you mean output\?"),
        (RunConfig, {"block_px": 64}, r"block_px: .*; did you mean tiling.block_px\?"),
        (RunConfig, {"source": {"max_clouds": 10}}, r"source.max_clouds: .*; did you mean max_cloud_cover\?"),
        (SpieConfig, {"local": [{"image": "a", "label": "b", "nodatta": 0}]}, r"local.0.nodatta: .* mean nodata\?"),
        (
            TrainFile,
            {"sources": [{"name": "a", "kind": "simulated", "cuont": 3, "count": 3}]},
            r"sources.0.simulated.cuont: .*; did you mean count\?",
        ),
        (EvaluationConfig, {"sources": [{"chips": {"foldr": "x"}}]}, r"sources.0.chips.foldr: .* mean folder\?"),
        (EvaluationConfig, {"sources": [{"dataset": {"name": "a", "rot": "x"}}]}, r"dataset.rot: .* mean root\?"),
        (
            RunConfig,
            {"regions": {"zzz": 1}},
            r"regions.zzz: .*; there are grid_km, id_field, layer, max_regions, name_field, where",
        ),
    ],
)
def test_an_unknown_setting_is_answered_with_a_likely_one(
    kind: type[SettingsFile], change: dict[str, Any], line: str
) -> None:
    with pytest.raises(ConfigError, match=line):
        kind.from_dict({**DOCUMENTS[kind], **change})


def test_every_wrong_field_has_a_line_and_a_flood_is_cut(kind: type[SettingsFile]) -> None:
    wrong = {f"no{position}": position for position in range(100)}
    with pytest.raises(ConfigError) as caught:
        kind.from_dict({**DOCUMENTS[kind], **wrong})
    lines = str(caught.value).splitlines()
    assert len(lines) == 32
    assert lines[-1].endswith("70 more")


def test_an_unknown_home_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="home folder"):
        RunConfig.from_dict({**RUN, "region": "~nobody-of-this-name/r.geojson"}, tmp_path)


PIECES = st.sampled_from(
    ["name", "start", ":", " ", "\n", "-", "[", "]", "{", "}", "&a", "*a", "<<", "!!", "!!int", "!!timestamp",
     "2026-13-45", "2026-06-01", "1e999", ".nan", "0x", "~", "\"", "'", "\\0", "|", ">", "?", "%", "@", "#", "\t",
     "\ufeff", "=", "1:2:3", "!!set", "!!omap", "!!pairs", "!!binary", "!!float", "!!null", "!!merge", "!!value",
     "---", "...", "\u00e9", "\u0085"]
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(PIECES, max_size=40))
def test_no_text_gets_past_the_reader_with_another_error(tmp_path: Path, pieces: list[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("".join(pieces), encoding="utf-8")
    with contextlib.suppress(ConfigError):  # any other error fails the test
        assert RunConfig.from_yaml(path).name


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_value_of_a_field_gets_past_the_model_with_another_error(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    field = data.draw(st.sampled_from(sorted(kind.model_fields)))
    document = {**DOCUMENTS[kind], field: data.draw(VALUES)}
    with contextlib.suppress(ConfigError):
        assert kind.from_dict(document, Path("/nowhere")).model_dump(mode="json")


@pytest.mark.parametrize(
    ("line", "day"),
    [
        ("2026-06-03", 3),
        ("'2026-06-03'", 3),
        ("2026-06-03T00:00:00Z", 3),
        ("2026-06-03 23:59:59", 3),
        ("'2026-06-03T23:59:59.999Z'", 3),
        ("2026-06-03T12:00:00Z", None),
        ("'2026-06-03T00:00:00+02:00'", None),
        ("2026", None),
        ("20260603", None),
        ("2026-06", None),
        ("2026/06/03", None),
        ("true", None),
    ],
)
def test_a_day_is_a_date_or_a_time_that_means_the_whole_of_it(line: str, day: int | None, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    text = f"name: a\nregion: r.geojson\nstart: {line}\nend: 2026-06-30\n"
    if day is None:
        assert re.search(r"start: .* is not a day like 2026-06-01", refusal(RunConfig, path, text))
    else:
        path.write_text(text)
        assert RunConfig.from_yaml(path).start.day == day


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("$HOME/r.geojson", "holds a variable"),
        ("${DATA}/r.geojson", "holds a variable"),
        ("in/%USERPROFILE%/r.geojson", "holds a variable"),
        ("s3://bucket/r.geojson", "is an address"),
        ("file:///r.geojson", "is an address"),
        ("C:\\data\\r.geojson", "for Windows"),
        (".\\r.geojson", "for Windows"),
        ("r$1.geojson", ""),
        ("100%/r:1.geojson", ""),
    ],
)
@pytest.mark.parametrize("field", ["region", "output"])
def test_a_path_of_another_kind_becomes_no_folder_of_that_name(
    field: str, path: str, words: str, tmp_path: Path
) -> None:
    if not words:
        assert getattr(RunConfig.from_dict({**RUN, field: path}, tmp_path), field) == tmp_path / path
        return
    with pytest.raises(ConfigError, match=words):
        RunConfig.from_dict({**RUN, field: path}, tmp_path)


def test_a_catalog_under_two_spellings_of_its_path_is_one(tmp_path: Path) -> None:
    twice = [{"provider": "generic", "url": "./c.json"}, {"provider": "generic", "url": str(tmp_path / "c.json")}]
    with pytest.raises(ConfigError, match="listed twice"):
        RunConfig.from_dict({**RUN, "source": twice}, tmp_path)


def test_a_section_whose_lines_are_all_comments_has_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(RUN) + "composite:\n  # method: median\nsource: null\n")
    assert RunConfig.from_yaml(path) == RunConfig.from_dict(RUN, tmp_path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8-sig"])
def test_a_file_with_a_byte_order_mark_is_read(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    path.write_bytes((mark + "# Zürich\r\n" + yaml.safe_dump(RUN)).encode(encoding))
    assert RunConfig.from_yaml(path).name == "alps"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: no\n", "truth value: put it in quotes"),
        ("name: 2026\n", "a number: put it in quotes"),
        ("name: 2026-06-01\n", "a date: put it in quotes"),
        ("source:\n\tprovider: generic\n", "a tab"),
        ("name: a\nregions: {grid_km: .inf}\n", "finite number"),
        ("# Zürich\n".encode("latin-1"), "save it as UTF-8"),
    ],
)
def test_what_yaml_makes_of_a_value_is_told(text: str | bytes, words: str, tmp_path: Path) -> None:
    assert words in refusal(RunConfig, tmp_path / "run.yaml", text)


def test_a_path_of_the_command_line_that_goes_round_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ConfigError, match="cannot be followed"):
        of_command_line(tmp_path / "loop")


def test_a_current_folder_that_was_removed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert of_command_line(tmp_path / "out") == tmp_path / "out"
    with pytest.raises(ConfigError, match="has been removed"):
        of_command_line(Path("out"))
