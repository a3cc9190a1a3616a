"""How fast a run goes, how busy each station is, and which one limits. For people: nothing depends on it."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.machine.progress import duration_text

TELL_EVERY_S = 300.0
BUSY = 0.85
"""A station that is busy for so much of the time is the one that limits."""


@dataclass(frozen=True)
class AtWork:
    """Who is at work at a moment."""

    actors: int = 0
    readings: int = 0
    writings: int = 0
    crew: int = 0
    """Model actors that there are; 0: as many as there are to be."""


@dataclass
class Pace:
    """Sums up, over the time since the first tile was given to a model, who was at work.

    Args:
        actors: Model actors that there are to be.
        readers: Most blocks that are read, and most that are written, at a time.
    """

    actors: int
    readers: int
    began: float | None = None
    """First work of a model, seconds of the executor's clock."""
    pixels: int = 0
    """Of the blocks written since then."""
    _until: float = 0.0
    _told: float = 0.0
    _state: AtWork = field(default_factory=AtWork)
    _worked: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])
    """Seconds of actors at work, readings, writings, and of all actors."""

    def note(self, now: float, state: AtWork) -> None:
        """From now on these are at work; until now those told before were."""
        if self.began is None:
            if not state.actors:
                return  # the time of starting is nobody's fault
            self.began = self._told = now
        else:
            passed = now - self._until
            before = self._state
            for i, count in enumerate((before.actors, before.readings, before.writings, before.crew or self.actors)):
                self._worked[i] += count * passed
        self._until, self._state = now, state

    @property
    def seconds(self) -> float:
        """Since the first work of a model."""
        return 0.0 if self.began is None else self._until - self.began

    def shares(self) -> tuple[float, float, float]:
        """Of the time, how busy actors, readers and writers were, 0..1 each."""
        passed = self.seconds
        if passed <= 0:
            return 0.0, 0.0, 0.0
        *worked, there = self._worked
        most = (there, self.readers * passed, self.readers * passed)
        actors, reading, writing = (min(1.0, w / m) for w, m in zip(worked, most, strict=True))
        return actors, reading, writing

    def text(self) -> str:
        """Rate, shares and what limits, in one line; empty before there is anything to tell."""
        passed = self.seconds
        if passed <= 0 or not self.pixels:
            return ""
        actors, reading, writing = self.shares()
        if actors >= BUSY:
            limit = "the model limits"
        elif reading >= BUSY:
            limit = "reading limits (compute.readers, or more cores)"
        elif writing >= BUSY:
            limit = "writing limits (the output's disk, or more cores)"
        else:
            limit = "no station limits: a short run, or waits for other machines"
        megapixels = self.pixels / 1e6
        return (
            f"{megapixels:.1f} Mpx in {duration_text(passed)}, {megapixels / passed:.2g} Mpx/s; "
            f"busy: model {actors:.0%} of {self.actors}, reading {reading:.0%} of {self.readers}, "
            f"writing {writing:.0%} of {self.readers}; {limit}"
        )

    def due(self, now: float) -> bool:
        """Whether it is time to tell people; once asked, not again for a while."""
        if self.began is None or now - self._told < TELL_EVERY_S:
            return False
        self._told = now
        return True
