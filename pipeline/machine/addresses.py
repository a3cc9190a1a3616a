"""Addresses as they may be stored and shown: without signature, key, user or password.

The one place that knows what in an address is secret. What goes to a file, a page or a screen passes through
:func:`public_address` or :func:`without_secrets`; what is opened does not.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

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

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s\"'<>`]+")
_CLOSING = ".,;:!)]}"
_NAMED = re.compile(
    r"(?:(?<![A-Za-z0-9])|(?<=%3f)|(?<=%26)|(?<=%253f)|(?<=%2526))"
    r"((?:x-(?:amz|goog|oss|cos|obs|ms)-[a-z-]+|q-sign[a-z-]*|hdn(?:ts|ea|tl)|signature|sig|hmac|temp_url_sig"
    r"|(?:[a-z]+[_-])*(?:token|secret|password|passwd|api[_-]?key|access[_-]?key|accesskeyid|subscription-key)"
    r"|secret[_-][a-z_-]*key|jwt|sas)(?:=|%3d|%253d))"
    r"(?:(?!%26|%2526)[^\s&\"'<>,;)])+",
    re.IGNORECASE,
)
"""A secret by its name, inside text or an encoded address; ``?token=...``, ``url=https%3A%2F%2F...%3Fsig%3D...``."""
_HEADER = re.compile(r"((?:proxy-)?authorization['\"]?\s*[:=]\s*['\"]?)[^'\"\n]+", re.IGNORECASE)
_BEARER = re.compile(r"\b(bearer\s+)[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
_HIDDEN = r"\1..."


def public_address(href: str) -> str:
    """An address without user, password, fragment and the parameters of a signature or key.

    Args:
        href: URL or path; as it stands in an item or a run file.

    Returns:
        The URL with what chooses its content; a local path as it is; what cannot be taken apart, up to its query.
    """
    if "://" not in href:
        return without_names(href)
    try:
        parts = urlsplit(href)
        query = content_query(parts.path, parts.query)
        netloc = parts.netloc.rpartition("@")[2]
    except ValueError:
        return without_names(href.split("?")[0].split("#")[0].rpartition("@")[2])
    return without_names(urlunsplit((parts.scheme, netloc, parts.path, query, "")))


def content_query(path: str, query: str) -> str:
    """The parameters of a query that choose what is served, sorted by name.

    A query is dropped whole where the path itself names a raster, but for those of :data:`CONTENT_NAMES`.
    """
    pairs = parse_qsl(query, keep_blank_values=True)
    names = {name.lower() for name, _ in pairs}
    named_by_path = unquote(path).lower().endswith(RASTER_SUFFIXES)
    return urlencode(sorted((name, value) for name, value in pairs if _chooses(name.lower(), names, named_by_path)))


def _chooses(name: str, names: set[str], named_by_path: bool) -> bool:
    if name in PROCESSING_NAMES:
        return True
    if named_by_path:
        return CONTENT_NAMES.fullmatch(name) is not None
    return not SIGNATURE_NAMES.fullmatch(name) and not ("sig" in names and AZURE_NAMES.fullmatch(name))


def without_secrets(text: str) -> str:
    """A message of any origin with every address in it made public, and secrets known by their name hidden."""
    if "://" in text:
        text = _ADDRESS.sub(_public_match, text)
    return without_names(text)


def without_names(text: str) -> str:
    """Hides ``token=...``, ``sig%3D...``, ``Authorization: ...`` and the like, wherever they stand."""
    if "=" in text or "%" in text:
        text = _NAMED.sub(_HIDDEN, text)
    lowered = text.lower()
    if "authorization" in lowered:
        text = _HEADER.sub(_HIDDEN, text)
    return _BEARER.sub(_HIDDEN, text) if "bearer" in lowered else text


def _public_match(found: re.Match[str]) -> str:
    address = found.group()
    bare = address.rstrip(_CLOSING)
    return public_address(bare) + address[len(bare) :]


def public_document(value: Any) -> Any:
    """JSON-able data with every text in it made public; keys stay as they are."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {key: public_document(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [public_document(entry) for entry in value]
    return value


_LOCAL = re.compile(r"(?<![\w/.:%~-])(?:file://)?/(?:[^\s/'\"<>:;,]+/)+([^\s/'\"<>:;,]*)")


def without_folders(text: str) -> str:
    """A text in which a local path is its last name alone: where somebody keeps files is nobody's business."""
    return _LOCAL.sub(lambda found: found[1] or "...", text)


def published_text(text: str) -> str:
    """A text for readers anywhere: no secret, no folder of this machine."""
    return without_folders(without_secrets(text))
