"""One request of a STAC search and its answer, or a refusal of a kind that says how to ask again.

Every request, redirect and connection passes a door. What may be due to the size of the page is not repeated here:
whoever asks asks for less.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any
from urllib.parse import urljoin

import requests
from urllib3.exceptions import NewConnectionError

from pipeline.errors import HrefError
from pipeline.sources import http
from pipeline.sources.hrefs import Door, shown

_LIMIT = re.compile(r"limit|page.?size|too (large|long|many|big)|max(imum)?\b|exceed|less than or equal", re.IGNORECASE)


class Kind(Enum):
    """What an unanswered request may be due to."""

    METHOD = auto()
    """There is nothing at that address for this method."""
    HEAVY = auto()
    """Perhaps the page was too large: gateway errors, timeouts, broken connections, answers cut short."""
    SLOW = auto()
    """As HEAVY, after a long wait."""
    LIMIT = auto()
    """The server says that the page is too large."""
    FIELDS = auto()
    """The server does not take one of the fields."""
    FINAL = auto()
    """Asking otherwise will not help."""


class Refusal(Exception):
    """A request without a usable answer."""

    def __init__(self, kind: Kind, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True)
class Ask:
    """One request."""

    url: str
    method: str
    """``GET`` or ``POST``."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The JSON body of a POST; the query of a GET, beside what its address holds."""

    @property
    def key(self) -> str:
        """Equal for equal requests."""
        return json.dumps([self.url, self.method, self.fields], sort_keys=True, default=str)


@dataclass(frozen=True)
class Page:
    """One page of items."""

    document: Mapping[str, Any]
    url: str
    """Where it came from in the end."""
    features: tuple[dict[str, Any], ...]
    length: int
    """Number of features, usable or not."""
    counted: int | None
    """Items that the server counts for the whole search, if it says."""


def get_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a POST as those of a GET."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, (list, tuple)) and all(isinstance(v, (str, int, float)) for v in value):
            flat[name] = ",".join(map(str, value))
        elif isinstance(value, (dict, list)):
            flat[name] = json.dumps(value)
        elif value is not None:
            flat[name] = value
    return flat


class ApiRequests:
    """Asks a STAC API, each request within the door."""

    def __init__(self, door: Door) -> None:
        policy = http.retry_policy()
        self._patient = http.session(door, policy)
        self._quick = http.session(door, policy.new(status_forcelist=(429,), read=False))
        self.count = 0
        """Requests so far."""

    def ask(self, ask: Ask, *, patient: bool = False) -> Page:
        """One page.

        Args:
            ask: What is asked.
            patient: Gateway errors and broken connections are waited out, as those of any document.

        Raises:
            Refusal: There is none.
        """
        self.count += 1
        session = self._patient if patient else self._quick
        try:
            with _sent(session, ask) as response:
                content = b"" if response.status_code in (204, 304) else response.content
                if not 200 <= response.status_code < 300:
                    raise _refused(response.status_code, ask, content)
                return _page(content, str(response.url), ask)
        except HrefError as error:
            raise Refusal(Kind.FINAL, str(error)) from error
        except requests.Timeout as error:
            kind = Kind.FINAL if isinstance(error, requests.ConnectTimeout) else Kind.SLOW
            raise Refusal(kind, f"{shown(ask.url)} does not answer in time") from error
        except requests.RequestException as error:
            reason = getattr(error.args[0], "reason", None) if error.args else None
            raise Refusal(_kind_of(error, reason), f"{shown(ask.url)}: {_plain(http.plain_reason(error))}") from error


def _sent(session: requests.Session, ask: Ask) -> requests.Response:
    if ask.method == "GET":
        return session.get(ask.url, params=get_fields(ask.fields), timeout=http.TIMEOUT_S, stream=True)
    url = ask.url
    for _ in range(http.MAX_REDIRECTS + 1):
        # Followed here: requests would turn a redirected POST into a GET that has lost its search.
        response = session.post(url, json=dict(ask.fields), timeout=http.TIMEOUT_S, stream=True, allow_redirects=False)
        target = session.get_redirect_target(response)
        if target is None:
            return response
        response.close()
        url = urljoin(url, target)
    raise requests.TooManyRedirects(f"{shown(ask.url)} is redirected more than {http.MAX_REDIRECTS} times")


def _kind_of(error: requests.RequestException, reason: object) -> Kind:
    if isinstance(error, (requests.exceptions.SSLError, requests.exceptions.ProxyError, requests.TooManyRedirects)):
        return Kind.FINAL
    if isinstance(error, ValueError):  # InvalidSchema, MissingSchema, InvalidURL: no address
        return Kind.FINAL
    # RetryError: asked to wait, again and again.
    if isinstance(reason, NewConnectionError) or isinstance(error, requests.exceptions.RetryError):
        return Kind.FINAL
    # A timeout in the middle of an answer is a ConnectionError to requests.
    return Kind.SLOW if "timed out" in str(error) else Kind.HEAVY


def _refused(status: int, ask: Ask, content: bytes) -> Refusal:
    words = _words(content)
    text = f"HTTP {status} at {shown(ask.url)}" + (f": {words}" if words else "")
    if status in (404, 410):
        return Refusal(
            Kind.METHOD, f"HTTP {status} at {shown(ask.url)}: there is nothing at that address; check source.url"
        )
    if status in (405, 501, 414, 415):
        return Refusal(Kind.METHOD, text)
    if status in (401, 403):
        kind = Kind.METHOD if status == 403 and ask.method == "POST" else Kind.FINAL
        return Refusal(kind, f"{text}; access is refused: check source.url and its user and password")
    if status == 413 or (status in (400, 422) and _LIMIT.search(words)):
        return Refusal(Kind.LIMIT, text)
    if status in (400, 422):
        return Refusal(Kind.FIELDS, text)
    return Refusal(Kind.HEAVY if status in http.RETRY_STATUS and status != 429 else Kind.FINAL, text)


def _page(content: bytes, url: str, ask: Ask) -> Page:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        what = "a web page (HTML)" if content.lstrip()[:1] == b"<" else "text that is not JSON or is cut short"
        raise Refusal(Kind.HEAVY, f"{shown(ask.url)} answers with {what}: {_plain(str(error))}") from error
    if not isinstance(document, dict):
        raise Refusal(Kind.FINAL, f"{shown(ask.url)} answers with something that is not a page of items")
    features = document.get("features", 0)
    if features is None:  # an empty list, as Go writes it
        features = []
    if not isinstance(features, list):
        said = _words(content)
        raise Refusal(
            Kind.FINAL, f"{shown(ask.url)} answers without a list of features" + (f": {said}" if said else "")
        )
    return Page(document, url, tuple(f for f in features if isinstance(f, dict)), len(features), _counted(document))


def _counted(document: Mapping[str, Any]) -> int | None:
    context = document.get("context")
    for value in (
        document.get("numberMatched"),
        context.get("matched") if isinstance(context, dict) else None,
        document.get("search:metadata", {}).get("matched")
        if isinstance(document.get("search:metadata"), dict)
        else None,
    ):
        if isinstance(value, str) and value.isdecimal() and len(value) < 16:
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None


def _words(content: bytes) -> str:
    """What an answer says for itself, in one line."""
    if content.lstrip()[:1] == b"<":
        return ""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict):
        for member in ("description", "detail", "message", "errorMessage", "title", "error", "code"):
            if document.get(member):
                value = document[member]
                return _plain(value if isinstance(value, str) else json.dumps(value))
        return ""
    return _plain(content[:400].decode("utf-8", "replace").strip())


def _plain(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text[:200])
