"""Validation of written STAC objects against recorded schemas; never the internet.

Core schemas (item, catalog, collection, GeoJSON) are those that pystac ships; those of extensions lie in
``tests/schemas``.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator
from pystac.validation.local_validator import get_local_schema_cache
from referencing import Registry, Resource

_FOLDER = Path(__file__).parent / "schemas" / "stac"
_BASE = "https://stac-extensions.github.io"
_CORE = {"Feature": "item", "Catalog": "catalog", "Collection": "collection"}

# Types of the raster extension 1.1 (its README), the only part of it that the mlm schema refers to.
_DATA_TYPES = [
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
    "cint16", "cint32", "cfloat32", "cfloat64", "other",
]  # fmt: skip


@lru_cache(maxsize=1)
def _schemas() -> dict[str, Any]:
    schemas: dict[str, Any] = dict(get_local_schema_cache())
    for path in sorted(_FOLDER.glob("*/*/schema.json")):
        extension, version = path.parts[-3:-1]
        schemas[f"{_BASE}/{extension}/{version}/schema.json"] = json.loads(path.read_text(encoding="utf-8"))
    # classification 2.0.0 moved the schema's home and added count and percentage; the fields written here stand.
    v1, v2 = (f"{_BASE}/classification/v{v}/schema.json" for v in ("1.1.0", "2.0.0"))
    schemas[v2] = json.loads(json.dumps(schemas[v1]).replace("classification/v1.1.0", "classification/v2.0.0"))
    # projection 1.2.0 is 2.0.0 with the older name of the code beside the newer one.
    p1, p2 = (f"{_BASE}/projection/v{v}/schema.json" for v in ("1.2.0", "2.0.0"))
    schemas[p1] = json.loads(json.dumps(schemas[p2]).replace("projection/v2.0.0", "projection/v1.2.0"))
    schemas[p1]["definitions"]["fields"]["properties"]["proj:epsg"] = {"type": ["integer", "null"]}
    # Of scientific 1.0.0, what is written here.
    cited = {"properties": {"sci:citation": {"type": "string"}}}
    schemas[f"{_BASE}/scientific/v1.0.0/schema.json"] = {
        "anyOf": [
            {**cited, "required": ["sci:citation"]},
            {"properties": {"properties": {**cited, "required": ["sci:citation"]}}, "required": ["properties"]},
        ]
    }
    # What mlm 1.5.2 and projection 2.0.0 refer to and is not recorded.
    data_type = {"bands": {"items": {"properties": {"data_type": {"enum": _DATA_TYPES}}}}}
    schemas[f"{_BASE}/raster/v1.1.0/schema.json"] = {"definitions": data_type}
    schemas[f"{_BASE}/processing/v1.1.0/schema.json"] = schemas[f"{_BASE}/processing/v1.2.0/schema.json"]
    schemas["https://proj.org/schemas/v0.7/projjson.schema.json"] = {}
    return schemas


@lru_cache(maxsize=1)
def _registry() -> Registry[Any]:
    def contents(schema: dict[str, Any], uri: str) -> dict[str, Any]:
        # Some $id end in "#", some name another version: the address decides.
        return {"$schema": "http://json-schema.org/draft-07/schema#", **schema, "$id": uri}

    return Registry().with_resources(
        [(uri, Resource.from_contents(contents(schema, uri))) for uri, schema in _schemas().items()]
    )


def problems(stac: dict[str, Any]) -> list[str]:
    """Every violation of the core schema and of each schema in ``stac_extensions``; empty when valid."""
    core = _CORE[stac["type"]]
    uris = [f"https://schemas.stacspec.org/v{stac['stac_version']}/{core}-spec/json-schema/{core}.json"]
    found = []
    for uri in uris + list(stac.get("stac_extensions", [])):
        if uri not in _schemas():
            found.append(f"no recorded schema for {uri}")
            continue
        validator = Draft7Validator({"$ref": uri}, registry=_registry())
        for error in validator.iter_errors(stac):
            details = [e.message for e in error.context or []]
            found.append(f"{uri} at {'/'.join(map(str, error.absolute_path))}: {error.message[:300]} {details[:5]}")
    return found
