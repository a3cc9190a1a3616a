"""Buckets are read with the user's own credentials, wherever they are, and unsigned only where there are none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from rasterio.enums import Resampling
from rasterio.windows import Window

from pipeline.errors import ReadError
from pipeline.imagery import bucket_access, file_reader
from pipeline.imagery.bucket_access import credentials, s3_options
from pipeline.imagery.file_reader import AssetReader
from tests.pipeline.s3_server import ROLE, Store, s3_store
from tests.pipeline.tiny_scenes import EPSG, LEFT, TOP, write_raster

KEY, SECRET = "AKIDTEST", "secret/of+the=test"
BUCKETS = ("public", "private", "payers")


class Spec:
    epsg = EPSG
    transform = Affine(10.0, 0.0, LEFT, 0.0, -10.0, TOP)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("buckets")
    for bucket in BUCKETS:
        write_raster(folder / bucket / "a.tif", np.full((64, 64), 77, np.uint16), left=LEFT, top=TOP, gsd=10)
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without any credentials, on no machine of AWS."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "CPL_AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(bucket_access, "_is_ec2", lambda: False)
    monkeypatch.setattr(file_reader, "BACKOFF_S", 0.01)
    bucket_access._has_machine_role.cache_clear()
    file_reader._given_up.clear()
    return tmp_path


@pytest.fixture
def store(root: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    for bucket in BUCKETS:  # GDAL remembers files by their address
        shutil.copy(root / bucket / "a.tif", root / bucket / home.name)
    with s3_store(root) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.server.url)
        yield store


def read(bucket: str) -> float:
    """The largest pixel of a bucket's file."""
    reader = AssetReader(
        url=f"s3://{bucket}/{Path.home().name}", spec=Spec, resampling=Resampling.nearest, dtype=None, fill_value=None,
        scale_offset=None,
    )  # fmt: skip
    return float(reader.read(Window(0, 0, 4, 4)).max())


def signed(store: Store) -> list[bool]:
    """Which of the requests for files carried a signature."""
    asked = [r for r in store.server.requests if r.path.split("/")[1] in BUCKETS]
    return ["Authorization" in request.headers for request in asked]


Arrange = Callable[[Path, pytest.MonkeyPatch, Store], None]


def environment(home: Path, patch: pytest.MonkeyPatch, store: Store) -> None:
    patch.setenv("AWS_ACCESS_KEY_ID", KEY)
    patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


def credentials_file(home: Path, patch: pytest.MonkeyPatch, store: Store, profile: str = "default") -> None:
    (home / ".aws").mkdir()
    text = f"# mine\n[{profile}]\naws_access_key_id = {KEY}\naws_secret_access_key={SECRET}\n"
    (home / ".aws" / "credentials").write_text(text)


def named_profile(home: Path, patch: pytest.MonkeyPatch, store: Store) -> None:
    credentials_file(home, patch, store, "work")
    patch.setenv("AWS_PROFILE", "work")


def shared_file(home: Path, patch: pytest.MonkeyPatch, store: Store) -> None:
    credentials_file(home, patch, store)
    (home / ".aws" / "credentials").rename(home / "elsewhere")
    patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(home / "elsewhere"))


def config_file(home: Path, patch: pytest.MonkeyPatch, store: Store) -> None:
    credentials_file(home, patch, store, "profile work")
    (home / ".aws" / "credentials").rename(home / ".aws" / "config")
    patch.setenv("AWS_PROFILE", "work")


def web_identity(home: Path, patch: pytest.MonkeyPatch, store: Store) -> None:
    (home / "token").write_text("identity")
    patch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(home / "token"))
    patch.setenv("AWS_ROLE_ARN", ROLE)
    patch.setenv("CPL_AWS_STS_ROOT_URL", store.server.url)


def container(home: Path, patch: pytest.MonkeyPatch, store: Store) -> None:
    patch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{store.server.url}/container")
    patch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "tok")


def machine(home: Path, patch: pytest.MonkeyPatch, store: Store) -> None:
    patch.setenv("CPL_AWS_EC2_API_ROOT_URL", store.server.url)
    patch.setenv("CPL_AWS_AUTODETECT_EC2", "NO")


