"""Walks a static STAC catalog (JSON files over HTTP or on disk) into plain item dicts, one malformed file at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import requests

from pipeline.errors import CatalogAddressError, CatalogError, HrefError, NoCatalogError
from pipeline.sources import hrefs
from pipeline.sources.http import MAX_DOCUMENT_BYTES, get_content, plain_reason
from pipeline.sources.json_documents import parse_document
from pipeline.sources.local_files import catalog_file

MAX_DOCUMENTS = 200_000
"""Most files read in one walk; guards against catalogs without end."""
_FOLLOWED = ("child", "item", "items")
"""Links of a catalog or collection that lead to items."""


def located(location: str) -> str:
    """The address of the document itself, of which the run file or a link may give the folder.

    Raises:
        HrefError: It is neither a plain URL nor a plain path.
    """
    path = hrefs.local_path(location)
    if path is not None:
        return str(catalog_file(path))
    parts = urlsplit(location)
    path_text = parts.path.rstrip("/")
    return parts._replace(path=path_text).geturl() if path_text.endswith((".json", ".geojson")) else location


def read_document(location: str, http: requests.Session) -> Any:
    """One JSON document from a URL, a ``file:`` URL or a path; items line by line become an item collection.

    Raises:
        NoCatalogError: There is nothing at that place.
        CatalogError: It cannot be read, may not be read, or is not JSON.
    """
    name = hrefs.shown(location).strip("'\"")
    try:
        path = hrefs.local_path(located(location))
        if path is None:
            return parse_document(get_content(http, located(location)), name)
        if path.exists() and not path.is_file():
            raise NoCatalogError(
                f"{name} is not a file and holds no catalog.json: source.url is the address of a catalog.json or of a "
                "STAC API"
            )
        if path.stat().st_size > MAX_DOCUMENT_BYTES:
            raise CatalogError(f"{name} is longer than {MAX_DOCUMENT_BYTES >> 20} MiB")
        return parse_document(path.read_bytes(), name)
    except requests.HTTPError as error:
        status = error.response.status_code
        text = f"{name} cannot be read: HTTP {status}"
        if status in (404, 410):
            raise NoCatalogError(f"{text}, there is nothing at that address; check source.url") from None
        if status in (401, 403):
            text += ", access is refused; check source.url and its user and password"
        raise CatalogError(text) from None
    except requests.RequestException as error:
        raise CatalogError(f"{name} cannot be read: {plain_reason(error)}") from error
    except HrefError as error:
        raise CatalogError(f"{name} may not be read: {error}") from error
    except FileNotFoundError:
        raise NoCatalogError(f"{name} cannot be read: there is no such file; check source.url") from None
    except OSError as error:
        raise CatalogError(f"{name} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # urlsplit, or a zero byte in a name
        raise CatalogError(f"{name} cannot be read: {error}") from error


def walk(
    root: Any, location: str, http: requests.Session, door: hrefs.Door, problems: list[tuple[str, str]]
) -> Iterator[tuple[dict[str, Any], str]]:
    """Yields every item below a catalog, collection, item collection or item, with the location it was read from.

    Args:
        root: The document at ``location``.
        location: Its URL or path; links are resolved against it.
        http: Session for remote documents.
        door: What the session may open; links that it does not let pass are told and not followed.
        problems: (location, reason) is appended for every document that could not be used.

    Raises:
        CatalogAddressError: The root is nothing of STAC, or one page of a search.
        CatalogError: More than ``MAX_DOCUMENTS`` documents.
    """
    _check_root(root, location)
    if _kind(root) in ("Catalog", "Collection") and not any(_linked(root, _FOLLOWED)):
        problems.append((location, f"{hrefs.shown(location)} links no {', '.join(_FOLLOWED[:-1])} or {_FOLLOWED[-1]}"))
    queue: deque[tuple[Any, str]] = deque([(root, location)])
    seen = {location}
    while queue:
        document, where = queue.popleft()
        if document is None:
            try:
                document = read_document(where, http)
            except CatalogError as error:
                problems.append((where, str(error)))
                continue
        if not isinstance(document, dict):
            problems.append((where, f"{where} is not a STAC object"))
            continue
        if _kind(document) == "Feature":
            yield document, where
        elif _kind(document) == "FeatureCollection":
            yield from ((feature, where) for feature in _features(document, where, problems))
        for target in _links(document, where, door, problems):
            if target not in seen:
                seen.add(target)
                if len(seen) > MAX_DOCUMENTS:
                    raise CatalogError(f"catalog {location} links more than {MAX_DOCUMENTS} documents")
                queue.append((None, target))


def _check_root(root: Any, location: str) -> None:
    name = hrefs.shown(location).strip("'\"")
    if not isinstance(root, dict) or (_kind(root) is None and "links" not in root):
        what = root.get("type") if isinstance(root, dict) else None
        raise CatalogAddressError(
            f"{name} is not a STAC catalog, collection, item or item collection"
            + (f" (its type is {str(what)[:40]!r})" if what is not None else "")
        )


def _kind(document: Mapping[str, Any]) -> str | None:
    """``Catalog``, ``Collection``, ``FeatureCollection`` or ``Feature``; by its members where it does not say."""
    kind = document.get("type")
    if kind in ("Catalog", "Collection", "FeatureCollection", "Feature"):
        return str(kind)
    if isinstance(document.get("features"), list):
        return "FeatureCollection"
    if "assets" in document and "properties" in document:
        return "Feature"
    return "Catalog" if "stac_version" in document else None


def _features(document: Mapping[str, Any], where: str, problems: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    features = document.get("features")
    features = features if isinstance(features, list) else []
    yield from (feature for feature in features if isinstance(feature, dict))
    counted = document.get("numberMatched")
    if (
        isinstance(counted, int)
        and counted > len(features)
        and not any(_linked(document, ("next", "prev", "previous")))
    ):
        problems.append(
            (where, f"holds {len(features)} of the {counted} items that it counts, without a link to the rest: it is "
             "one page of a search")
        )  # fmt: skip


def _linked(document: Mapping[str, Any], rels: tuple[str, ...]) -> Iterator[Mapping[str, Any]]:
    links = document.get("links")
    for link in links if isinstance(links, list) else ():
        if isinstance(link, dict) and link.get("rel") in rels and isinstance(link.get("href"), str) and link["href"]:
            yield link


def _links(document: dict[str, Any], where: str, door: hrefs.Door, problems: list[tuple[str, str]]) -> Iterator[str]:
    followed = {"Feature": (), "FeatureCollection": ("next",)}.get(str(_kind(document)), _FOLLOWED)
    for link in _linked(document, followed):
        if str(link.get("method") or "GET").upper() != "GET":
            raise CatalogAddressError(
                f"{hrefs.shown(where)} is one page of a search, whose next page is asked for by {link['method']}: put "
                "the root of the STAC API into source.url"
            )
        try:
            target = hrefs.resolve(link["href"], where)
            if hrefs.local_path(target) is None:
                door.check(target)
            elif hrefs.local_path(where) is None:
                raise HrefError(f"a remote catalog links the local file {hrefs.shown(link['href'])}")
            target = located(target)
        except HrefError as error:
            problems.append((where, f"a {link['rel']} link of {hrefs.shown(where)} is not followed: {error}"))
        else:
            yield target
