"""Room in the object store: what may be read next, and who makes way where the store is smaller than the front.

Reading stops where the next block would not fit, until what is under way has made room. If nothing is under way, the
targets that will be finished last are put aside: their pieces are let go, and computed again when their turn comes.
The first open target never is. So at every moment there is a block that can be read (:attr:`StoreNeed.least`), and
between two ends of a first target each other one is put aside once at most: the run always moves on.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.engine.budget import Sizes, StoreNeed, held_bytes, target_bytes
from pipeline.engine.work import Ending, Key, Stage, Work, Worklist
from pipeline.machine.progress import size_text


class StoreRoom:
    """What blocks on their way hold, and how much they may.

    Args:
        blocks: What each block lacks and has.
        sizes: Of each block.
        need: What the blocks ask of the object store.
    """

    def __init__(self, blocks: Worklist, sizes: Mapping[Key, Sizes], need: StoreNeed) -> None:
        self._blocks, self._sizes, self._need = blocks, sizes, need
        self._targets = sorted((work for work in blocks.work.values() if work.wanted), key=lambda work: work.order)
        self._ended = 0
        """So many of the first targets are written or given up."""
        self.active: set[Key] = set()
        """Blocks that hold anything."""
        self.budget_bytes = need.least
        """The most that may be held."""
        self.somewhere = False
        """There is a machine that can hold anything."""
        self.peak_bytes = 0
        """The most that was held, calls under way counted with what they would bring."""

    def resize(self, store_bytes: int, in_flight: int) -> None:
        """The machines, or the number of blocks in flight, have changed.

        Args:
            store_bytes: What the object stores have room for. Less than the least is the least all the same: what a
                cluster has lost in mid-run may come back, and until then Ray spills to its disks.
            in_flight: Blocks between the start of reading and the end of classification, at most.
        """
        self.somewhere = store_bytes > 0
        self.budget_bytes = max(self._need.least, min(self._need.most(in_flight), store_bytes))

    def told(self, in_flight: int) -> str:
        """What people should know where there is less room than the plan wants; else empty."""
        wanted = self._need.wanted(in_flight)
        if self.budget_bytes >= wanted or not self.somewhere:
            return ""
        twice = self.budget_bytes < self._need.wanted(1)
        return (
            f"the object store has room for {size_text(self.budget_bytes)} of the {size_text(wanted)} that this plan "
            f"wants: {'some blocks are computed more than once' if twice else 'fewer blocks are read ahead'} "
            "(compute.object_store_mb, or a smaller tiling.block_px)"
        )

    def held(self) -> int:
        """What is held now, bytes."""
        self.active = {key for key in self.active if _holds(self._blocks[key])}
        return held_bytes((self._blocks[key] for key in self.active), self._sizes)

    def fits(self, work: Work) -> bool:
        """Whether a block can be read on top of what is held."""
        return self.held() + self._sizes[work.key].total <= self.budget_bytes

    def enter(self, work: Work) -> None:
        """A block is being read."""
        self.active.add(work.key)
        self.peak_bytes = max(self.peak_bytes, self.held())

    def make(self) -> Work | None:
        """Puts one target aside: the one that will be finished last, of those that hold anything.

        Returns:
            It; None if only the first open target holds anything.
        """
        first = self.first_open()
        candidates = {
            taker.key: taker
            for key in self.active
            for taker in self._holders(self._blocks[key])
            if taker.ending is Ending.OPEN and taker is not first
        }
        if not candidates:
            return None
        # What a block gave that has been given up since cannot be had again: it goes last of all.
        chosen = max(candidates.values(), key=lambda work: (not self._irreplaceable(work), work.order))
        self._blocks.put_aside(chosen)
        return chosen

    def recall(self) -> list[Work]:
        """If the first open target is aside its turn has come, and that of as many behind it as there is room for."""
        first = self.first_open()
        if first is None or not first.aside:
            return []
        recalled: list[Work] = []
        room = self.budget_bytes - self.held() - self._need.largest
        for work in self._targets[self._ended :]:
            if not work.aside or work.ending is not Ending.OPEN:
                continue
            room -= target_bytes(work, self._sizes)
            if recalled and room < 0:
                break
            work.aside = False
            recalled.append(work)
        return recalled

    def first_open(self) -> Work | None:
        """The target that is to be finished first, of those to which nothing is being done."""
        targets = self._targets
        while self._ended < len(targets) and targets[self._ended].ending in (Ending.FINISHED, Ending.FAILED):
            self._ended += 1
        behind = (targets[place] for place in range(self._ended, len(targets)))
        return next((work for work in behind if work.ending is Ending.OPEN), None)

    def _holders(self, work: Work) -> list[Work]:
        """Targets for which a block holds something."""
        zone = work.key[0]
        found = [self._blocks[zone, target] for target, piece in work.pieces.items() if piece is not None]
        return [*found, work] if work.layers is not None else found

    def _irreplaceable(self, work: Work) -> bool:
        return any(need.given_up is not None for need in self._blocks.needs(work))


def _holds(work: Work) -> bool:
    return work.stage is not Stage.IDLE or work.layers is not None or bool(work.pieces) or bool(work.given)
