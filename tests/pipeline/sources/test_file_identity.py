"""What of an href names the file: the same through every signature, other for every other file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.file_identity import file_identity

FILE = "https://data.example.org/s2/T32TQM/B02.tif"

SIGNED = {
    "AWS 4": "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=A%2F20260501&X-Amz-Date=20260501T000000Z&X-Amz-Expires="
    "3600&X-Amz-SignedHeaders=host&X-Amz-Signature={0}&X-Amz-Security-Token={0}&x-id=GetObject",
    "AWS 2": "AWSAccessKeyId=AKIA&Expires={0}&Signature={0}%3D",
    "Google": "X-Goog-Algorithm=GOOG4&X-Goog-Date={0}&X-Goog-Signature={0}",
    "Google, older": "GoogleAccessId=me&Expires={0}&Signature={0}",
    "Azure": "sv=2021-06-08&st={0}&se={0}&sr=c&sp=rl&skoid={0}&sktid=t&skt={0}&ske={0}&sks=b&skv=2021-06-08&sig={0}%3D",
    "CloudFront": "Expires={0}&Policy={0}&Signature={0}&Key-Pair-Id=K1",
    "Alibaba": "OSSAccessKeyId=k&Expires={0}&Signature={0}&x-oss-security-token={0}",
    "Tencent": "q-sign-algorithm=sha1&q-ak=k&q-sign-time={0}&q-key-time={0}&q-header-list=host&q-signature={0}",
    "Swift": "temp_url_sig={0}&temp_url_expires={0}",
    "Akamai": "hdnts=exp%3D{0}~hmac%3D{0}",
    "token": "token={0}",
    "keys": "api_key={0}&access_token={0}&session={0}&md5={0}&expires={0}",
}


@pytest.mark.parametrize("place", [FILE, "https://data.example.org/s2/download?file=B02"], ids=["raster", "service"])
@pytest.mark.parametrize("query", SIGNED.values(), ids=SIGNED)
def test_a_new_signature_is_the_same_file(query: str, place: str) -> None:
    join = "&" if "?" in place else "?"
    first, second = (place + join + query.format(value) for value in ("1f00", "2e11"))
    assert file_identity(first) == file_identity(second) == file_identity(place)


@given(st.dictionaries(st.from_regex(r"[a-z]{2,9}_unknown", fullmatch=True), st.text("0123456789abcdef", min_size=1)))
def test_whatever_is_asked_of_a_raster_by_unknown_words_is_the_same_raster(parameters: dict[str, str]) -> None:
    query = "&".join(f"{name}={value}" for name, value in parameters.items())
    assert file_identity(f"{FILE}?{query}") == file_identity(FILE)


@pytest.mark.parametrize(
    "spelling",
    [
        "http://data.example.org/s2/T32TQM/B02.tif",
        "https://reader:pa55@data.example.org/s2/T32TQM/B02.tif",
        "https://DATA.example.org:443/s2/T32TQM/B02.tif",
        "https://data.example.org./s2/./T32TQM/B02.tif#page",
        "https://data.example.org/s2/T32TQM/%4202.tif",
    ],
)
def test_user_scheme_port_case_and_escapes_do_not_name_a_file(spelling: str) -> None:
    assert file_identity(spelling) == file_identity(FILE)


OTHERS = (
    FILE,
    "https://data.example.org/s2/T32TQM/B03.tif",
    "https://data.example.org/s2/T32TQM/b02.tif",
    "https://data.example.org/s2/T32TQN/B02.tif",
    "https://mirror.example.org/s2/T32TQM/B02.tif",
    "https://data.example.org:8443/s2/T32TQM/B02.tif",
    "s3://data.example.org/s2/T32TQM/B02.tif",
    "s3://Data.example.org/s2/T32TQM/B02.tif",
    "/s2/T32TQM/B02.tif",
    "https://data.example.org/s2//T32TQM/B02.tif",
    f"{FILE}?versionId=1",
    f"{FILE}?versionId=2&X-Amz-Signature=1f",
    f"{FILE}?generation=17",
    f"{FILE}?snapshot=2026-05-01",
    f"{FILE}?x-oss-process=image/resize",
    "https://data.example.org/s2/download?file=B02",
    "https://data.example.org/s2/download?file=B03",
    "https://data.example.org/s2/download?file=B03&product=2",
    "https://data.example.org/s2/Products(1)/$value",
    "https://data.example.org/s2/ows?sp=1",
    "https://data.example.org/s2/ows?sp=2",
    "http://127.0.0.1:8000/s2/T32TQM/B02.tif",
)


def test_other_files_stay_others() -> None:
    found = [file_identity(href) for href in OTHERS]
    assert len(set(found)) == len(OTHERS), found


@pytest.mark.parametrize("host", ["127.0.0.1:40001", "localhost:9", "[::1]:8080", "127.8.0.1", "me:pw@LOCALHOST:80"])
def test_a_server_on_this_machine_is_known_by_its_paths(host: str) -> None:
    assert file_identity(f"http://{host}/a/B02.tif") == file_identity("http://localhost/a/B02.tif")


def test_a_local_file_is_its_path(tmp_path: object) -> None:
    assert (
        file_identity(f"file://{tmp_path}/a%20b.tif") == file_identity(f"{tmp_path}/a b.tif") == f"{tmp_path}/a b.tif"
    )


@pytest.mark.parametrize(
    "href", ["https://h:x/B02.tif", "https://h:99999/B02.tif", "https:///B02.tif", "https://[::1/a"]
)
def test_a_malformed_address_is_no_reason_to_fail(href: str) -> None:
    assert isinstance(file_identity(href), str)
