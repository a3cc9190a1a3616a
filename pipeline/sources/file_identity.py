"""What of an href names the file, and what only opens the door to it: the part that a run's identity holds.

Signatures, keys and passwords change at every search while the file stays; so do the port of a server on this
machine, and whether a host is asked by http or https. Dropping too much would be the worse mistake: two files under
one identity are a wrong map, one file under two identities is only computed twice. So a query is dropped whole only
where the path itself names a raster.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import quote, unquote, urlsplit

from pipeline.errors import SceneError
from pipeline.machine.addresses import content_query
from pipeline.sources.hrefs import local_path


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
    query = f"?{kept}" if (kept := content_query(parts.path, parts.query)) else ""
    return f"{scheme}//{place}{_plain_path(parts.path)}{query}"


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
