"""The journal: what a crash may do to it, and what is read afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StoreError
from pipeline.mapstore.journal import (
    BlockFailed,
    BlockFinished,
    JournalRecord,
    JournalWriter,
    RunEnded,
    RunStarted,
    read_journal,
    replay,
)

RECORDS: tuple[JournalRecord, ...] = (
    RunStarted("2026-11-01T00:00:00+00:00", "0123456789abcdef"),
    BlockFinished(32632, 0, 1.5, 0.75, "ab" * 32, ("scene S2A_x: B02 could not be read\nat row 3", "café ☃")),
    BlockFailed(32633, 1, 3, "ReadError: gone"),
    RunEnded("2026-11-01T01:00:00+00:00", "partial", 3600.0),
)


def write(path: Path, *records: JournalRecord) -> None:
    with JournalWriter(path) as journal:
        for record in records:
            journal.append(record)


def test_records_come_back_as_they_went_in(tmp_path: Path) -> None:
    write(tmp_path / "run" / "journal.jsonl", *RECORDS)
    assert read_journal(tmp_path / "run" / "journal.jsonl") == RECORDS


def test_no_journal_means_no_records(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "journal.jsonl") == ()


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 10_000))
def test_a_file_cut_anywhere_keeps_its_complete_lines_and_can_be_continued(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    write(path, *RECORDS)
    content = path.read_bytes()
    kept = content[: cut % (len(content) + 1)]
    path.write_bytes(kept)
    survivors = RECORDS[: kept.count(b"\n")]
    assert read_journal(path) == survivors
    write(path, RECORDS[1])
    assert read_journal(path) == (*survivors, RECORDS[1])
    assert path.read_bytes().endswith(b"\n")


def test_a_complete_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, RECORDS[0])
    with path.open("ab") as file:
        file.write(b'{"event": "block-started", "index": 4}\n')
    with pytest.raises(StoreError, match=r"line 2 .*delete the line"):
        read_journal(path)


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with JournalWriter(path), pytest.raises(StoreError, match="another process"):
        JournalWriter(path)
    write(path, RECORDS[0])
    assert read_journal(path) == RECORDS[:1]


def test_a_killed_writer_leaves_no_lock_and_all_it_appended(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    program = (
        "import os, signal, sys\n"
        "from pipeline.mapstore.journal import JournalWriter, RunStarted\n"
        "journal = JournalWriter(sys.argv[1])\n"
        "journal.append(RunStarted('2026-11-01', 'killed'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == -9
    write(path, RECORDS[1])
    assert [type(record) for record in read_journal(path)] == [RunStarted, BlockFinished]


def test_repeated_records_change_nothing() -> None:
    assert replay(RECORDS * 2) == replay(RECORDS)


def test_the_last_word_on_a_block_counts() -> None:
    done, gone = BlockFinished(32632, 7, 1.0, 1.0, "00"), BlockFailed(32632, 7, 3, "lost")
    assert replay([gone, done]).finished == {(32632, 7): done}
    assert replay([gone, done]).failed == {}
    assert replay([done, gone]).finished == {}
    assert replay([done, gone]).failed == {(32632, 7): gone}


def test_a_run_that_was_started_again_has_not_ended() -> None:
    state = replay([*RECORDS, RunStarted("2026-11-02", "0123456789abcdef", 1)])
    assert state.started is not None
    assert state.started.resumed_blocks == 1
    assert state.ended is None
    assert replay(RECORDS).ended == RECORDS[3]


def test_numbers_that_json_does_not_know_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with JournalWriter(path) as journal, pytest.raises(ValueError, match="JSON compliant"):
        journal.append(BlockFinished(32632, 0, float("nan"), 1.0, "00"))
    assert read_journal(path) == ()


def line_of(**changes: object) -> bytes:
    """A finished block's line as the product writes it, changed."""
    values = {"event": "block-finished", **asdict(RECORDS[1]), **changes}
    return json.dumps({key: value for key, value in values.items() if value is not None}).encode() + b"\n"


@pytest.mark.parametrize(
    "line",
    [
        line_of(sha256=None),
        line_of(colour="red"),
        line_of(problems=3),
        line_of()[:-1] + line_of(),
        line_of()[:-1] + b"]\n",
        b"[" * 100_000 + b"\n",
        b"7\n",
        b"[]\n",
        b"\xff\xfe{\n",
        b"\xef\xbb\xbf" + line_of(),
        b"{}\n",
    ],
    ids=lambda line: repr(line[:12]),
)
def test_lines_that_no_version_wrote_are_refused(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(line_of() + line)
    with pytest.raises(StoreError, match=r"line 2 .*delete the line"):
        read_journal(path)


def test_a_line_without_the_later_fields_is_read(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"\n  \n" + line_of(problems=None, incomplete=None) + b" " + line_of())
    assert read_journal(path) == (BlockFinished(32632, 0, 1.5, 0.75, "ab" * 32), RECORDS[1])
    assert hash(read_journal(path)[1]) == hash(RECORDS[1])


def test_a_long_journal_takes_little_more_memory_than_its_records(tmp_path: Path) -> None:
    """100,000 blocks in less than 100 MB, of the 200 MB that they may take."""
    path = tmp_path / "journal.jsonl"
    blocks = 3_000
    path.write_bytes(b"".join(line_of(index=i, problems=[], sha256=f"{i:064x}") for i in range(blocks)))
    tracemalloc.start()
    try:
        state = replay(read_journal(path))
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(state.finished) == blocks
    assert peak < 1_000 * blocks
    assert peak < 1.3 * kept
