"""Who publishes a map, under which terms, and how it is cited: from the run file into item and collection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.settings.publishing import OutputConfig

COPERNICUS = {
    "name": "European Union/ESA/Copernicus",
    "description": "Contains modified Copernicus Sentinel data",
    "roles": ["licensor"],
    "url": "https://dataspace.copernicus.eu",
}
SCIENTIFIC = "https://stac-extensions.github.io/scientific/v1.0.0/schema.json"


@dataclass(frozen=True)
class Imprint:
    """What a catalog says of its publisher."""

    license: str | None = None
    """SPDX identifier; ``None``: not said."""
    providers: tuple[dict[str, Any], ...] = ()
    citation: str | None = None
    url: str | None = None
    """Where the output folder will be found; no slash at the end."""

    @classmethod
    def of(cls, config: OutputConfig) -> Imprint:
        """From the run file."""
        providers = tuple(entry.model_dump(mode="json", exclude_none=True) for entry in config.providers)
        url = None if config.url is None else config.url.rstrip("/")
        return cls(config.license, providers, config.citation, url)

    def fields(self) -> dict[str, Any]:
        """License, providers and citation of an item or a collection, as far as the run file says."""
        fields: dict[str, Any] = {}
        if self.license is not None:
            fields["license"] = self.license
        if self.providers:
            fields["providers"] = [*self.providers, COPERNICUS]
        if self.citation is not None:
            fields["sci:citation"] = self.citation
        return fields

    def extensions(self) -> list[str]:
        """What the fields need."""
        return [SCIENTIFIC] if self.citation is not None else []

    def self_link(self, path: str, media_type: str, title: str) -> list[dict[str, Any]]:
        """The link of a document to itself, which has to be absolute: only where the run file says the address.

        Args:
            path: Of the document in the output folder.
            media_type: Its type.
            title: Of what it describes.
        """
        if self.url is None:
            return []
        return [{"rel": "self", "href": f"{self.url}/{path}", "type": media_type, "title": title}]
