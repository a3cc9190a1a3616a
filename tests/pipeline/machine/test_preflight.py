"""What a run needs of the machine is asked before it computes: each want is one answer, with what mends it."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
import rasterio

import pipeline
from pipeline.errors import InstallationError, OutputError
from pipeline.machine import lock, preflight
from pipeline.machine.own_files import folder_lock
from pipeline.machine.preflight import Check, answered, check_folder, require, require_local_ray, session_parent
from pipeline.machine.user_cache import user_cache

ROOT = Path(pipeline.__file__).parents[1]
OWN_DATA = (Path(rasterio.__file__).parent / "proj_data" / "proj.db").is_file()


def test_this_machine_can_run() -> None:
    checks = preflight.machine_checks()
    assert [check.subject for check in checks if check.state == "fail"] == []
    assert all(check.found and (check.state == "ok" or check.mend) for check in checks)
    require_local_ray()


def test_a_question_that_fails_is_an_answer() -> None:
    def broken() -> NoReturn:
        raise ZeroDivisionError("no driver")

    check = answered("GPU", broken)
    assert (check.subject, check.state) == ("GPU", "fail")
    assert "no driver" in check.found
    with pytest.raises(InstallationError, match=r"GPU: .*no driver"):
        require([Check("CPUs", "warn", "few", "more"), check])


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_told_as_such(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(lock.NoLocksError):
        lock.take(tmp_path / "lock")
    with pytest.raises(OutputError, match=r"no file locks.*-o flock"), folder_lock(tmp_path / "out", ".spex"):
        pass
    check = check_folder("output", tmp_path / "out")
    assert check.state == "fail"
    assert "flock" in check.mend


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_folder_that_takes_no_file_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    check = check_folder("output", tmp_path)
    assert check.state == "fail"
    assert os.strerror(number) in check.found
    assert check.mend


def test_a_file_where_a_folder_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    assert check_folder("output", tmp_path / "out" / "map").state == "fail"
    assert check_folder("output", tmp_path / "new" / "map").state == "ok"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("unfit", "chosen"),
    [
        ((), "/tmp"),
        (("/tmp",), "/scratch"),
        (("/tmp", "/scratch"), "/var/tmp"),
        (("/tmp", "/scratch", "/var/tmp"), "/dev/shm"),
        (("/tmp", "/scratch", "/var/tmp", "/dev/shm"), None),
    ],
)
def test_a_local_ray_lives_where_files_can_be_written(
    monkeypatch: pytest.MonkeyPatch, unfit: tuple[str, ...], chosen: str | None
) -> None:
    monkeypatch.setenv("TMPDIR", "/scratch")
    monkeypatch.setattr(
        preflight, "_write_problem", lambda folder: f"{folder} is read-only" if str(folder) in unfit else None
    )
    disk = os.statvfs("/")
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    monkeypatch.setattr(preflight, "LEAST_TEMPORARY_BYTES", 0)
    if chosen is not None:
        assert session_parent() == Path(chosen)
        return
    with pytest.raises(InstallationError, match=r"/tmp is read-only.*/dev/shm is read-only.*set TMPDIR"):
        session_parent()


@pytest.mark.parametrize("name", ["relative/tmp", "/" + "long/" * 30])
def test_a_folder_in_which_no_socket_fits_is_not_taken(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(preflight, "_write_problem", lambda folder: "full" if str(folder) == "/tmp" else None)
    monkeypatch.setenv("TMPDIR", name)
    assert session_parent() == Path("/var/tmp")


def test_a_full_disk_for_temporary_files_is_told_in_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "LEAST_TEMPORARY_BYTES", 2**80)
    check = preflight.check_temporary()
    assert check.state == "fail"
    assert "free" in check.found


def test_no_loopback_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(InstallationError, match=r"loopback: 127\.0\.0\.1 does not answer.*ip link set lo up"):
        require_local_ray()


@pytest.mark.parametrize(
    ("home", "cache", "found"),
    [
        ("/home/ann", "", "/home/ann/.cache/spex"),
        ("/home/ann", "/scratch/ann", "/scratch/ann/spex"),
        ("/home/ann", "relative", "/home/ann/.cache/spex"),
        ("", "", None),
        ("relative", "", None),
    ],
)
def test_the_cache_lies_in_a_home_or_nowhere(
    monkeypatch: pytest.MonkeyPatch, home: str, cache: str, found: str | None
) -> None:
    monkeypatch.setenv("HOME", home)
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    assert user_cache() == (None if found is None else Path(found))


def test_a_user_without_home_and_name_keeps_nothing_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    def unknown(_: int) -> NoReturn:
        raise KeyError("uid not found")

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert user_cache() is None
    assert preflight.check_cache().state == "warn"
    assert preflight.check_user().state == "ok"


FOREIGN = """
import os, sys
{before}
from pipeline.machine.wheel_data import leave_out_foreign_data
left = leave_out_foreign_data()
from rasterio.warp import transform
(lon,), _ = transform("EPSG:32632", "EPSG:4326", [500_000.0], [5_000_000.0])
assert abs(lon - 9.0) < 1e-9
print(sorted(left), [n for n in ("PROJ_LIB", "PROJ_DATA", "GDAL_DATA") if n in os.environ])
"""


@pytest.mark.skipif(not OWN_DATA, reason="rasterio has no data of its own here")
@pytest.mark.parametrize(
    ("variables", "before"), [(("PROJ_LIB",), ""), (("GDAL_DATA", "PROJ_DATA"), ""), (("PROJ_LIB",), "import rasterio")]
)
def test_data_of_another_installation_are_left_out(variables: tuple[str, ...], before: str, tmp_path: Path) -> None:
    (tmp_path / "proj.db").write_bytes(b"none")
    clean: dict[str, Any] = {k: v for k, v in os.environ.items() if k not in ("PROJ_LIB", "PROJ_DATA", "GDAL_DATA")}
    done = subprocess.run(
        [sys.executable, "-c", FOREIGN.format(before=before)],
        env=clean | dict.fromkeys(variables, str(tmp_path)), cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{sorted(variables)} []"
