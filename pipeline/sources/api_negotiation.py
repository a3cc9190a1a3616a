"""How one server wants to be asked, learnt on the way: address and method, size of pages, with or without a filter."""

from __future__ import annotations

from dataclasses import replace

from pipeline.errors import CatalogError
from pipeline.sources.api_address import Api, Endpoint
from pipeline.sources.api_paging import Question, next_ask, turned
from pipeline.sources.api_requests import ApiRequests, Ask, Kind, Page, Refusal
from pipeline.sources.hrefs import Door

PAGE_SIZE = 100
"""Items asked for in one page, at first."""
MAX_REQUESTS = 20_000
"""Of one search; guards against servers without end."""


class Negotiation:
    """Asks for pages, and asks otherwise where a server refuses."""

    def __init__(self, api: Api, door: Door, collection: str | None, max_cloud_cover: float) -> None:
        self.size = PAGE_SIZE
        self.cloud_filter = ""
        """``query`` or ``filter``, the extension by which cloudy items are left out; ``""`` where it is not used."""
        if max_cloud_cover < 100.0:
            self.cloud_filter = next((part for part in ("query", "filter") if api.conforms_to(part)), "")
        self.notes: list[str] = []
        """What had to be asked otherwise, for the user."""
        self._requests = ApiRequests(door)
        self._ways = [(endpoint, method) for endpoint in api.endpoints(collection) for method in endpoint.methods]
        self._heard: list[tuple[Endpoint, str]] = []
        """Ways that were refused for what was asked, without a word of why."""
        self._answered = False
        self._suspect: int | None = None
        """A page size that failed once, perhaps for another reason."""
        self._patient = False

    def first_page(self, question: Question) -> tuple[Page, Ask]:
        """The first page of a search, and the request that brought it.

        Raises:
            Refusal: Whatever was tried; the most telling one.
        """
        telling: Refusal | None = None
        while True:
            question = replace(question, cloud_filter=self.cloud_filter)
            ask = question.ask(*self._ways[0], self.size)
            try:
                page = self.ask(ask, patient=self._patient)
            except Refusal as refusal:
                if telling is None or refusal.kind is not Kind.METHOD:
                    telling = refusal
                if not self._gives_way(refusal):
                    raise telling from refusal
                continue
            self._answered, self._patient = True, False
            return self._larger(page, ask, question)

    def further_page(self, ask: Ask, first: Ask) -> Page:
        """A page that another one links; asked for a second time where that may help.

        Raises:
            Refusal: There is none.
        """
        try:
            return self.ask(ask)
        except Refusal as refusal:
            if refusal.kind is Kind.METHOD:
                return self.ask(turned(ask, first))
            if refusal.kind in (Kind.FINAL, Kind.LIMIT):
                raise
            return self.ask(ask, patient=refusal.kind is Kind.HEAVY and self.size == 1)

    def small_page(self, question: Question, size: int) -> tuple[Page, Ask]:
        """A first page of at most ``size`` items, without the cloud filter, and the request that brought it.

        Raises:
            Refusal: There is none.
        """
        ask = replace(question, cloud_filter="").ask(*self._ways[0], min(size, self.size))
        return self.ask(ask), ask

    def ask(self, ask: Ask, *, patient: bool = False) -> Page:
        """One request, counted.

        Raises:
            Refusal: There is no answer.
            CatalogError: These were too many.
        """
        if self._requests.count >= MAX_REQUESTS:
            raise CatalogError(
                f"the STAC search needs more than {MAX_REQUESTS} requests; narrow the dates or the region"
            )
        return self._requests.ask(ask, patient=patient)

    def halve(self, refusal: Refusal) -> bool:
        """Asks for smaller pages from here on; False if they cannot be smaller, or that would not help."""
        if self.size == 1 or refusal.kind not in (Kind.HEAVY, Kind.SLOW, Kind.LIMIT):
            return False
        self._suspect = None
        # A refusal that comes after a minute is not waited for seven times.
        self.size = max(1, self.size // (4 if refusal.kind is Kind.SLOW else 2))
        return True

    def _gives_way(self, refusal: Refusal) -> bool:
        """Changes how the first page is asked for; False if nothing is left to change."""
        if refusal.kind is Kind.FINAL:
            return False
        if refusal.kind is Kind.METHOD:
            return self._other_way()
        size = self.size
        if self.halve(refusal):
            self._suspect = size if refusal.kind is Kind.HEAVY else None
            return True
        if self.cloud_filter:
            self.cloud_filter, self.size, self._suspect = "", PAGE_SIZE, None
            self.notes.append("the server refuses the cloud filter, and was asked without it")
            return True
        if refusal.kind is Kind.FIELDS:
            return self._other_way(heard=True)
        if refusal.kind is not Kind.LIMIT and not self._patient:
            self._patient = True
            return True
        return False

    def _other_way(self, heard: bool = False) -> bool:
        """Goes on to the next address and method; ``heard``: this one answers, but not what it is asked."""
        if self._answered:
            return False
        way = self._ways.pop(0)
        if heard:
            self._heard.append(way)
        if not self._ways and self.size > 1:
            # Some do not say that it is the size of the page.
            self._ways, self._heard, self.size = self._heard, [], 10 if self.size > 10 else 1
        if self._ways:
            return True
        self._ways = [way]
        return False

    def _larger(self, page: Page, ask: Ask, question: Question) -> tuple[Page, Ask]:
        """Tries the size that failed once more, before very many small pages are read: it may have been bad luck."""
        while self._suspect is not None and next_ask(page, ask) is not None:
            small, self.size = self.size, self._suspect
            larger = question.ask(*self._ways[0], self.size)
            try:
                page, ask = self.ask(larger), larger
            except Refusal:
                self.size, self._suspect = small, None
                break
            self._suspect = min(2 * self.size, PAGE_SIZE) if self.size < PAGE_SIZE else None
        return page, ask
