"""A file is whole or not there, on disk before it has its name, and nothing is written through a link."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from spex_core.durable_files import ForeignFileError, check_own, make_folder, open_own, put_in_place, remove, replacing
from tests.strangers import STRANGERS, untouched


@pytest.mark.parametrize("kind", STRANGERS)
@pytest.mark.parametrize("mode", ["ab", "a+b", "r+b"])
def test_nothing_but_a_file_of_ours_is_opened_for_writing(kind: str, mode: str, tmp_path: Path) -> None:
    path = tmp_path / "ours" / "log"
    path.parent.mkdir()
    with untouched(tmp_path / "theirs") as victim:
        STRANGERS[kind](path, victim)
        with pytest.raises(ForeignFileError, match="remove it"):
            open_own(path, mode)  # type: ignore[arg-type]
        with pytest.raises(ForeignFileError):
            check_own(path)


def test_a_folder_is_not_opened_and_a_missing_file_is_made_or_not(tmp_path: Path) -> None:
    with pytest.raises(ForeignFileError, match="no regular file"):
        open_own(tmp_path, "ab")
    with pytest.raises(FileNotFoundError):
        open_own(tmp_path / "log", "r+b", create=False)
    check_own(tmp_path / "log")
    for line in (b"one\n", b"two\n"):
        with open_own(tmp_path / "log", "ab") as file:
            file.write(line)
    with open_own(tmp_path / "log", "r+b") as file:
        assert file.read() == b"one\ntwo\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_refused_unless_the_folder_is_theirs_too(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"")
    os.chown(tmp_path / "log", 12345, -1)
    with pytest.raises(ForeignFileError, match="uid 12345"):
        open_own(tmp_path / "log", "ab")
    os.chown(tmp_path, 12345, -1)
    open_own(tmp_path / "log", "ab").close()


@pytest.mark.parametrize("kind", STRANGERS)
def test_a_new_file_takes_the_place_of_whatever_lies_there(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "ours" / "map.json"
    path.parent.mkdir()
    with untouched(tmp_path / "theirs") as victim:
        STRANGERS[kind](path, victim)
        with replacing(path) as draft:
            draft.write_bytes(b"new")
    assert stat.S_ISREG(path.lstat().st_mode)
    assert (path.read_bytes(), path.stat().st_nlink) == (b"new", 1)


@pytest.mark.parametrize("kind", STRANGERS)
def test_removing_takes_the_name_and_never_what_it_points_to(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "ours" / "old"
    path.parent.mkdir()
    with untouched(tmp_path / "theirs") as victim:
        STRANGERS[kind](path, victim)
        remove(path)
        remove(path)
        path.symlink_to(victim.parent)
        remove(path)
        (path / "below").mkdir(parents=True)
        (path / "below" / "link").symlink_to(victim.parent)
        remove(path)
    assert not os.path.lexists(path)


def test_a_writer_that_fails_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_bytes(b"old")

    def fail() -> None:
        with replacing(path) as draft:
            draft.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [entry.name for entry in tmp_path.iterdir()] == ["map.json"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("whole_folder", [False, True])
def test_content_is_on_disk_before_its_name_and_the_name_before_anybody_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_folder: bool
) -> None:
    """A power cut cannot be caused here: the calls that the kernel gets are watched instead."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(handle: int) -> None:
        calls.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    def watched_replace(source: Path, target: Path) -> None:
        calls.append(f"rename to {target}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    path = tmp_path / "new" / "place" / "thing"
    make_folder(path.parent)
    assert calls == [str(tmp_path), str(tmp_path / "new")]
    calls.clear()
    if whole_folder:
        draft = path.with_name("draft")
        (draft / "inner").mkdir(parents=True)
        (draft / "inner" / "file").write_bytes(b"1")
        put_in_place(draft, path)
        assert set(calls[:-2]) == {str(draft), str(draft / "inner"), str(draft / "inner" / "file")}
    else:
        with replacing(path) as draft:
            draft.write_bytes(b"1")
        assert calls[:-2] == [str(draft)]
    assert calls[-2:] == [f"rename to {path}", str(path.parent)]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_have_the_rights_that_the_user_gives_new_files(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "map.json") as draft:
            draft.write_bytes(b"1")
        open_own(tmp_path / "log", "ab").close()
    finally:
        os.umask(before)
    for name in ("map.json", "log"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~umask
