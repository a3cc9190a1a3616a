"""A command goes on whatever its standard streams are; only what somebody wanted and cannot have is a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from pipeline.machine.standard_streams import output_failure

ROOT = Path(pipeline.__file__).parents[1]
CODE = """
import sys
from pipeline.machine import standard_streams
standard_streams.secure()
standard_streams.secure()
file = open({file!r}, "w")
for stream in (sys.stdout, sys.stderr):
    stream.write("x" * 100_000 + "\\u2603\\n")
    stream.flush()
    print("again", file=stream)
    assert isinstance(stream.isatty(), bool) and stream.encoding
file.write("went on" if file.fileno() > 2 else "took a stream's place")
file.close()
sys.stdout.flush()
raise SystemExit(9 if standard_streams.output_failure() else 0)
"""


@pytest.mark.parametrize(
    ("redirection", "code"),
    [
        ("", 0),
        (">&-", 0),
        ("2>&-", 0),
        ("<&- >&- 2>&-", 0),
        ("<&- >&-", 0),
        (">/dev/full", 9),
        ("2>/dev/full", 0),
        (">/dev/full 2>/dev/full", 9),
        ("| true", 0),
        ("2>&1 | true", 0),
    ],
)
def test_a_stream_that_is_closed_full_or_gone_ends_nothing(redirection: str, code: int, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(CODE.format(file=str(tmp_path / "file")))
    command = f"( PYTHONPATH={ROOT} {sys.executable} {script}; echo $? > {tmp_path}/code ) {redirection}"
    if "|" not in redirection:
        command = f"PYTHONPATH={ROOT} {sys.executable} {script} {redirection}; echo $? > {tmp_path}/code"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (tmp_path / "code").read_text().strip() == str(code)
    assert (tmp_path / "file").read_text() == "went on"
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_letters_that_a_stream_does_not_know_are_escaped() -> None:
    code = "from pipeline.machine import standard_streams as s; s.secure(); print('r\\u00e9gion \\u6771\\u4eac')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONIOENCODING": "latin-1"}, cwd=ROOT,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.stdout == b"r\xe9gion \\u6771\\u4eac\n"


def test_plain_streams_have_no_failure() -> None:
    assert output_failure() is None
