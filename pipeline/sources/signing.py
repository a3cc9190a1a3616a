"""Turns a stored href into one that can be opened now: signatures expire in about an hour, so none is stored."""

from __future__ import annotations

from typing import Protocol

from pipeline.errors import ReadError
from pipeline.machine.addresses import without_secrets


class Signer(Protocol):
    """Signs an href at the moment it is opened."""

    def sign(self, href: str) -> str:
        """The href to open.

        Raises:
            ReadError: The signing service does not answer.
        """
        ...


class NoSigner:
    """Opens hrefs as they are."""

    def sign(self, href: str) -> str:
        """The href itself."""
        return href


class PlanetaryComputerSigner:
    """Adds a shared access signature to Azure blob hrefs; other hrefs pass unchanged.

    The ``planetary-computer`` package caches tokens per container and renews them shortly before they expire.
    """

    def sign(self, href: str) -> str:
        """The signed href."""
        # Imported on use: the package reads settings from the environment and home folder.
        import planetary_computer

        try:
            return str(planetary_computer.sign_url(href))
        except Exception as error:  # network, HTTP status or a malformed answer of the signing service
            raise ReadError(
                f"{href} could not be signed by Planetary Computer: {without_secrets(str(error))}"
            ) from error


def signer_for(provider: str) -> Signer:
    """The signer that a provider's assets need."""
    return PlanetaryComputerSigner() if provider == "planetary-computer" else NoSigner()
