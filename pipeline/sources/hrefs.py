"""Which addresses may be opened: the one place of the rules for hrefs, links and redirects (architecture, rule 6).

A catalog's text comes from outside. What it names is resolved (:func:`resolve`), checked as text (:func:`checked`), and
checked again when it is opened: a :class:`Door` sees every request, every redirect and every address that a name
resolves to.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from pipeline.errors import HrefError
from pipeline.machine.addresses import public_address, without_names
from pipeline.sources.hosts import (
    host_name,
    is_public_address,
    is_public_name,
    is_this_machine,
    port_number,
    same_server,
)
from pipeline.sources.local_files import with_slashes, written_path

WEB_SCHEMES = ("http", "https")
BUCKET_SCHEMES = ("s3", "gs", "az")
"""Object stores that GDAL speaks to itself: the host is the store's, only the bucket is named by the href."""
MAX_HREF_CHARS = 8192
MAX_DECODINGS = 8
"""Percent-encodings within percent-encodings that are looked through; an href with more is refused."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+._-]+:")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_GDAL_PREFIX = re.compile(
    r"/vsi(s3|gs|az|adls|oss|swift|webhdfs|hdfs|curl|zip|gzip|tar|7z|rar|mem|stdin|stdout|stdout_redirect|subfile"
    r"|sparse|crypt|cached|fsspec|pyopener|riopener\w*)(_streaming)?(/|$)",
    re.IGNORECASE,
)


class Door(Protocol):
    """What may be opened on somebody's behalf. A value: small, equal by its members, picklable for the readers."""

    def __hash__(self) -> int:
        """Doors that let the same pass share their connections."""
        ...

    def check(self, url: str) -> None:
        """Lets one web request pass, the first or a redirect's.

        Raises:
            HrefError: It may not be made, and why.
        """
        ...

    def check_address(self, host: str, address: str) -> None:
        """Lets one connection pass, after its name has been resolved.

        Raises:
            HrefError: The address is not for the public, and the run file does not name the host.
        """
        ...


@dataclass(frozen=True)
class AssetDoor:
    """For the rasters that a catalog's items name: within the schemes and roots of the run file."""

    schemes: tuple[str, ...]
    roots: tuple[str, ...]
    hosts: tuple[str, ...]
    """Hosts that the run file itself names; only they may be private, see :func:`named_hosts`."""
    local_source: bool
    """The catalog is on this machine and may name its files."""

    def checked(self, href: str, what: str) -> str:
        """An absolute href, accepted; see :func:`checked`."""
        return checked(
            href,
            schemes=self.schemes,
            roots=self.roots,
            local_source=self.local_source,
            what=what,
            hosts=self.hosts,
        )

    def check(self, url: str) -> None:
        """See :class:`Door`."""
        _web(url)
        self.checked(url, "a request")

    def check_address(self, host: str, address: str) -> None:
        """See :class:`Door`."""
        _check_address(host, address, self.hosts)


@dataclass(frozen=True)
class CatalogDoor:
    """For a catalog's own documents: the server that the run file names, and what is below its roots."""

    catalog: str
    """Address of the catalog, as the run file has it."""
    roots: tuple[str, ...] = ()

    def check(self, url: str) -> None:
        """See :class:`Door`."""
        target = _web(url)
        if local_path(self.catalog) is None and same_server(target, _split(self.catalog)):
            return
        if any(_under(url, root) for root in self.roots if local_path(root) is None):
            return
        raise HrefError(
            f"{shown(url)} is on another server than {shown(self.catalog)}; if it is meant, put its address into "
            "source.allowed_roots"
        )

    def check_address(self, host: str, address: str) -> None:
        """See :class:`Door`."""
        _check_address(host, address, named_hosts(self.catalog, self.roots))


def is_url(text: str) -> bool:
    """True for ``scheme://...``; a bare path is not a URL."""
    return "://" in text


def shown(href: str) -> str:
    """An href for messages: short, printable, without what may be secret (user, query, fragment)."""
    text = without_names(href.split("?")[0].split("#")[0])
    if is_url(text):
        scheme, _, rest = text.partition("://")
        authority, slash, path = rest.partition("/")
        text = f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"
    return repr(text[:200])


def local_path(href: str) -> Path | None:
    """The path of a ``file:`` URL or a bare path; None for any other scheme.

    Raises:
        HrefError: A ``file:`` URL of another host, or without an absolute path.
    """
    if href[:5].lower() == "file:":
        parts = _split(href)
        if parts.netloc.lower() not in ("", "localhost"):
            raise HrefError(f"href {shown(href)} names a file of another host")
        if not parts.path.startswith("/") or parts.query or parts.fragment:
            raise HrefError(f"href {shown(href)} is not a plain URL or path: file:///folder/name is")
        return Path(unquote(parts.path))
    return None if is_url(href) else Path(href)


