"""GDAL's settings: bounded in time and memory, and no more privileges than a reader needs."""

from __future__ import annotations

import pytest
import rasterio

from pipeline.imagery.gdal_settings import CACHE_MB, DRIVERS_LOCAL, DRIVERS_REMOTE, gdal_options, worker_environment


def test_every_wait_has_an_end() -> None:
    options = gdal_options("https://data.test/B02.tif")
    for name in ("GDAL_HTTP_CONNECTTIMEOUT", "GDAL_HTTP_TIMEOUT", "GDAL_HTTP_LOW_SPEED_TIME", "GDAL_HTTP_MAX_RETRY"):
        assert 0 < int(options[name]) <= 120


def test_no_side_car_files_are_looked_for() -> None:
    options = gdal_options("https://data.test/B02.tif")
    assert options["GDAL_DISABLE_READDIR_ON_OPEN"] == "EMPTY_DIR"
    assert options["GDAL_PAM_ENABLED"] == "NO"


def test_copernicus_buckets_have_their_own_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_S3_ENDPOINT", raising=False)
    assert gdal_options("s3://eodata/Sentinel-2/B02.jp2")["AWS_S3_ENDPOINT"] == "eodata.dataspace.copernicus.eu"
    monkeypatch.setenv("AWS_S3_ENDPOINT", "mirror.test")
    assert gdal_options("s3://eodata/Sentinel-2/B02.jp2")["AWS_S3_ENDPOINT"] == "mirror.test"
    assert "AWS_S3_ENDPOINT" not in gdal_options("s3://sentinel-cogs/B02.tif")


def test_public_buckets_need_no_account_but_a_given_account_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    assert gdal_options("s3://sentinel-cogs/B02.tif")["AWS_NO_SIGN_REQUEST"] == "YES"
    monkeypatch.setenv("AWS_PROFILE", "mine")
    assert "AWS_NO_SIGN_REQUEST" not in gdal_options("s3://sentinel-cogs/B02.tif")


def test_the_drivers_named_are_in_this_gdal_and_remote_files_cannot_be_virtual() -> None:
    with rasterio.Env() as env:
        assert set(DRIVERS_LOCAL) <= set(env.drivers())
    assert "VRT" not in DRIVERS_REMOTE


def test_workers_bound_gdals_cache_and_the_allocator() -> None:
    environment = worker_environment()
    assert environment["GDAL_CACHEMAX"] == str(CACHE_MB)
    assert environment["MALLOC_ARENA_MAX"] == "2"
