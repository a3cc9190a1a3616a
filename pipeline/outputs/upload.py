"""An output folder to a bucket or another folder: data first, the catalog last, and only what has changed.

What was sent is noted beside it (``.spex-published.json``, path → size and sha256), so that the next time nothing is
asked of the store but that list, and what left the folder leaves the bucket. Whatever else lies there is not touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import ConfigError, OutputError, UploadError
from pipeline.machine.addresses import public_address, without_secrets
from pipeline.machine.progress import Progress, size_text
from pipeline.outputs.assets import ASSETS, COG_TYPE, GEOJSON_TYPE, JSON_TYPE, PARQUET_TYPE
from pipeline.outputs.output_folder import (
    CATALOG_FILE,
    COLLECTION_FILE,
    PARQUET_FILE,
    REPORT_FILE,
    REPORT_FOLDER,
    VIEW_FOLDER,
    existing,
)
from pipeline.outputs.stac_catalog import catalog_lock
from pipeline.outputs.stac_containers import links_of
from pipeline.outputs.view_page import STRINGS_FOLDER

MANIFEST = ".spex-published.json"
_DATA, _ITEM, _CONTAINER, _ENTRY = range(4)
"""Order of sending: a reader that starts at the entry never follows a link to something that is not there yet."""
_PAGE_TYPES = {
    ".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".json": JSON_TYPE, ".txt": "text/plain",
}  # fmt: skip
_TYPES = _PAGE_TYPES | {Path(kind.file).suffix: kind.media_type for kind in ASSETS.values()} | {
    ".tif": COG_TYPE, ".json": JSON_TYPE, ".parquet": PARQUET_TYPE, ".xml": "application/xml",
}  # fmt: skip


@dataclass(frozen=True)
class Uploaded:
    """What was done."""

    sent: tuple[str, ...]
    unchanged: int
    removed: tuple[str, ...]
    bytes: int


@dataclass(frozen=True)
class _File:
    name: str
    """From the output folder."""
    rank: int
    size: int
    sha256: str
    content: bytes | None = None
    """Of documents, as they were when the list was made."""


def upload(output: Path, target: str, progress: Progress) -> Uploaded:
    """Sends a published folder where others can read it.

    Args:
        output: An output folder with a catalog.
        target: ``s3://bucket/prefix``, ``gs://``, ``az://`` (credentials from the environment, as their own tools take
            them), ``file:///folder`` or a path.
        progress: Advanced with each file.

    Raises:
        ConfigError: The target cannot be used.
        OutputError: The folder holds no catalog, or a file cannot be read.
        UploadError: The target does not take a file.
    """
    store = _Target(target)
    with catalog_lock(output):  # no run renews a document while they are read
        files = sorted(_published(output), key=lambda file: (file.rank, file.name))
    before = store.manifest()
    changed = [file for file in files if before.get(file.name) != [file.size, file.sha256]]
    progress.start("sending", len(changed), "files")
    noted = dict(before)
    for rank in range(_ENTRY + 1):
        for file in (file for file in changed if file.rank == rank):
            store.put(file.name, output / file.name if file.content is None else file.content)
            noted[file.name] = [file.size, file.sha256]
            progress.advance()
        if rank == _DATA and changed:
            store.write_manifest(noted)  # the large files are not sent again if the rest is interrupted
    there = {file.name for file in files}
    gone = tuple(sorted(name for name in before if name not in there))
    for name in gone:
        store.delete(name)
        del noted[name]
    if changed or gone:
        store.write_manifest(noted)
    size = sum(file.size for file in changed)
    progress.say(
        f"{len(changed)} files ({size_text(size)}) sent to {store.name}, {len(files) - len(changed)} unchanged"
    )
    return Uploaded(tuple(file.name for file in changed), len(files) - len(changed), gone, size)


class _Target:
    """Where files go; errors of its library become ours, without what is secret in them."""

    def __init__(self, target: str) -> None:
        try:
            import obstore
            from obstore.store import from_url
        except ImportError:
            raise ConfigError("spex publish needs obstore: pip install 'spex-landcover[publish]'") from None
        self._obstore: Any = obstore
        self.name = public_address(target)
        url = target if "://" in target else Path(target).resolve().as_uri()
        scheme = urlsplit(url).scheme
        if scheme not in ("s3", "gs", "az", "file"):
            raise ConfigError(f"{self.name} cannot be published to: s3://, gs://, az://, file:// or a folder can")
        self._local = scheme == "file"
        options: dict[str, Any] = {"mkdir": True} if self._local else {}
        if scheme == "s3" and os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
            options["client_options"] = {"allow_http": True}
        try:
            self._store: Any = from_url(url, **options)
        except Exception as error:  # obstore's own, of several kinds
            raise ConfigError(f"{self.name} cannot be published to: {_reason(error)}") from None

    def manifest(self) -> dict[str, Any]:
        """What was sent before; empty the first time."""
        try:
            content = bytes(self._obstore.get(self._store, MANIFEST).bytes())
        except FileNotFoundError:
            return {}
        except Exception as error:
            raise UploadError(f"{self.name} cannot be read: {_reason(error)}") from None
        try:
            listed = json.loads(content)
            return {str(name): [int(size), str(digest)] for name, (size, digest) in listed["files"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            return {}  # not ours, or damaged: everything is sent again, and nothing removed

    def write_manifest(self, files: dict[str, Any]) -> None:
        self.put(MANIFEST, json.dumps({"files": dict(sorted(files.items()))}).encode())

    def put(self, name: str, content: Path | bytes) -> None:
        options = {} if self._local else {"attributes": {"Content-Type": _media_type(name)}}
        try:
            self._obstore.put(self._store, name, content, **options)
        except Exception as error:
            raise UploadError(f"{name} cannot be sent to {self.name}: {_reason(error)}") from None

    def delete(self, name: str) -> None:
        try:
            self._obstore.delete(self._store, name)
        except FileNotFoundError:
            return
        except Exception as error:
            raise UploadError(f"{name} cannot be removed from {self.name}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return without_secrets(str(error).split("\n\nDebug source")[0].strip())


def _media_type(name: str) -> str:
    path = Path(name)
    if path.suffix == ".json" and path.stem == path.parent.name:
        return GEOJSON_TYPE
    return _TYPES.get(path.suffix, "application/octet-stream")


# --- what a folder publishes --------------------------------------------------------------------------------------


def _published(output: Path) -> Iterator[_File]:
    root = existing(output / CATALOG_FILE, "Catalog")
    if root is None:
        raise OutputError(f"{output} has no {CATALOG_FILE}: nothing is published there yet")
    yield _document(output, CATALOG_FILE, _ENTRY)
    if (output / REPORT_FOLDER / REPORT_FILE).is_file():
        yield _document(output, f"{REPORT_FOLDER}/{REPORT_FILE}", _CONTAINER)
    for path in sorted((output / VIEW_FOLDER).glob("*")) + sorted((output / VIEW_FOLDER / STRINGS_FOLDER).glob("*")):
        if path.suffix in _PAGE_TYPES and _is_regular(path):
            yield _document(output, path.relative_to(output).as_posix(), _CONTAINER)
    for name in sorted({child for link in links_of(root) if (child := _child(link)) is not None}):
        for file in (COLLECTION_FILE, PARQUET_FILE):
            if (output / name / file).is_file():
                yield _document(output, f"{name}/{file}", _CONTAINER)
        for item in _folders(output / name):
            for entry in _regular_files(item):
                relative = f"{name}/{item.name}/{entry.name}"
                if entry.name == f"{item.name}.json":
                    yield _document(output, relative, _ITEM)
                else:
                    yield _data(output, relative)


def _child(link: dict[str, Any]) -> str | None:
    parts = Path(str(link["href"])).parts
    whole = link.get("rel") == "child" and len(parts) == 2 and parts[1] == COLLECTION_FILE
    return parts[0] if whole and parts[0] not in ("..", "/") else None


def _folders(folder: Path) -> list[Path]:
    """Folders of items; links are not followed."""
    try:
        with os.scandir(folder) as entries:
            return sorted(folder / e.name for e in entries if e.is_dir(follow_symlinks=False) and e.name[0] != ".")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OutputError(f"{folder} cannot be listed: {error.strerror or error}") from error


def _regular_files(item: Path) -> list[Path]:
    """Files of an item that is listed; a folder without its item is not published yet."""
    if not (item / f"{item.name}.json").is_file():
        return []
    names = {kind.file for kind in ASSETS.values()} | {f"{item.name}.json", "landcover.tif.aux.xml"}
    return [item / name for name in sorted(names) if _is_regular(item / name)]


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _document(output: Path, name: str, rank: int) -> _File:
    try:
        content = (output / name).read_bytes()
    except OSError as error:
        raise OutputError(f"{output / name} cannot be read: {error.strerror or error}") from error
    return _File(name, rank, len(content), hashlib.sha256(content).hexdigest(), content)


def _data(output: Path, name: str) -> _File:
    path = output / name
    try:
        with path.open("rb") as stream:
            return _File(name, _DATA, path.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest())
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror or error}") from error
