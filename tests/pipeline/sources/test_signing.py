"""Which hrefs are signed when they are opened."""

from __future__ import annotations

from pipeline.sources.signing import NoSigner, PlanetaryComputerSigner, signer_for


def test_only_planetary_computer_hrefs_are_signed() -> None:
    assert isinstance(signer_for("planetary-computer"), PlanetaryComputerSigner)
    for provider in ("earth-search", "cdse", "generic"):
        assert isinstance(signer_for(provider), NoSigner)
    for href in ("https://example.test/B02.tif", "/data/B02.tif", "https://x.blob.core.windows.net/c/b.tif?se=1&sp=r"):
        assert PlanetaryComputerSigner().sign(href) == href
