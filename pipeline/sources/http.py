"""HTTP for catalogs: timeouts, and retries with backoff that include POST (STAC searches), 429 and 5xx."""

from __future__ import annotations

import json
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse
from urllib3.util import Retry

TIMEOUT_S = (10.0, 60.0)
"""Seconds to connect and between bytes."""
RETRIES = 5
RETRY_STATUS = (429, 500, 502, 503, 504)
MAX_RETRY_AFTER_S = 60
"""A server's ``Retry-After`` is honoured up to this many seconds."""
MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
USER_AGENT = "spex-landcover"


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


def session(retries: int = RETRIES, backoff_s: float = 0.5) -> requests.Session:
    """A session whose every request is retried by :func:`retry_policy`."""
    http = requests.Session()
    adapter = HTTPAdapter(max_retries=retry_policy(retries, backoff_s))
    http.mount("http://", adapter)
    http.mount("https://", adapter)
    http.headers["User-Agent"] = USER_AGENT
    return http


def get_json(http: requests.Session, url: str) -> Any:
    """The JSON document at a URL.

    Raises:
        requests.RequestException: No answer, or an HTTP error after all retries.
        ValueError: Not JSON, or longer than ``MAX_DOCUMENT_BYTES``.
    """
    with http.get(url, timeout=TIMEOUT_S, stream=True) as response:
        response.raise_for_status()
        body = bytearray()
        for chunk in response.iter_content(1 << 16):
            body += chunk
            if len(body) > MAX_DOCUMENT_BYTES:
                raise ValueError(f"longer than {MAX_DOCUMENT_BYTES >> 20} MiB")
        return json.loads(body)
