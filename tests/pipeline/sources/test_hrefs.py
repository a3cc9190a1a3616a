"""What a catalog may name: whatever is let through opens within the schemes, roots and hosts of the run file."""

from __future__ import annotations

import os
import posixpath
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import HrefError, SceneError
from pipeline.sources.hosts import is_public_address
from pipeline.sources.hrefs import (
    AssetDoor,
    CatalogDoor,
    checked,
    item_link,
    local_path,
    named_hosts,
    resolve,
    shown,
)

SCHEMES = ("https", "http", "s3", "file")


def accept(href: str, *, roots: tuple[str, ...] = (), local: bool = True, hosts: tuple[str, ...] = ()) -> str:
    return checked(href, schemes=SCHEMES, roots=roots, local_source=local, what="item", hosts=hosts)


GDAL_NAMES = [
    "/vsicurl/http://a.example/x.tif",
    "/VSICURL/http://a.example/x.tif",
    "/vsizip//data/x.zip/x.tif",
    "/vsistdin/",
    "/vsisubfile/0_100,/etc/passwd",
    "file:///vsicurl/http://a.example/x.tif",
    "file:///vsicurl%3Furl=http://a.example/x.tif",
    "file:///vsicurl/http%3A//a.example/x.tif",
    "file:///%76sicurl/http%3A//a.example/x.tif",
    "file:///%2576sicurl/http%253A//a.example/x.tif",
    "file:///%252576sicurl/x",
    "file:///data/../vsicurl/http%3A//a.example/x.tif",
    "FILE:///vsicurl/x",
    "file:/vsicurl/x",
    "file:////vsicurl/x",
    "file:///data/%2e%2e/vsis3/bucket/x.tif",
    "https://a.example/vsicurl/http://b.example/x.tif",
    "vrt:///data/x.tif?bands=1",
    "vrt://https://a.example/x.tif",
    "GTIFF_DIR:1:/etc/passwd",
    'NETCDF:"/data/x.nc":band',
    "HDF5:/data/x.h5://band",
    "SENTINEL2_L2A:/data/x.xml:10m:EPSG_32630",
    "WMS:http://a.example/?",
    "<VRTDataset/>",
    "%3CVRTDataset/%3E",
    "%253CVRTDataset%253E",
    "zip+https://a.example/x.zip!x.tif",
    "tar://data/x.tar",
    "gopher://a.example/",
    "ftp://a.example/x.tif",
    "javascript:alert(1)",
    "data:image/tiff;base64,AAAA",
    "http:/a.example/x.tif",
    "http:\\\\a.example\\x.tif",
    "https://a.example\\@b.example/x.tif",
    "C:\\data\\x.tif",
    "//a.example/x.tif",
    "file://a.example/etc/passwd",
    "file://user@localhost/etc/passwd",
    "file:etc/passwd",
    "https://a.example/x\x00.tif",
    "https://a.example/x%00.tif",
    "https://a.example/x%2500.tif",
    "/data/x\x00.tif",
    "file:///data/x%00.tif",
    "https://a.example/x\r\nHost:b",
    "https://a.example/x%0d%0aHost:b",
    "https://a.example/x\u202efit.tif",
    "https://a.example/\ud800.tif",
    "https://user:word@a.example/x.tif",
    "https://a.example@b.example/x.tif",
    "https://[::1/x.tif",
    "https://a.example:99999/x.tif",
    "https://[v1.example]/x.tif",
    "https://[127.0.0.1]/x.tif",
    "https://a.example:port/x.tif",
    "https:///x.tif",
    "https://a..example/x.tif",
    "https://\u2460.example/x.tif",
    "https://ex\uff0eample/x.tif",
    "https://a.example/a/../x.tif",
    "https://a.example/a/%2e%2e/x.tif",
    "https://a.example/a/%252e%252e/x.tif",
    "https://a.example/a%2f..%2fx.tif",
    "https://a.example/a/..;/x.tif",
    "s3:///x.tif",
    "s3://bucket:80/x.tif",
    "s3://a.example%2F/x.tif",
    "s3://key:word@bucket/x.tif",
    "s3://a?b/x.tif",
    "",
    "https://a.example/" + "x" * 9000,
    "https://a.example/%" + "25" * 20 + "41",
]


