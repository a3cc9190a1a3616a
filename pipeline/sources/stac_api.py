"""What pystac-client asks the network with: our own sessions, behind a door, with errors that say something."""

from __future__ import annotations

from typing import Any

import requests
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from urllib3.util import Retry

from pipeline.sources.hrefs import Door, is_url, shown
from pipeline.sources.http import TIMEOUT_S, session


class DoorStacIO(StacApiIO):
    """Requests of a STAC client, each within the door: the API's root, its search, its further pages."""

    def __init__(self, door: Door, retry: Retry) -> None:
        super().__init__(timeout=TIMEOUT_S, max_retries=None)
        self.session = session(door, retry)

    def read_text(self, source: Any, *args: Any, **kwargs: Any) -> str:
        """As in pystac-client, but never a file: an API's links are addresses.

        Raises:
            APIError: No answer, an error, or an address that may not be opened.
        """
        href = getattr(source, "href", source)
        if not is_url(str(href)):
            raise APIError(f"the API links {shown(str(href))}, which is no address")
        return str(super().read_text(source, *args, **kwargs))

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        """The text of an answer.

        Raises:
            APIError: No answer, an error, or an address that may not be opened; the message names the address.
        """
        try:
            return str(super().request(href, method, headers, parameters))
        except APIError as error:
            status = getattr(error, "status_code", None)
            if status is None:
                raise
            hint = "there is nothing at that address; check source.url" if status in (404, 410) else _plain(str(error))
            raise APIError(f"HTTP {status} at {shown(href)}: {hint}") from None
        except requests.RequestException as error:
            raise APIError(str(error)) from error


def _plain(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text[:200]) or "no reason given"
