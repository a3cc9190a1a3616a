"""Files stay open between readings: fewer requests, the same pixels, and never those of a file that is no more."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.windows import Window

import pipeline.imagery.file_reader as file_reader
from pipeline.errors import ReadError
from pipeline.imagery.open_files import OpenFiles, OpenRaster
from tests.pipeline.imagery.test_file_reader import grid, noise, read, reader
from tests.pipeline.loopback_server import Response, file_answer, serve
from tests.pipeline.tiny_scenes import LEFT, TOP, write_raster


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> OpenFiles:
    fresh = OpenFiles()
    monkeypatch.setattr(file_reader, "open_files", fresh)
    monkeypatch.setattr(file_reader, "BACKOFF_S", 0.01)
    return fresh


class Dataset:
    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        assert not self.closed
        self.closed = True
        raise OSError("even if it complains")


@given(limit=st.integers(0, 4), steps=st.lists(st.tuples(st.sampled_from("abcde"), st.booleans()), max_size=40))
def test_whatever_is_taken_and_kept_nobody_shares_and_none_is_forgotten(
    limit: int, steps: list[tuple[str, bool]]
) -> None:
    files, out, made = OpenFiles(limit), list[tuple[str, OpenRaster]](), list[OpenRaster]()
    for key, back in steps:
        if back and out:
            files.keep(*out.pop(0))
            continue
        raster = files.take(key)
        if raster is None:
            raster = OpenRaster(Dataset())
            made.append(raster)
        assert not raster.dataset.closed
        assert raster not in [other for _, other in out]
        out.append((key, raster))
    waiting = [raster for raster in made if not raster.dataset.closed and raster not in [o for _, o in out]]
    assert len(waiting) <= limit
    files.close()
    assert all(raster.dataset.closed for raster in waiting)


def test_a_local_file_that_was_replaced_or_rewritten_is_read_anew(files: OpenFiles, tmp_path: Path) -> None:
    path, spec = tmp_path / "b.tif", grid(40, 50)
    for seed in range(3):
        values = noise(40, 50, seed)
        if seed == 1:  # another file under its name
            write_raster(tmp_path / "new.tif", values, left=LEFT, top=TOP, gsd=10)
            os.replace(tmp_path / "new.tif", path)
        else:
            write_raster(path, values, left=LEFT, top=TOP, gsd=10)
        for _ in range(2):
            np.testing.assert_array_equal(read(path, spec), values)
    path.unlink()
    with pytest.raises(ReadError, match=r"b\.tif cannot be read"):
        read(path, spec)


def test_a_remote_file_is_asked_once_for_what_two_windows_share(files: OpenFiles, tmp_path: Path) -> None:
    values = noise(256, 256)
    write_raster(tmp_path / "x.tif", values, left=LEFT, top=TOP, gsd=10)
    with serve(lambda request: file_answer(tmp_path, request)) as server:
        one = reader(f"{server.url}/x.tif", grid(256, 256))
        one.read(Window(0, 0, 256, 100))
        asked = len(server.requests)
        for row in (8, 16):
            np.testing.assert_array_equal(one.read(Window(0, row, 256, 100)), values[row : row + 100])
        assert len(server.requests) == asked


def test_after_an_error_a_file_is_opened_anew(files: OpenFiles, tmp_path: Path) -> None:
    """A reading that failed may have left anything behind: in the file, in GDAL and in the connection."""
    values = noise(512, 512)
    write_raster(tmp_path / "x.tif", values, left=LEFT, top=TOP, gsd=10)
    broken = threading.Event()

    def answer(request: Any) -> Response:
        return Response(500, b"") if broken.is_set() else file_answer(tmp_path, request)

    with serve(answer) as server:
        one = reader(f"{server.url}/x.tif", grid(512, 512))
        one.read(Window(0, 0, 16, 16))
        broken.set()
        quick = {**file_reader.gdal_options(one.url), "GDAL_HTTP_MAX_RETRY": 0}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(file_reader, "gdal_options", lambda _: quick)
            with pytest.raises(ReadError, match="500"):
                one.read(Window(0, 300, 512, 200))
        broken.clear()
        file_reader._given_up.clear()
        np.testing.assert_array_equal(one.read(Window(0, 0, 512, 512)), values)


def test_a_file_that_another_thread_opened_is_closed_without_a_word(
    files: OpenFiles, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_raster(tmp_path / "x.tif", noise(64, 64), left=LEFT, top=TOP, gsd=10)
    with serve(lambda request: file_answer(tmp_path, request)) as server, ThreadPoolExecutor(1) as pool:
        pool.submit(reader(f"{server.url}/x.tif", grid(64, 64)).read, Window(0, 0, 16, 16)).result()
        files.close()
    assert capfd.readouterr().err == ""