@pytest.mark.parametrize("href", GDAL_NAMES)
@pytest.mark.parametrize("local", [True, False])
def test_what_is_not_a_plain_url_or_file_is_refused(href: str, local: bool) -> None:
    with pytest.raises(SceneError):
        accept(resolve(href, "/data/catalog/items/a.json" if local else "https://a.example/c/a.json"), local=local)
    with pytest.raises(SceneError):
        accept(href, local=local)


PRIVATE_HOSTS = [
    *("127.0.0.1", "127.1.2.3", "localhost", "LOCALHOST", "localhost.", "x.localhost", "ip6-localhost", "[::1]"),
    *("10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "[ff02::1]"),
    *("255.255.255.255", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]"),
    *("[fe80::1]", "[fe80::1%25eth0]", "[fd00:ec2::254]", "[fec0::1]", "[::127.0.0.1]", "168.63.129.16"),
    *("100.100.100.200", "192.0.0.192", "127.0.0.1.", "metadata.google.internal", "metadata", "intranet", "nas.local"),
    *("2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001", "127.1", "127.0.1", "0", "127.0.0.0x1"),
]


@pytest.mark.parametrize("host", PRIVATE_HOSTS)
@pytest.mark.parametrize("port", ["", ":8080"])
def test_hosts_that_are_not_public_are_refused_however_they_are_written(host: str, port: str) -> None:
    for local in (True, False):
        with pytest.raises(HrefError):
            accept(f"http://{host}{port}/x.tif", local=local)
    with pytest.raises(HrefError):
        AssetDoor(SCHEMES, (), named_hosts("https://stac.example/", ()), False).check(f"http://{host}{port}/x.tif")


@pytest.mark.parametrize("catalog", ["http://127.0.0.1:8000/catalog.json", "http://localhost/", "http://[::1]:1/"])
def test_a_server_of_this_machine_that_the_run_file_names_is_let_through(catalog: str) -> None:
    hosts = named_hosts(catalog, ())
    for href in ("http://127.0.0.1:9000/x.tif", "http://localhost:9000/x.tif", "http://[::1]:2/x.tif"):
        assert accept(href, hosts=hosts, local=False) == href
    for host in ("10.0.0.1", "169.254.169.254", "2130706433", "127.1"):
        with pytest.raises(HrefError):
            accept(f"http://{host}/x.tif", hosts=hosts)
    assert accept("http://10.0.0.7/x.tif", hosts=named_hosts("http://10.0.0.7:9000/", ()))
    assert accept("http://10.0.0.7/a/x.tif", roots=("http://10.0.0.7/a",))
    with pytest.raises(HrefError):
        accept("http://10.0.0.8/x.tif", hosts=named_hosts("http://10.0.0.7:9000/", ()))


@pytest.mark.parametrize(
    "href",
    [
        "https://sentinel-cogs.s3.us-west-2.amazonaws.com/sentinel-s2-l2a-cogs/30/U/XB/2026/6/S2A/B02.tif",
        "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/30/U/B02.tif?st=2026&se=2026&sig=a%2Bb%2F%3D",
        "s3://eodata/Sentinel-2/MSI/L2A/2026/06/01/S2A.SAFE/GRANULE/B02_10m.jp2",
        "https://a.example:8443/K%C3%B6ln/x%20y.tif",
        "https://8.8.8.8/x.tif",
        "https://[2600::1]/x.tif",
        "HTTPS://A.example./x.tif",
    ],
)
def test_what_providers_serve_is_let_through_as_it_is(href: str) -> None:
    assert accept(href, local=False) == href


def test_a_link_that_leads_out_of_a_root_is_refused(tmp_path: Path) -> None:
    root, secret = tmp_path / "root", tmp_path / "secret.tif"
    root.mkdir()
    secret.write_bytes(b"x")
    (root / "a.tif").write_bytes(b"x")
    (root / "link.tif").symlink_to(secret)
    (root / "circle").symlink_to(root / "circle")
    (root / "inside.tif").symlink_to(root / "a.tif")
    roots = (str(root),)
    assert accept(str(root / "inside.tif"), roots=roots) == str(root / "a.tif")
    assert accept((root / "a.tif").as_uri(), roots=(root.as_uri(),)) == str(root / "a.tif")
    for href in (
        *(str(root / "link.tif"), (root / "link.tif").as_uri(), str(root / "../secret.tif"), str(secret)),
        *(f"file://{root}/%2e%2e/secret.tif", f"FILE://{secret}", str(root) + "2/a.tif", str(root / "circle/x")),
    ):
        with pytest.raises(HrefError):
            accept(href, roots=roots)
    with pytest.raises(HrefError):
        resolve("circle/x.tif", str(root / "item.json"))


_PIECES = st.sampled_from(
    [
        *(
            "http",
            "https",
            "HTTP",
            "file",
            "FILE",
            "s3",
            "vrt",
            "GTIFF_DIR",
            "zip+https",
            "",
            ":",
            ":",
            "//",
            "//",
            "///",
        ),
        *("/", "/", ".", "..", "%2e%2e", "%252e", "%2f", "%5c", "\\", "@", "?", "#", "%3F", "%00", "%", "%25", ";"),
        *("vsicurl", "vsizip", "%76si", "/vsis3/", "<VRTDataset>", '"', " ", "\x00", "\n", "\u202e", "é", "１"),
        *(
            "a.example",
            "b.example",
            "127.0.0.1",
            "localhost",
            "[::1]",
            "2130706433",
            "0x7f.1",
            "10.1",
            ":80",
            "user:w@",
        ),
        *("root", "root2", "secret.tif", "x.tif", "etc/passwd"),
    ]
)


def _spelling() -> st.SearchStrategy[str]:
    plain = st.lists(_PIECES, min_size=1, max_size=10).map("".join)
    near = st.tuples(
        st.sampled_from(["https://a.example/root", "http://127.0.0.1:80/root", "/data/root", "file:///data/root"]),
        plain,
    ).map("".join)
    encoded = st.tuples(near, st.integers(0, 3)).map(lambda t: t[0][:8] + _encode(t[0][8:], t[1]))
    return st.one_of(plain, near, encoded, st.text(max_size=30))


def _encode(text: str, times: int) -> str:
    for _ in range(times):
        text = quote(text, safe="", errors="replace")
    return text


EXAMPLES = int(os.environ.get("SPEX_HREF_EXAMPLES", "400"))


@given(
    href=_spelling(),
    base=st.sampled_from(["https://a.example/root/item.json", "/data/root/item.json", "http://127.0.0.1:80/c/i.json"]),
    roots=st.sampled_from(
        [(), ("https://a.example/root",), ("/data/root",), ("http://127.0.0.1:80/root", "/data/root")]
    ),
    named=st.booleans(),
)
@settings(max_examples=EXAMPLES, deadline=None)
def test_whatever_is_let_through_lies_within_what_the_run_file_allows(
    href: str, base: str, roots: tuple[str, ...], named: bool
) -> None:
    """Nothing but an HrefError is raised, and what passes is held against rules that are written here once more."""
    hosts = ("127.0.0.1",) if named else ()
    local_source = base.startswith(("/", "http://127"))
    try:
        opened = accept(resolve(href, base), roots=roots, local=local_source, hosts=hosts)
    except HrefError:
        return
    _is_within(opened, roots, hosts, local_source)


def _is_within(opened: str, roots: tuple[str, ...], hosts: tuple[str, ...], local_source: bool) -> None:
    assert opened.isprintable()
    assert not set(opened) & set('\\<>"')
    decoded = opened
    for _ in range(12):
        decoded = unquote(decoded)
    assert "/vsi" not in decoded.lower().partition("?")[0] or "/vsi" not in decoded[:5].lower()
    if opened.startswith("/"):
        path = Path(opened)
        assert path == Path(os.path.realpath(opened))
        assert not opened.startswith(("/vsi", "//"))
        assert any(path.is_relative_to(r) for r in roots if r.startswith("/")) if roots else local_source
        return
    parts = urlsplit(opened)
    assert parts.scheme in SCHEMES
    assert "@" not in parts.netloc
    assert ".." not in unquote(unquote(parts.path)).split("/")
    if roots:
        assert any(
            posixpath.normpath(opened).startswith(posixpath.normpath(root) + "/")
            or posixpath.normpath(opened) == posixpath.normpath(root)
            or _same_port(opened, root)
            for root in roots
        )
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme in ("http", "https"):
        allowed = set(hosts) | {urlsplit(root).hostname for root in roots if "://" in root}
        loopback = {"127.0.0.1", "localhost", "::1"}
        assert (
            host in allowed
            or host.endswith(".example")
            or is_public_address(host)
            or (host in loopback and loopback & allowed)
            or (host and host[0].isalpha() and "." in host and not host.endswith("localhost"))
        )


def _same_port(opened: str, root: str) -> bool:
    a, b = urlsplit(opened), urlsplit(root)
    ports = {"http": 80, "https": 443}
    same = (a.scheme, (a.hostname or "").rstrip("."), a.port or ports.get(a.scheme)) == (
        b.scheme,
        b.hostname,
        b.port or ports.get(b.scheme),
    )
    return same and (posixpath.normpath(a.path) + "/").startswith(b.path.rstrip("/") + "/")


@given(st.integers(0, 2**32 - 1), st.sampled_from(["{}", "::ffff:{}", "64:ff9b::{}", "::{}"]))
@settings(max_examples=300, deadline=None)
def test_an_address_is_public_only_if_every_meaning_of_it_is(number: int, form: str) -> None:
    dotted = ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))
    if not is_public_address(dotted):
        assert not is_public_address(form.format(dotted))


