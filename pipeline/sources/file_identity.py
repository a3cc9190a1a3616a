"""What of an href names the file, and what only opens the door to it: the part that a run's identity holds.

Signatures, keys and passwords change at every search while the file stays; so do the port of a server on this
machine, and whether a host is asked by http or https. Dropping too much would be the worse mistake: two files under
one identity are a wrong map, one file under two identities is only computed twice. So a query is dropped whole only
where the path itself names a raster.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from pipeline.errors import SceneError
from pipeline.sources.hrefs import local_path

RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt")
"""A path that ends so names a file by itself."""
CONTENT_NAMES = re.compile(
    "version|versionid|generation|snapshot|revision|rev|url|file|path|object|id|items?|bands?|bidx|assets?|layers?"
    "|expression"
)
"""Parameters that choose a version or a content even where the path names a raster."""
SIGNATURE_NAMES = re.compile(
    # AWS, Google, Alibaba, Tencent, Huawei, Azure, OpenStack Swift; Tencent's older ones; Akamai
    "x-(amz|goog|oss|cos|obs|ms)-.*|temp_url_.*|q-(sign|ak|key-time|header-list|url-param-list).*|hdn(ts|ea|tl).*"
    # signatures and their terms, keys, tokens, people: spellings in use
    "|signature|sig|sign|hmac|md5|expires?|expiry|exp|policy|key-pair-id|hash-algorithm|nonce|ts|timestamp|x-id"
    "|(aws|oss)?accesskeyid|googleaccessid|access_?key|(api|app)[_-]?key|(ocp-apim-)?subscription-key"
    "|security-token|(access_|auth_|id_)?token|sas|jwt|client_id|auth|authkey|authorization|credentials?"
    "|password|passwd|secret|session(_?id)?|user(name)?"
)
"""Parameters of a signature or a key."""
AZURE_NAMES = re.compile("sv|ss|srt|sr|sp|st|se|spr|sip|si|skoid|sktid|skt|ske|sks|skv|saoid|suoid|scid|sdd|ses")
"""Of a shared access signature: short words, so they count as such only beside its ``sig``."""
PROCESSING_NAMES = frozenset({"x-oss-process", "x-cos-process"})
"""They look like a signature's and change what is served."""


def file_identity(href: str) -> str:
    """The part of a stored href that names its file.

    Args:
        href: Absolute URL, or path of a local file.

    Returns:
        A path for a local file; ``//host/path`` for http and https; else the URL without user, signature and fragment.
        Not to be opened. What is no address at all is returned as it is.
    """
    try:
        path = local_path(href)
        parts = urlsplit(href)
    except (SceneError, ValueError):
        return href
    if path is not None:
        return str(path)
    web = parts.scheme.lower() in ("http", "https")
    scheme = "" if web else f"{parts.scheme.lower()}:"
    place = _web_place(href) if web else parts.netloc.rpartition("@")[2]
    return f"{scheme}//{place}{_plain_path(parts.path)}{_content_query(parts.path, parts.query)}"


def _web_place(href: str) -> str:
    parts = urlsplit(href)
    host = (parts.hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost") or _is_loopback(host):
        return "localhost"  # a tunnel, or a server that was given any free port
    try:
        port = parts.port
    except ValueError:  # not a number: the request will fail, and is another one with another text
        return parts.netloc.rpartition("@")[2].lower()
    return host if port in (None, 80, 443) else f"{host}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _plain_path(path: str) -> str:
    """One spelling: escapes only where they are needed, no ``.`` steps."""
    steps = path.split("/")
    kept = [step for step in steps[:-1] if step != "."] + steps[-1:]
    return "/".join(quote(unquote(step, errors="surrogateescape"), errors="surrogateescape") for step in kept)


def _content_query(path: str, query: str) -> str:
    pairs = parse_qsl(query, keep_blank_values=True)
    names = {name.lower() for name, _ in pairs}
    named_by_path = unquote(path).lower().endswith(RASTER_SUFFIXES)
    kept = sorted((name, value) for name, value in pairs if _chooses_content(name.lower(), names, named_by_path))
    return f"?{urlencode(kept)}" if kept else ""


def _chooses_content(name: str, names: set[str], named_by_path: bool) -> bool:
    if name in PROCESSING_NAMES:
        return True
    if named_by_path:
        return CONTENT_NAMES.fullmatch(name) is not None
    return not SIGNATURE_NAMES.fullmatch(name) and not ("sig" in names and AZURE_NAMES.fullmatch(name))
