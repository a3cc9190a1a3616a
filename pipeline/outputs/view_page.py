"""``view/``: one page for all maps of an output folder, which a browser draws from the files as they lie there.

Our own page is package data (``page/``), the map library comes from the installed package XStatic-Leaflet; both are
copied, so that the folder shows its maps from any static web space. ``maps.json`` lists the maps. Light on purpose:
``spex view`` starts with it.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import InstallationError, OutputError
from pipeline.machine.atomic_files import renew_bytes
from pipeline.machine.own_files import own_folder
from pipeline.outputs.output_folder import CATALOG_FILE, COLLECTION_FILE, VIEW_FOLDER, existing, read_object

MAPS_FILE = "maps.json"
STRINGS_FOLDER = "strings"
LIBRARY = "XStatic-Leaflet"
_LIBRARY_FILES = ("leaflet.js", "leaflet.css")
_LIBRARY_FOLDER = "xstatic/pkg/leaflet/data"
_FILE = re.compile(r"\./([A-Za-z0-9][A-Za-z0-9._-]*)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_SHOWN = {
    "landcover", "confidence", "truecolor", "scores", "explanations", "regions", "report", "thumbnail", "polygons",
}  # fmt: skip


def page_files() -> dict[str, bytes]:
    """Files of the page but ``maps.json``, by their path below ``view/``.

    Raises:
        InstallationError: The map library is not installed; the message says how to.
    """
    files = {"/".join(path): file.read_bytes() for path, file in _package_files(resources.files(__package__) / "page")}
    try:
        library = importlib.metadata.distribution(LIBRARY)
        for name in _LIBRARY_FILES:
            files[name] = Path(str(library.locate_file(f"{_LIBRARY_FOLDER}/{name}"))).read_bytes()
    except (importlib.metadata.PackageNotFoundError, OSError) as error:
        raise InstallationError(
            f"the page of the maps needs the package {LIBRARY}, which is not there as it should be ({error}): "
            f"pip install {LIBRARY}"
        ) from None
    return files


def _package_files(folder: Traversable) -> Iterator[tuple[tuple[str, ...], Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.is_dir():
            yield from (((entry.name, *path), file) for path, file in _package_files(entry))
        elif entry.name.endswith((".html", ".css", ".js", ".json", ".txt")):
            yield (entry.name,), entry


def write_page(output: Path, maps: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[Path, ...]:
    """Writes ``view/`` of an output folder; a file that would not change is not touched.

    Args:
        output: The output folder.
        maps: Collection id and item of each map.

    Returns:
        Its files. Those that a person added (another language) stay, and are listed.

    Raises:
        InstallationError: The map library is not installed.
        OutputError: The folder cannot be written.
    """
    folder = own_folder(output, VIEW_FOLDER)
    own_folder(output, VIEW_FOLDER, STRINGS_FOLDER)
    files = page_files()
    files[MAPS_FILE] = maps_json(maps, languages(output, files))
    for name, content in files.items():
        renew_bytes(folder / name, content)
    return tuple(folder / name for name in sorted(files))


def languages(output: Path, files: Iterable[str]) -> list[str]:
    """Languages of the page: its own, and those for which ``view/strings/`` of the folder has a file."""
    own = [name for name in files if name.startswith(f"{STRINGS_FOLDER}/")]
    added = [path.name for path in (output / VIEW_FOLDER / STRINGS_FOLDER).glob("*.json") if path.is_file()]
    found = {PurePosixPath(name).stem for name in (*own, *added)}
    return sorted(name for name in found if _LANGUAGE.fullmatch(name))


def maps_json(
    maps: Iterable[tuple[str, Mapping[str, Any]]], page_languages: Iterable[str], *, explains: bool = False
) -> bytes:
    """``maps.json``: what the page has to know of every map before it opens one.

    Args:
        maps: Collection id and item of each map; items may be anybody's, one without a class map is left out.
        page_languages: See :func:`languages`.
        explains: Whether the server gives reasons for a point.
    """
    entries = [entry for collection, item in maps if (entry := _entry(collection, item)) is not None]
    entries.sort(key=lambda e: (e["name"], e["crs"], e["start"], e["end"], e["folder"]))
    document = {"version": 1, "explains": explains, "languages": list(page_languages), "maps": entries}
    return (json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode()


def published_maps(output: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Collection id and item of every map that the catalog in a folder leads to; what cannot be read is left out.

    Raises:
        OutputError: The folder holds no catalog.
    """
    root = existing(output / CATALOG_FILE, "Catalog")
    if root is None:
        raise OutputError(f"{output} has no {CATALOG_FILE}: no map is published there; spex run FILE makes one")
    for child in _targets(root, "child"):
        if len(child) != 2 or child[1] != COLLECTION_FILE or child[0].endswith("-models"):
            continue
        collection = read_object(output / child[0] / COLLECTION_FILE) or {}
        for target in _targets(collection, "item"):
            item = read_object(output.joinpath(child[0], *target)) if len(target) == 2 else None
            if item is not None and item.get("type") == "Feature" and target[1] == f"{target[0]}.json":
                yield child[0], item


