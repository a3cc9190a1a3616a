"""``spex init`` asks a person, explains what is wrong with an answer, and asks nobody who cannot answer."""

from __future__ import annotations

import datetime as dt
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.commands.questions import questions
from pipeline.settings.new_run_file import NewRun
from pipeline.settings.run_file import RunConfig
from tests.pipeline.commands.test_cli import spex

TODAY = dt.date(2026, 3, 9)


def answered(*answers: str) -> tuple[list[str], list[str], NewRun]:
    """Questions put, complaints made, what came of it; an empty answer takes the default."""
    left = list(answers)
    put: list[str] = []
    said: list[str] = []

    def ask(question: str, default: str | None) -> str:
        put.append(f"{question} [{default}]")
        return left.pop(0) or str(default)

    new = questions(ask, said.append, provider="earth-search", url=None, today=TODAY)
    assert not left
    return put, said, new


def test_defaults_are_the_month_that_is_over() -> None:
    put, said, new = answered("4.8,50.5,5.2,50.8", "", "", "")
    assert said == []
    assert len(put) == 4
    assert (new.start, new.end, new.name) == (dt.date(2026, 2, 1), dt.date(2026, 2, 28), "my-map")
    assert new.bbox == (4.8, 50.5, 5.2, 50.8)


@pytest.mark.parametrize(
    ("answers", "wrong", "told"),
    [
        (("here", "1,2,3,4", "", "", ""), 0, "neither a file nor four numbers"),
        (("1,40,2,30", "1,2,3,4", "", "", ""), 0, "south must be below north"),
        (("1,2,3,4", "soon", "", "", ""), 1, "--start"),
        (("1,2,3,4", "2026-01-05", "2025-01-05", "", ""), 2, "before"),
        (("1,2,3,4", "", "", "../up", "up"), 3, "cannot name a folder"),
    ],
)
def test_a_wrong_answer_is_explained_and_asked_again(answers: tuple[str, ...], wrong: int, told: str) -> None:
    put, said, _ = answered(*answers)
    assert put[wrong] == put[wrong + 1]
    assert len(put) == 5
    assert [told in text for text in said] == [True]


def test_a_region_file_names_the_map(tmp_path: Path) -> None:
    region = tmp_path / "alps.geojson"
    region.write_text("{}")
    put, _, new = answered(str(region), "", "", "")
    assert put[-1].endswith("[alps]")
    assert new.region == region


def test_a_script_is_not_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert spex("init") == 2
    assert "give what to map" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def on_a_terminal(folder: Path, keys: list[bytes]) -> tuple[int, str]:
    """``spex init`` with a terminal; one entry of ``keys`` per question. Exit code and what was shown."""
    here, there = pty.openpty()
    command = [sys.executable, "-m", "pipeline", "init"]
    process = subprocess.Popen(command, stdin=there, stdout=there, stderr=there, cwd=folder, start_new_session=True)
    os.close(there)
    shown, sent, deadline = "", 0, time.monotonic() + 120
    while time.monotonic() < deadline:
        if not select.select([here], [], [], 0.2)[0]:
            continue
        try:
            shown += os.read(here, 4096).decode(errors="replace")
        except OSError:  # the other end is closed
            break
        if sent < len(keys) and shown.rstrip().endswith(":") and shown.count("]:") + shown.count("file:") > sent:
            os.write(here, keys[sent])
            sent += 1
    os.close(here)
    return process.wait(timeout=30), shown


def test_a_person_is_led_to_a_run_file(tmp_path: Path) -> None:
    code, shown = on_a_terminal(tmp_path, [b"4.8,50.5,5.2,50.8\n", b"2026-01-01\n", b"\n", b"dyle\n"])
    assert code == 0, shown
    config = RunConfig.from_yaml(tmp_path / "run.yaml")
    assert (config.name, config.start, config.end) == ("dyle", dt.date(2026, 1, 1), dt.date(2026, 1, 31))
    assert "next: spex plan run.yaml" in shown


def test_leaving_writes_nothing(tmp_path: Path) -> None:
    code, shown = on_a_terminal(tmp_path, [b"\x04"])
    assert code == 130, shown
    assert "Traceback" not in shown
    assert not list(tmp_path.iterdir())