def test_a_catalogs_documents_stay_on_its_server_and_below_the_roots(tmp_path: Path) -> None:
    door = CatalogDoor("https://stac.example/v1", ("https://mirror.example/s2/",))
    for url in ("https://stac.example/other", "https://STAC.example:443/x?token=1", "https://mirror.example/s2/x.json"):
        door.check(url)
    for url in (
        *("https://other.example/v1", "http://stac.example/v1", "https://stac.example:8443/v1", "ftp://stac.example/"),
        *(
            "https://mirror.example/s3/x",
            "https://mirror.example/s2/../x",
            "https://stac.example.evil.example/",
            "x.json",
        ),
        *("file:///etc/passwd", "javascript:x", "https://stac.example@evil.example/", "http://127.0.0.1/"),
    ):
        with pytest.raises(HrefError):
            door.check(url)
    CatalogDoor("http://stac.example/").check("https://stac.example/")
    with pytest.raises(HrefError):
        CatalogDoor(str(tmp_path / "catalog.json")).check("https://stac.example/x.json")


@pytest.mark.parametrize(
    ("href", "base", "link"),
    [
        ("https://stac.example/i?x=1", "https://stac.example/", "https://stac.example/i?x=1"),
        ("./i.json", "https://stac.example/c/", "https://stac.example/c/i.json"),
        ("./i.json", "https://user:word@stac.example/c/", "https://stac.example/c/i.json"),
        ("s3://bucket/i.json", "https://stac.example/", "s3://bucket/i.json"),
        *((href, base, None) for base in ("https://stac.example/c/", "/data/c/i.json", None) for href in (
            "javascript:alert(1)", "JavaScript://stac.example/%0aalert(1)", "data:text/html,x", "vbscript:x",
            "file:///etc/passwd", "FILE:///x", "https://user:word@stac.example/", "\x01javascript:alert(1)",
            " javascript:alert(1)", "java\nscript:alert(1)", "https://", "ftp://stac.example/", "https://[", "",
        )),
        ("./i.json", "/data/c/j.json", None),
        (None, "/data/c/j.json", None),
    ],
)  # fmt: skip
def test_only_addresses_become_links(href: str | None, base: str | None, link: str | None) -> None:
    found = item_link(href, base)
    if link is None and href == " javascript:alert(1)" and base is not None and base.startswith("https"):
        assert found is None or found.startswith("https://stac.example/c/")
    elif link is None and href == "" and base is not None and base.startswith("https"):
        assert found is None
    else:
        assert found == link


def test_messages_hold_no_secrets() -> None:
    assert shown("https://user:hush@a.example/x.tif?sig=secret#y") == "'https://a.example/x.tif'"
    for href in ("https://user:hush@a.example/x.tif", "http://127.0.0.1/x?sig=hush", "ftp://a.example/?sig=hush"):
        with pytest.raises(HrefError) as caught:
            accept(href)
        assert "hush" not in str(caught.value)


@pytest.mark.parametrize("href", ["FILE:///data/x.tif", "File:///data/x.tif", "file://LOCALHOST/data/x.tif"])
def test_the_case_of_a_scheme_does_not_matter(href: str) -> None:
    assert local_path(href) == Path("/data/x.tif")
    with pytest.raises(HrefError, match="allowed_schemes"):
        checked(href, schemes=("https",), roots=(), local_source=True, what="item")
