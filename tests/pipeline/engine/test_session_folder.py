"""The folder of a local Ray: its own, short, and gone afterwards, also after a driver was killed."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pipeline.engine.local_ray import LOCK, TEMP_PREFIX, session_folder


def test_the_folder_goes_with_its_driver() -> None:
    with session_folder() as folder:
        assert folder.is_dir()
        assert folder.name.startswith(TEMP_PREFIX)
        assert len(str(folder)) < 40  # Ray's sockets below it must fit into 107 bytes
    assert not folder.exists()


def test_what_a_killed_driver_left_is_removed_and_told_and_what_is_in_use_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    code = (
        "import time\n"
        "from pipeline.engine.local_ray import session_folder\n"
        "with session_folder() as f:\n print(f, flush=True)\n time.sleep(99)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    left = driver.stdout.readline().strip()
    # As Ray's own processes look from outside, one of each driver; the other one's folder has a name that begins alike.
    worker = _worker_of(left)
    stranger = _worker_of(f"{left}x")
    with session_folder():
        assert os.path.exists(os.path.join(left, LOCK)), "a living driver's folder was taken away"
    assert worker.poll() is None
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    assert os.path.isdir(left)
    with caplog.at_level(logging.WARNING, "pipeline"), session_folder():
        assert not os.path.exists(left)
    assert f"(1 ended) and {left} (removed)" in caplog.text
    assert worker.wait(10) == -signal.SIGKILL
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


@pytest.mark.parametrize(("age_s", "used", "there"), [(7200, False, False), (60, False, True), (7200, True, True)])
def test_a_folder_without_a_lock_goes_when_it_is_old_and_nobody_is_there(age_s: float, used: bool, there: bool) -> None:
    folder = Path(tempfile.mkdtemp(prefix=TEMP_PREFIX, dir="/tmp"))
    worker = _worker_of(str(folder)) if used else None
    then = time.time() - age_s
    os.utime(folder, (then, then))
    try:
        with session_folder():
            assert folder.exists() == there
        assert worker is None or worker.poll() is None
    finally:
        if worker is not None:
            worker.kill()
            worker.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _worker_of(folder: str) -> subprocess.Popen[bytes]:
    token = {"RAY_AUTH_TOKEN_PATH": f"{folder}/auth/token"}
    command = [sys.executable, "-c", "import time; time.sleep(99)", f"{folder}/ray/session"]
    return subprocess.Popen(command, env={**os.environ, **token})