@pytest.mark.parametrize(
    "arrange",
    [environment, credentials_file, named_profile, shared_file, config_file, web_identity, container, machine],
)
def test_credentials_sign_wherever_they_come_from(
    arrange: Arrange, home: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrange(home, monkeypatch, store)
    assert read("private") == 77.0
    assert signed(store)
    assert all(signed(store))
    assert SECRET not in repr(credentials())


def test_public_buckets_need_no_account(store: Store) -> None:
    assert read("public") == 77.0
    assert signed(store)
    assert not any(signed(store))


@pytest.mark.parametrize("given", ["AWS_NO_SIGN_REQUEST", "other profile", "unusable profile", "no role"])
def test_what_gives_no_credentials_does_not_keep_a_public_bucket_from_being_read(
    given: str, home: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    if given == "AWS_NO_SIGN_REQUEST":
        environment(home, monkeypatch, store)
        monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    elif given == "other profile":
        credentials_file(home, monkeypatch, store, "other")
    elif given == "unusable profile":
        (home / ".aws").mkdir()
        (home / ".aws" / "config").write_text("[default]\nregion = eu-central-1\noutput = json\n")
    else:
        monkeypatch.setenv("CPL_AWS_AUTODETECT_EC2", "NO")
        monkeypatch.setenv("CPL_AWS_EC2_API_ROOT_URL", f"{store.server.url}/nothing-here")
    assert read("public") == 77.0
    assert not any(signed(store))


def test_requester_pays_where_the_user_says_so(home: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials_file(home, monkeypatch, store)
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    assert read("payers") == 77.0
    assert {r.headers.get("x-amz-request-payer") for r in store.server.requests} == {"requester"}


def test_a_payer_who_is_not_named_is_told(home: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    environment(home, monkeypatch, store)
    with pytest.raises(ReadError, match=r"s3://payers/\S+ cannot be read: .*403.*AWS_REQUEST_PAYER=requester"):
        read("payers")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "without a signature, because there are no AWS credentials"),
        ({"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": "wrong"}, "signed with the keys of the environment"),
        ({"AWS_ACCESS_KEY_ID": "AKOTHER", "AWS_SECRET_ACCESS_KEY": "wrong"}, "wrong, have expired, or may not read"),
        ({"AWS_PROFILE": "nobody"}, "AWS_PROFILE asks for profile 'nobody', which no AWS settings file has"),
        ({"AWS_NO_SIGN_REQUEST": "YES"}, "because AWS_NO_SIGN_REQUEST is set"),
    ],
)
def test_a_refusal_says_how_the_file_was_asked_for(
    variables: dict[str, str], words: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ReadError, match=r"^s3://private/\S+ cannot be read: ") as caught:
        read("private")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("variables", "options"),
    [
        ({}, {}),
        ({"AWS_S3_ENDPOINT": "store.test:9000"}, {}),  # GDAL's own name is read by GDAL
        (
            {"AWS_ENDPOINT_URL": "http://store.test:9000/"},
            {"AWS_S3_ENDPOINT": "store.test:9000", "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE"},
        ),
        (
            {"AWS_ENDPOINT_URL": "http://x.test", "AWS_ENDPOINT_URL_S3": "https://store.test/s3"},
            {"AWS_S3_ENDPOINT": "store.test/s3", "AWS_HTTPS": "YES", "AWS_VIRTUAL_HOSTING": "FALSE"},
        ),
        (
            {"AWS_ENDPOINT_URL": "http://store.test", "AWS_VIRTUAL_HOSTING": "TRUE", "AWS_HTTPS": "YES"},
            {"AWS_S3_ENDPOINT": "store.test"},
        ),
    ],
)
def test_the_store_is_the_one_that_the_environment_names(
    variables: dict[str, str], options: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert s3_options("s3://some-bucket/a.tif") == {**options, "AWS_NO_SIGN_REQUEST": "YES"}


def test_some_buckets_have_an_endpoint_of_their_own(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    africa = s3_options("s3://deafrica-sentinel-2/a.tif")
    assert africa["AWS_S3_ENDPOINT"] == "s3.af-south-1.amazonaws.com"
    assert africa["AWS_REGION"] == "af-south-1"
    assert "AWS_NO_SIGN_REQUEST" not in s3_options("s3://eodata/a.jp2")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://mirror.test")
    assert s3_options("s3://deafrica-sentinel-2/a.tif")["AWS_S3_ENDPOINT"] == "mirror.test"
