"""Published items without pixels, for tests of the catalog around them."""

from __future__ import annotations

from pathlib import Path

from pipeline.outputs.stac_catalog import CatalogFiles, publish
from pipeline.outputs.stac_item import MapProduct, item_folder, map_item
from tests.pipeline.outputs.test_stac_item import LEGEND, product

__all__ = ["COLLECTION", "product", "write_items"]

COLLECTION = "spex-landcover"


def write_items(output: Path, *products: MapProduct) -> CatalogFiles:
    """Publishes items whose files are there and hold next to nothing."""
    items = []
    for made in products:
        folder = item_folder(output, COLLECTION, made.item_id)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("landcover.tif", "landcover.tif.aux.xml", "explanations.md", "thumbnail.png"):
            (folder / name).write_text(name)
        items.append(map_item(made, folder, COLLECTION))
    return publish(output, COLLECTION, items, LEGEND)
