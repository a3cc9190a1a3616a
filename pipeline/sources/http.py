"""HTTP for catalogs and rasters: every request, redirect and connection passes a door; timeouts, bounds and retries.

Retries back off and include POST (STAC searches), 429 and 5xx.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import _basic_auth_str
from requests.utils import get_auth_from_url
from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NameResolutionError
from urllib3.util import Retry

from pipeline.errors import HrefError
from pipeline.sources.hrefs import CatalogDoor, Door, shown

TIMEOUT_S = (10.0, 60.0)
"""Seconds to connect and between bytes."""
RETRIES = 5
RETRY_STATUS = (429, 500, 502, 503, 504)
MAX_RETRY_AFTER_S = 60
"""A server's ``Retry-After`` is honoured up to this many seconds."""
MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
"""Of one answer, after decompression."""
MAX_ANSWER_S = 600.0
"""An answer that is still coming after so long is given up."""
MAX_REDIRECTS = 8
USER_AGENT = "spex-landcover"


class AnswerTooLongError(requests.RequestException):
    """An answer is longer, or takes longer, than any catalog's document."""


class PatientRetry(Retry):
    """Retries every method, because a STAC search by POST changes nothing, and caps ``Retry-After``."""

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        """Seconds that the server asks to wait, at most ``MAX_RETRY_AFTER_S``."""
        try:
            seconds = super().get_retry_after(response)
        except Exception:  # an unreadable header must not end the run: fall back to the backoff
            return None
        return None if seconds is None else min(seconds, MAX_RETRY_AFTER_S)


def retry_policy(retries: int = RETRIES, backoff_s: float = 0.5) -> PatientRetry:
    """Retry rule for one request: ``retries`` more attempts, waiting ``backoff_s`` × 2ⁿ seconds and a little jitter."""
    return PatientRetry(
        total=retries,
        backoff_factor=backoff_s,
        backoff_max=30.0,
        backoff_jitter=0.1 * backoff_s,
        status_forcelist=RETRY_STATUS,
        allowed_methods=None,
        respect_retry_after_header=True,
        raise_on_status=False,
    )


class BoundedResponse(requests.Response):
    """An answer whose decoded body has an end: a few megabytes of gzip may hold gigabytes."""

    def iter_content(self, chunk_size: int | None = 1, decode_unicode: bool = False) -> Iterator[Any]:
        """As in requests.

        Raises:
            AnswerTooLongError: After ``MAX_DOCUMENT_BYTES`` or ``MAX_ANSWER_S``.
        """
        began, total = time.monotonic(), 0
        if "," in self.headers.get("Content-Encoding", ""):
            self.close()
            raise AnswerTooLongError(f"{shown(str(self.url))} answers with compression within compression")
        for chunk in super().iter_content(chunk_size, decode_unicode):
            total += len(chunk)
            if total > MAX_DOCUMENT_BYTES:
                self.close()
                raise AnswerTooLongError(f"{shown(str(self.url))} is longer than {MAX_DOCUMENT_BYTES >> 20} MiB")
            if time.monotonic() - began > MAX_ANSWER_S:
                self.close()
                raise AnswerTooLongError(f"{shown(str(self.url))} is still coming after {MAX_ANSWER_S:.0f} s")
            yield chunk


class _DoorAdapter(HTTPAdapter):
    """Asks the door before each request, redirects included, and before each connection."""

    def __init__(self, door: Door, retry: Retry) -> None:
        self._door = door
        super().__init__(max_retries=retry, pool_maxsize=32)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Connections that resolve a name once, check what it resolves to, and connect to just that."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _pools(self._door)

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        """As in requests.

        Raises:
            HrefError: The door does not let it pass.
        """
        url = str(request.url)
        self._door.check(url)
        if isinstance(self._door, CatalogDoor) and "Authorization" not in request.headers:
            user, password = get_auth_from_url(self._door.catalog)
            if user and urlsplit(url).netloc == urlsplit(self._door.catalog).netloc.rpartition("@")[2]:
                request.headers["Authorization"] = _basic_auth_str(user, password)
        return super().send(request, *args, **options)

    def build_response(self, request: requests.PreparedRequest, answer: BaseHTTPResponse) -> requests.Response:
        """As in requests, but bounded."""
        response = BoundedResponse()
        response.__dict__.update(super().build_response(request, answer).__dict__)
        return response


def _pools(door: Door) -> Mapping[str, Any]:
    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(self, door, super()._new_conn)

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(self, door, super()._new_conn)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def _connect(connection: Any, door: Door, new: Any) -> socket.socket:
    name: str = connection._dns_host
    try:
        found = socket.getaddrinfo(name.strip("[]"), connection.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NameResolutionError(connection.host, connection, socket.gaierror(str(error))) from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        door.check_address(name, address)
    failure: Exception | None = None
    try:
        for address in addresses:
            # Connected to by its number: asked again, the name could resolve to something else.
            connection._dns_host = address
            try:
                made: socket.socket = new()
                return made
            except Exception as error:  # the next address is tried; the last error is told
                failure = error
    finally:
        connection._dns_host = name
    raise failure or NameResolutionError(connection.host, connection, socket.gaierror("no address"))


class DoorSession(requests.Session):
    """A session behind a door; nothing is redirected from https to http."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """As in requests.

        Raises:
            HrefError: The redirect gives up encryption.
        """
        target = super().get_redirect_target(resp)
        if target is not None and str(resp.url).lower().startswith("https:") and target.lower().startswith("http:"):
            raise HrefError(f"{shown(str(resp.url))} is redirected from https to {shown(target)}")
        return target


def session(door: Door, retry: Retry | None = None) -> requests.Session:
    """A session whose every request passes a door and is retried, by default by :func:`retry_policy`."""
    http = DoorSession()
    adapter = _DoorAdapter(door, retry_policy() if retry is None else retry)
    http.mount("http://", adapter)
    http.mount("https://", adapter)
    http.max_redirects = MAX_REDIRECTS
    http.headers["User-Agent"] = USER_AGENT
    http.headers["Accept-Encoding"] = "gzip"
    return http


def get_content(http: requests.Session, url: str) -> bytes:
    """The document at a URL.

    Raises:
        requests.RequestException: No answer, an HTTP error after all retries, or an answer without end.
        HrefError: The address, or one that it redirects to, may not be opened.
    """
    with http.get(url, timeout=TIMEOUT_S, stream=True) as response:
        response.raise_for_status()
        return response.content


_CONNECTION = re.compile(r"^\w+\(host=[^)]*\): ")


def plain_reason(error: requests.RequestException) -> str:
    """What went wrong, without the layers of libraries that hand it on."""
    inner = getattr(error.args[0], "reason", None) if error.args else None
    return _CONNECTION.sub("", str(inner or error))


def get_json(http: requests.Session, url: str) -> Any:
    """The JSON document at a URL.

    Raises:
        requests.RequestException: See :func:`get_content`.
        HrefError: See :func:`get_content`.
        ValueError: Not JSON.
    """
    return json.loads(get_content(http, url))