def is_local_source(source: str) -> bool:
    """True if a catalog is a local file or a server on this machine, whose hrefs may name local files."""
    if local_path(source) is not None:
        return True
    return is_this_machine(host_name(_split(source)))


def named_hosts(catalog: str, roots: Iterable[str]) -> tuple[str, ...]:
    """The hosts that a run file names: its catalog's and its roots'. A name of this machine stands for all of them."""
    urls = [text for text in (catalog, *roots) if local_path(text) is None]
    hosts = {host_name(_split(url)) for url in urls if _split(url).scheme.lower() in WEB_SCHEMES}
    return tuple(sorted(hosts))


def resolve(href: str, base: str) -> str:
    """An href as an absolute URL or absolute local path, relative ones resolved against the document they stand in.

    Args:
        href: As written in the document.
        base: URL or path of the document.

    Raises:
        HrefError: It is neither a plain URL nor a plain path.
    """
    href = with_slashes(href)
    check_plain(href)
    if is_url(href) or href[:5].lower() == "file:":
        return href
    base_path = local_path(base)
    if base_path is None:
        parts = _split(base)
        # A password of the run file's address is sent to its server, and written into no href.
        base = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        try:
            return urljoin(base, href)
        except ValueError as error:
            raise HrefError(f"href {shown(href)} is not a plain URL or path: {error}") from error
    return str(_real_path(written_path(base_path.parent, href), href))


def check_plain(href: str) -> None:
    """Refuses what is not a plain URL or path: it might mean something else to whatever opens it.

    GDAL opens much more than files: ``/vsi…`` prefixes, inline XML, ``DRIVER:…`` names. None of it may hide, not even
    behind percent-encodings of percent-encodings.

    Raises:
        HrefError: The href is refused, and why.
    """

    def refuse(why: str) -> HrefError:
        return HrefError(f"href {shown(href)} is not a plain URL or path: {why}")

    if not href or len(href) > MAX_HREF_CHARS:
        raise refuse(f"it has {len(href)} characters")
    if _SCHEME.match(href) and not is_url(href) and href[:5].lower() != "file:":
        raise refuse("it begins with a scheme or driver but has no //")
    if href.startswith("//"):
        raise refuse("it names a host without a scheme")
    text = href
    for _ in range(MAX_DECODINGS):
        if not text.isprintable():
            raise refuse("it has unprintable characters")
        for character in '<>"\\':
            if character in text:
                raise refuse(f"it has a {character}")
        if _GDAL_PREFIX.search(text.split("?")[0]) or text.lower().startswith("/vsi"):
            raise refuse("it has a GDAL prefix")
        decoded = unquote(text, errors="replace")
        if decoded == text:
            return
        text = decoded
    raise refuse("it is encoded too often")


def checked(
    href: str,
    *,
    schemes: Sequence[str],
    roots: Sequence[str],
    local_source: bool,
    what: str,
    hosts: Collection[str] = (),
) -> str:
    """An absolute asset href, accepted or refused.

    Args:
        href: Absolute URL or path, see :func:`resolve`.
        schemes: Allowed schemes.
        roots: If any, URL prefixes or folders one of which must hold the href.
        local_source: The catalog itself is local. Only then may it name local files outside ``roots``: a remote
            catalog has no business with them.
        what: Item and asset, for the message.
        hosts: Hosts that the run file names beside those of ``roots``; others must be public.

    Returns:
        The URL, or the path of a local file.

    Raises:
        HrefError: The href is refused, and why.
    """
    try:
        return _accepted(href, schemes, roots, local_source, hosts)
    except HrefError as error:
        raise HrefError(f"{what}: {error}") from None


