"""Hrefs come from outside: where they point to is resolved and checked before anything is opened (DESIGN rule 6)."""

from __future__ import annotations

import ipaddress
import posixpath
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import url2pathname

from pipeline.errors import SceneError


def is_url(text: str) -> bool:
    """True for ``scheme://...``; a bare path is not a URL."""
    return "://" in text


def local_path(href: str) -> Path | None:
    """The path of a ``file:`` URL or a bare path; None for any other scheme.

    Raises:
        SceneError: A ``file:`` URL of another host.
    """
    if href.startswith("file:"):
        parts = urlsplit(href)
        if parts.netloc not in ("", "localhost"):
            raise SceneError(f"href {href!r} names a file of another host")
        return Path(url2pathname(parts.path))
    return None if is_url(href) else Path(href)


def is_local_source(source: str) -> bool:
    """True if a catalog is a local file or a server on this machine, whose hrefs may name local files."""
    if local_path(source) is not None:
        return True
    host = urlsplit(source).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def resolve(href: str, base: str) -> str:
    """An href as an absolute URL or absolute local path, relative ones resolved against the document they stand in.

    Args:
        href: As written in the document.
        base: URL or path of the document.
    """
    if is_url(href) or href.startswith("file:"):
        return href
    base_path = local_path(base)
    if base_path is None:
        return urljoin(base, href)
    return str((base_path.parent / href).resolve()) if not href.startswith("/vsi") else href


def checked(href: str, *, schemes: Sequence[str], roots: Sequence[str], local_source: bool, what: str) -> str:
    """An absolute asset href, accepted or refused.

    Args:
        href: Absolute URL or path, see :func:`resolve`.
        schemes: Allowed schemes.
        roots: If any, URL prefixes or folders one of which must hold the href.
        local_source: The catalog itself is local. Only then may it name local files outside ``roots``: a remote
            catalog has no business with them.
        what: Item and asset, for the message.

    Returns:
        The URL, or the path of a local file.

    Raises:
        SceneError: The href is refused, and why.
    """
    if any(ord(c) < 32 for c in href) or "<" in href or href.startswith("/vsi"):
        raise SceneError(f"{what}: href {href[:100]!r} is not a plain URL or path")
    path = local_path(href)
    scheme = "file" if path is not None else urlsplit(href).scheme.lower()
    if scheme not in schemes:
        raise SceneError(f"{what}: scheme {scheme!r} of {href[:200]!r} is not among source.allowed_schemes")
    if path is not None:
        resolved = path.resolve()
        folders = [p.resolve() for r in roots if (p := local_path(r)) is not None]
        inside = any(resolved.is_relative_to(folder) for folder in folders)
        if roots and not inside:
            raise SceneError(f"{what}: {href[:200]!r} is outside source.allowed_roots")
        if not roots and not local_source:
            raise SceneError(
                f"{what}: a remote catalog names the local file {href[:200]!r}; "
                "if that is meant, put its folder into source.allowed_roots"
            )
        return str(resolved)
    parts = urlsplit(href)
    if ".." in unquote(parts.path).split("/"):
        raise SceneError(f"{what}: href {href[:200]!r} climbs out of its folder")
    if roots and not any(_under(href, root) for root in roots if local_path(root) is None):
        raise SceneError(f"{what}: {href[:200]!r} is outside source.allowed_roots")
    return href


def _under(url: str, root: str) -> bool:
    a, b = urlsplit(url), urlsplit(root)
    if (a.scheme.lower(), a.netloc.lower()) != (b.scheme.lower(), b.netloc.lower()):
        return False
    folder = posixpath.normpath(b.path or "/").rstrip("/") + "/"
    return (posixpath.normpath(a.path or "/") + "/").startswith(folder)
