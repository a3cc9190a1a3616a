"""Walks a static STAC catalog (JSON files over HTTP or on disk) into plain item dicts, one malformed file at a time."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from pipeline.errors import CatalogError, HrefError, NoCatalogError
from pipeline.sources import hrefs
from pipeline.sources.http import MAX_DOCUMENT_BYTES, get_json

MAX_DOCUMENTS = 200_000
"""Most files read in one walk; guards against catalogs without end."""


def read_document(location: str, http: requests.Session) -> Any:
    """One JSON document from a URL, a ``file:`` URL or a path.

    Raises:
        NoCatalogError: There is nothing at that place.
        CatalogError: It cannot be read, may not be read, or is not JSON.
    """
    name = hrefs.shown(location).strip("'\"")
    try:
        path = hrefs.local_path(location)
        if path is None:
            return get_json(http, location)
        if path.exists() and not path.is_file():
            raise NoCatalogError(f"{name} is not a file: source.url is the address of a catalog.json or of a STAC API")
        if path.stat().st_size > MAX_DOCUMENT_BYTES:
            raise CatalogError(f"{name} is longer than {MAX_DOCUMENT_BYTES >> 20} MiB")
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except requests.HTTPError as error:
        status = error.response.status_code
        text = f"{name} cannot be read: HTTP {status}"
        if status in (404, 410):
            raise NoCatalogError(f"{text}, there is nothing at that address; check source.url") from None
        if status in (401, 403):
            text += ", access is refused; check source.url and its user and password"
        raise CatalogError(text) from None
    except requests.RequestException as error:
        raise CatalogError(f"{name} cannot be read: {error}") from error
    except HrefError as error:
        raise CatalogError(f"{name} may not be read: {error}") from error
    except FileNotFoundError:
        raise NoCatalogError(f"{name} cannot be read: there is no such file; check source.url") from None
    except OSError as error:
        raise CatalogError(f"{name} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CatalogError(f"{name} is not JSON: {error}") from error


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
        CatalogError: More than ``MAX_DOCUMENTS`` documents.
    """
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
        if document.get("type") == "Feature":
            yield document, where
        elif document.get("type") == "FeatureCollection":
            features = document.get("features")
            yield from ((f, where) for f in (features if isinstance(features, list) else ()) if isinstance(f, dict))
        for target in _links(document, where, door, problems):
            if target not in seen:
                seen.add(target)
                if len(seen) > MAX_DOCUMENTS:
                    raise CatalogError(f"catalog {location} links more than {MAX_DOCUMENTS} documents")
                queue.append((None, target))


def _links(document: dict[str, Any], where: str, door: hrefs.Door, problems: list[tuple[str, str]]) -> Iterator[str]:
    followed = {"Feature": (), "FeatureCollection": ("next",)}.get(
        str(document.get("type")), ("child", "item", "items")
    )
    links = document.get("links")
    for link in links if isinstance(links, list) else ():
        if not isinstance(link, dict) or link.get("rel") not in followed:
            continue
        href = link.get("href")
        if not isinstance(href, str) or not href:
            continue
        try:
            target = hrefs.resolve(href, where)
            if hrefs.local_path(target) is None:
                door.check(target)
            elif hrefs.local_path(where) is None:
                raise HrefError(f"a remote catalog links the local file {hrefs.shown(href)}")
        except HrefError as error:
            problems.append((where, f"a {link['rel']} link of {hrefs.shown(where)} is not followed: {error}"))
        else:
            yield target
