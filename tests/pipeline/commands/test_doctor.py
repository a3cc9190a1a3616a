"""``spex doctor`` answers every question, most of all where something is broken."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands import doctor
from pipeline.machine.preflight import Check
from tests.conftest import tiny_config
from tests.pipeline.commands.test_cli import spex


def run_file(archive: Path, folder: Path, **settings: Any) -> Path:
    config = tiny_config(archive, folder / "out", **settings)
    path = folder / "run.yaml"
    path.write_text(json.dumps(config.model_dump(mode="json", exclude_defaults=True)))
    return path


def states(checks: list[dict[str, str]]) -> dict[str, str]:
    return {check["subject"]: check["state"] for check in checks}


def test_a_sound_machine_is_exit_code_0(tiny_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = spex("doctor", str(run_file(tiny_archive, tmp_path)), "--json")
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (code, document["ok"]) == (0, True)
    found = states(document["checks"])
    wanted = {"versions", "CPUs", "memory", "temporary files", "loopback", "GDAL", "projections", "GPU", "Ray", "cache"}
    wanted |= {"output", "region", "catalog earth-search"}
    assert all(found[subject] in ("ok", "warn") for subject in wanted)
    assert not (tmp_path / "out").exists()


def test_what_is_broken_is_a_line_and_exit_code_1(
    tiny_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)  # its import fails
    monkeypatch.setitem(sys.modules, "torch", None)
    file = run_file(
        tiny_archive, tmp_path, region=str(tmp_path / "nowhere.gpkg"), source={"url": str(tmp_path / "catalog.json")}
    )
    (tmp_path / "out").write_text("in the way")
    assert spex("doctor", str(file)) == 1
    out = capsys.readouterr().out
    told = {line.split()[1]: line.split()[0] for line in out.splitlines() if not line.startswith(" ")}
    assert {told[subject] for subject in ("versions", "GDAL", "GPU", "output", "region", "catalog")} == {"fail"}
    assert {told[subject] for subject in ("CPUs", "loopback", "Ray")} == {"ok"}
    assert "nowhere.gpkg" in out
    assert "Traceback" not in out


def test_a_run_file_that_is_wrong_does_not_hide_the_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_catalogs", lambda config: [])
    (tmp_path / "run.yaml").write_text("name: [")
    assert spex("doctor", str(tmp_path / "run.yaml"), "--output", str(tmp_path), "--json") == 1
    found = states(json.loads(capsys.readouterr().out.splitlines()[-1])["checks"])
    assert found["run file"] == "fail"
    assert found["loopback"] == "ok"


@pytest.mark.parametrize(
    ("url", "state", "words"),
    [
        ("http://127.0.0.1:9/stac", "warn", "out of reach"),
        ("https://name.invalid/stac", "warn", "out of reach"),
        ("/nowhere/catalog.json", "fail", "missing"),
        ("http://[broken", "warn", "out of reach"),
    ],
)
def test_a_catalog_out_of_reach_is_told_and_no_fault_of_the_machine(url: str, state: str, words: str) -> None:
    check = doctor.answered("catalog", lambda: doctor.check_catalog("catalog", url))
    if url == "http://[broken":
        assert check.state == "fail"  # no address at all
        return
    assert (check.state, words in check.found) == (state, True)
    assert check.mend


def test_lines_say_the_mend_below_what_is_wrong() -> None:
    told = doctor.lines([Check("CPUs", "ok", "2"), Check("memory", "warn", "little\nleft", "add\nsome")])
    assert told == ["ok    CPUs    2", "warn  memory  little left", "              -> add some"]
    assert doctor.exit_code([Check("a", "warn", "b", "c")]) == 0
