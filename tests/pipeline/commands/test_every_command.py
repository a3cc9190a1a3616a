"""What holds for every command: help, version, completion, JSON alone, and that nobody waits for an import."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from pipeline.commands.cli import app
from tests.pipeline.commands.test_cli import _quiet, run_file, spex

__all__ = ["_quiet"]
COMMANDS = [str(command.name or command.callback.__name__).replace("_", "-") for command in app.registered_commands]  # type: ignore[union-attr]
WITH_FILES = [
    *((name, "nowhere.yaml") for name in ("plan", "run", "submit", "doctor", "evaluate", "spie", "train")),
    ("run", "nowhere.yaml", "--dry-run"),
    ("status", "nowhere"),
    ("view", "nowhere"),
    ("explain", "nowhere", "--at", "11,46"),
    ("ask", "nowhere", "lake"),
    ("convert-checkpoint", "nowhere", "target"),
]
HEAVY = ("torch", "ray", "rasterio", "zarr", "transformers", "sklearn", "stackstac")

LIGHTER = ("numpy", "pydantic", "rich", "yaml", "pipeline.settings")


def python(code: str, folder: Path, **environment: str) -> str:
    root = str(Path(__file__).resolve().parents[3])
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": root, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert said.returncode == 0, said.stderr
    return said.stdout


def test_help_imports_nothing_that_takes_time(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pipeline.commands.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as ended:\n    assert ended.code == 0\n"
        f"print(sorted(set({(*HEAVY, *LIGHTER)!r}) & sys.modules.keys()))"
    )
    assert python(code, tmp_path).splitlines()[-1] == "[]"


def test_a_missing_file_is_told_before_anything_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pipeline.commands.cli import main\n"
        f"for arguments in {WITH_FILES!r}:\n"
        "    try:\n        main(list(arguments))\n"
        "    except SystemExit as ended:\n        print(ended.code, arguments)\n"
        f"    assert not set({HEAVY!r}) & sys.modules.keys(), arguments\n"
    )
    assert [line.split()[0] for line in python(code, tmp_path).splitlines()] == ["2"] * len(WITH_FILES)


@pytest.mark.parametrize("arguments", WITH_FILES)
def test_a_missing_file_is_named(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert spex(*arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert "nowhere" in line
    assert "cannot be read: No such file or directory" in line or "is not a folder" in line


@pytest.mark.parametrize("settings", [{"region": "gone.gpkg"}, {"legend": "./gone.yaml"}])
def test_a_file_that_a_run_file_names_is_told_as_soon(
    settings: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "region.geojson").write_text("{}")
    assert spex("run", str(run_file(tmp_path, **settings))) == 2
    assert f"{tmp_path}/gone" in capsys.readouterr().err


def test_no_summary_is_cut_and_none_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert spex("--help") == 0
    listed = capsys.readouterr().out.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in listed] == COMMANDS
    assert all(len(line) <= 80 and "..." not in line and len(line.split()) > 3 for line in listed)


@pytest.mark.parametrize("command", COMMANDS)
def test_h_is_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert spex(command, "-h") == 0
    short = capsys.readouterr().out
    assert spex(command, "--help") == 0
    assert capsys.readouterr().out == short


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert spex("--version") == 0
    assert capsys.readouterr().out == f"spex {version('spex-landcover')}\n"


def test_a_shell_can_complete_commands_and_options(tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['spex']; from pipeline.commands.cli import main; main()"

    def completed(line: str) -> list[str]:
        words = line.split(" ")
        asked = {"_SPEX_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        return python(code, tmp_path, **asked).split()

    assert completed("spex st") == ["status"]
    assert completed("spex run --dr") == ["--dry-run"]


def test_verbose_and_quiet_contradict(capsys: pytest.CaptureFixture[str]) -> None:
    assert spex("run", "nowhere.yaml", "-v", "-q") == 2
    assert "--quiet" in capsys.readouterr().err


def test_quiet_tells_nothing_but_the_log_file_all(
    tiny_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, log = run_file(tmp_path, tiny_archive), tmp_path / "spex.log"
    assert spex("plan", str(file), "-q", "--json", "--log-file", str(log)) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert json.loads(told.out)["blocks"] == 4
    assert "INFO searching scenes for tiny" in log.read_text()
    assert spex("plan", str(file), "--output", str(log), "--log-file", str(log)) == 2
    lines = log.read_text().splitlines()
    assert len([line for line in lines if "ERROR error: " in line]) == 1, "why it ended, and the first one's lines stay"
    assert len(lines) >= 2


def test_verbose_tells_details(tiny_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert spex("plan", str(run_file(tmp_path, tiny_archive)), "-v") == 0
    assert logging.getLogger("pipeline").isEnabledFor(logging.DEBUG)
    assert "searching scenes" in capsys.readouterr().err


def test_a_log_file_that_cannot_be_written_is_told(
    tiny_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run_file(tmp_path, tiny_archive)
    assert spex("plan", str(file), "--log-file", str(tmp_path / "no" / "spex.log")) == 2
    assert "log file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--help",), 0, "--regions"),
        (("soon",), 2, "period 'soon' is not known"),
        (("2026-10", "--regions", "nowhere"), 2, "nowhere"),
    ],
)
def test_another_package_brings_the_command_of_months(
    arguments: tuple[str, ...], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert spex("monthly", *arguments) == code
    said = capsys.readouterr()
    assert told in said.out + said.err


def test_a_command_that_nobody_brings_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.commands.further_commands.entry_points", lambda **_: ())
    assert spex("monthly", "2026-10") == 2
    assert "install spex-landcover again" in capsys.readouterr().err