def _targets(document: Mapping[str, Any], rel: str) -> Iterator[tuple[str, ...]]:
    """Names of the relative links of a kind, each a safe name."""
    links = document.get("links")
    for link in links if isinstance(links, list) else []:
        if isinstance(link, dict) and link.get("rel") == rel:
            parts = PurePosixPath(str(link.get("href"))).parts
            if parts and all(_NAME.fullmatch(part) for part in parts):
                yield parts


def _entry(collection: str, item: Mapping[str, Any]) -> dict[str, Any] | None:
    properties, assets = _object(item.get("properties")), _object(item.get("assets"))
    hrefs = {key: _FILE.fullmatch(str(_object(assets.get(key)).get("href"))) for key in sorted(_SHOWN)}
    files = {key: found[1] for key, found in hrefs.items() if found}
    identity = str(item.get("id"))
    if "landcover" not in files or not _NAME.fullmatch(identity) or not _NAME.fullmatch(collection):
        return None
    return {
        "folder": f"{collection}/{identity}",
        "name": str(properties.get("spex:run_name") or properties.get("title") or identity),
        "title": str(properties.get("title") or identity),
        "start": str(properties.get("start_datetime") or properties.get("datetime") or "")[:10],
        "end": str(properties.get("end_datetime") or properties.get("datetime") or "")[:10],
        "crs": str(properties.get("proj:code") or ""),
        "run": str(properties.get("spex:run_id") or ""),
        "classes": _classes(_object(assets["landcover"]).get("classification:classes")),
        "observed": _share(properties.get("spex:observed_share")),
        "confidence": _share(properties.get("spex:mean_confidence")),
        "accuracy": _accuracy(properties.get("spex:accuracy")),
        "license": _text(properties.get("license")),
        "citation": _text(properties.get("sci:citation")),
        "providers": [str(p["name"]) for p in _objects(properties.get("providers")) if p.get("name")],
        "files": files,
    }


def _classes(found: Any) -> list[dict[str, Any]]:
    return [
        {
            "code": c["value"],
            "name": str(c.get("title") or c.get("name") or c["value"]),
            "color": f"#{c['color_hint']}" if re.fullmatch("[0-9A-Fa-f]{6}", str(c.get("color_hint"))) else "#808080",
            "count": c["count"] if isinstance(c.get("count"), int) else None,
        }
        for c in _objects(found)
        if not c.get("nodata") and isinstance(c.get("value"), int) and 0 <= c["value"] <= 255
    ]


def _accuracy(found: Any) -> dict[str, Any] | None:
    measured = _object(found)
    overall = _share(measured.get("overall"))
    return None if overall is None else {"overall": overall, "reference": str(measured.get("reference") or "")}


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _share(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 <= value <= 1 else None


def _text(value: Any) -> str | None:
    return str(value) if value else None
