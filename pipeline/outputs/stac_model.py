"""The model that made a map as a STAC item (mlm extension 1.5.2), in a collection of its own beside the maps."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from dataclasses import dataclass
from typing import Any

from pipeline.outputs.assets import GEOJSON_TYPE, JSON_TYPE
from pipeline.outputs.stac_item import (
    CATALOG_FROM_ITEM,
    CATALOG_TITLE,
    EXTENSIONS,
    STAC_VERSION,
    classes,
    timestamp,
)
from spex_core.bands import BANDS, SENTINEL2_BANDS
from spex_core.legend import Legend

MODELS_TITLE = "Models of the land-cover maps"
PUBLISHED_ARCHITECTURE = (
    "SPEX as published, on true colour of 512 px and attributes of all bands: InternImage, Qwen2, SAM mask decoder"
)
PAPER = "https://doi.org/10.1109/TGRS.2026.3670308"
_EVER = ("2015-06-23T00:00:00Z", "2099-12-31T23:59:59Z")  # from the launch of Sentinel-2A on: when it applies


@dataclass(frozen=True)
class ModelCard:
    """What a catalog says about a model."""

    name: str
    """Checkpoint name, e.g. ``"spex-s2-tiny"``."""
    fingerprint: str
    """Identity of weights and settings, as in the plan."""
    legend: Legend
    tile_px: int
    framework_version: str
    """Version of torch."""
    created: dt.datetime
    architecture: str = "SPEX: four-stage multispectral encoder, causal language model, mask decoder"

    @property
    def short(self) -> str:
        """Eight hex digits of the fingerprint."""
        return hashlib.sha256(self.fingerprint.encode()).hexdigest()[:8]

    @property
    def item_id(self) -> str:
        """Id of the model's item; another fingerprint or legend is another item."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", self.name).strip("-._")[:80] or "model"
        return f"{name}_{re.sub(r'[^A-Za-z0-9-]+', '-', self.legend.name)[:60]}_{self.short}"

    @property
    def mlm_name(self) -> str:
        """Name within what ``mlm:name`` allows."""
        name = re.sub(r"[^A-Za-z0-9_.\- ]+", "-", self.name).strip("-_. ")
        return name if re.fullmatch(r"[A-Za-z].+", name) and len(name) > 2 else f"model-{name or self.short}"


def models_collection_id(collection_id: str) -> str:
    """Collection that holds the models of a collection of maps."""
    return f"{collection_id}-models"


def model_link(card: ModelCard, collection_id: str) -> dict[str, Any]:
    """The link from a map item to its model."""
    return {
        "rel": "derived_from",
        "href": f"../../{models_collection_id(collection_id)}/{card.item_id}/{card.item_id}.json",
        "type": GEOJSON_TYPE,
        "title": f"Model {card.name}",
        "mlm:name": card.mlm_name,
    }


def model_item(card: ModelCard, collection_id: str) -> dict[str, Any]:
    """The item of a model; it has no place on Earth, so its geometry is null.

    Args:
        card: The model.
        collection_id: The collection of the maps.
    """
    properties: dict[str, Any] = {
        "title": f"SPEX checkpoint {card.name}",
        "description": f"Maps Sentinel-2 surface reflectance to {card.legend.title}.",
        "datetime": None,
        "start_datetime": _EVER[0],
        "end_datetime": _EVER[1],
        "created": timestamp(card.created),
        "bands": [
            {
                "name": band.name,
                "gsd": band.gsd_m,
                "eo:common_name": band.common_name,
                "eo:center_wavelength": round(band.wavelength_nm / 1000, 4),
            }
            for band in BANDS
        ],
        "mlm:name": card.mlm_name,
        "mlm:architecture": card.architecture,
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:framework": "PyTorch",
        "mlm:framework_version": card.framework_version,
        "mlm:pretrained": True,
        "mlm:input": [_input(card)],
        "mlm:output": [_output(card)],
        "spex:fingerprint": card.fingerprint,
    }
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [EXTENSIONS["mlm"], EXTENSIONS["eo"]],
        "id": card.item_id,
        "collection": models_collection_id(collection_id),
        "geometry": None,
        "properties": properties,
        "assets": {
            "model": {
                "href": f"urn:spex-landcover:checkpoint:{card.item_id}",
                "title": f"Weights of {card.name}",
                "type": "application/vnd.safetensors",
                "roles": ["mlm:model", "mlm:weights"],
                "mlm:artifact_type": "safetensors.torch.save_file",
                # STAC 1.1 allows bands in properties, where mlm wants them, only if an asset has bands too.
                "bands": [{"name": name} for name in SENTINEL2_BANDS],
            }
        },
        "links": [
            {"rel": "root", "href": CATALOG_FROM_ITEM, "type": JSON_TYPE, "title": CATALOG_TITLE},
            *(
                {"rel": rel, "href": "../collection.json", "type": JSON_TYPE, "title": MODELS_TITLE}
                for rel in ("parent", "collection")
            ),
            {"rel": "cite-as", "href": PAPER, "title": "SPEX, IEEE TGRS 2026"},
        ],
    }


def _input(card: ModelCard) -> dict[str, Any]:
    return {
        "name": "surface reflectance",
        "description": "Sentinel-2 L2A surface reflectance, 0..1 typical, on the 10 m grid",
        "bands": list(SENTINEL2_BANDS),
        "input": {
            "shape": [-1, len(SENTINEL2_BANDS), card.tile_px, card.tile_px],
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": "float32",
        },
        "value_scaling": None,
        "resize_type": None,
    }


def _output(card: ModelCard) -> dict[str, Any]:
    return {
        "name": "class scores",
        "description": "One score per legend class and pixel, softmax over classes",
        "tasks": ["semantic-segmentation"],
        "result": {
            "shape": [-1, len(card.legend), card.tile_px, card.tile_px],
            "dim_order": ["batch", "class", "height", "width"],
            "data_type": "float32",
        },
        "classification:classes": [c for c in classes(card.legend) if not c.get("nodata")],
        "post_processing_function": None,
    }