def _accepted(
    href: str, schemes: Sequence[str], roots: Sequence[str], local_source: bool, hosts: Collection[str]
) -> str:
    check_plain(href)
    path = local_path(href)
    scheme = "file" if path is not None else _split(href).scheme.lower()
    if scheme not in schemes:
        raise HrefError(f"scheme {scheme!r} of {shown(href)} is not among source.allowed_schemes")
    if path is not None:
        return _accepted_file(href, path, roots, local_source)
    parts = _split(href)
    if "@" in parts.netloc:
        raise HrefError(f"{shown(href)} holds a user name or password")
    if _climbs(parts.path):
        raise HrefError(f"href {shown(href)} climbs out of its folder")
    if scheme in BUCKET_SCHEMES:
        if not _BUCKET.fullmatch(parts.netloc):
            raise HrefError(f"{shown(href)} does not name a bucket")
    elif scheme in WEB_SCHEMES:
        named = {*hosts, *named_hosts("", roots)}
        if not _is_named(host_name(parts), named) and not is_public_name(host_name(parts)):
            raise HrefError(
                f"{shown(href)} is on a host of this machine or a private network, which the run file does not name; "
                "if that is meant, put its address into source.allowed_roots"
            )
    else:
        raise HrefError(f"scheme {scheme!r} of {shown(href)} cannot be read")
    if roots and not any(_under(href, root) for root in roots if local_path(root) is None):
        raise HrefError(f"{shown(href)} is outside source.allowed_roots")
    return href


def _accepted_file(href: str, path: Path, roots: Sequence[str], local_source: bool) -> str:
    if not path.is_absolute() and is_url(href):
        raise HrefError(f"href {shown(href)} is not an absolute path")
    resolved = _real_path(path, href)
    if roots and not is_inside(resolved, roots):
        raise HrefError(f"{shown(href)} is outside source.allowed_roots")
    if not roots and not local_source:
        raise HrefError(
            f"a remote catalog names the local file {shown(href)}; "
            "if that is meant, put its folder into source.allowed_roots"
        )
    return str(resolved)


def is_inside(resolved: Path, roots: Iterable[str]) -> bool:
    """True if a resolved path lies in one of the folders among ``roots``."""
    folders = [folder.resolve() for root in roots if (folder := local_path(root)) is not None]
    return any(resolved.is_relative_to(folder) for folder in folders)


def item_link(href: str | None, base: str | None) -> str | None:
    """The address of an item as it may be published: http, https or a bucket; None for any other.

    It becomes a link of the map's STAC item and of its report: a script, a file of this machine or a password has no
    place there.

    Args:
        href: As the item has it.
        base: URL or path of the document that holds the item.
    """
    if href is None:
        return None
    try:
        link = resolve(href, base) if base is not None else href
        check_plain(link)
        parts = _split(link)
        scheme = parts.scheme.lower() if is_url(link) else ""
        if "@" in parts.netloc or scheme not in (*WEB_SCHEMES, *BUCKET_SCHEMES) or not host_name(parts):
            return None
    except HrefError:  # an item without an address is as good a scene
        return None
    return public_address(link)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # parsed on use
    except ValueError as error:
        raise HrefError(f"href {shown(url)} is not a plain URL or path: {error}") from error
    return parts


def _web(url: str) -> SplitResult:
    parts = _split(url)
    if parts.scheme.lower() not in WEB_SCHEMES:
        raise HrefError(f"{shown(url)} is neither http nor https")
    return parts


def _real_path(path: Path, href: str) -> Path:
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, a name too long, a surrogate
        raise HrefError(f"href {shown(href)} is not a plain URL or path: {error}") from error
    if str(resolved).startswith(("/vsi", "//")):
        raise HrefError(f"href {shown(href)} is not a plain URL or path: it has a GDAL prefix")
    return resolved


def _climbs(path: str) -> bool:
    for _ in range(MAX_DECODINGS):
        if ".." in re.split(r"[/;]", path):
            return True
        path = unquote(path)
    return False


def _is_named(host: str, hosts: Collection[str]) -> bool:
    return host in hosts or (is_this_machine(host) and any(is_this_machine(named) for named in hosts))


def _check_address(host: str, address: str, hosts: Collection[str]) -> None:
    if not is_public_address(address) and not _is_named(host.lower().rstrip("."), hosts):
        raise HrefError(
            f"host {host!r} resolves to {address}, of this machine or a private network, which the run file does not "
            "name; if that is meant, put its address into source.allowed_roots"
        )


def _under(url: str, root: str) -> bool:
    a, b = _split(url), _split(root)
    if a.scheme.lower() != b.scheme.lower() or a.netloc.rpartition("@")[0]:
        return False
    if a.scheme.lower() in WEB_SCHEMES:
        if host_name(a) != host_name(b) or port_number(a) != port_number(b):
            return False
    elif a.netloc != b.netloc:
        return False
    if _climbs(a.path):
        return False
    folder = posixpath.normpath(b.path or "/").rstrip("/") + "/"
    return (posixpath.normpath(a.path or "/") + "/").startswith(folder)
