"""A world of machines that fail, for the driver: seeded, with a clock of its own, and as fast as Python runs.

Machines read, classify and finish; their processes die, hang, answer late, out of order or twice too late to matter;
objects go with their machines. What a finisher would have written is kept, so that a map with a hole is seen. The same
seed plays the same world again.
"""

from __future__ import annotations

import heapq
import itertools
import random
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.engine.budget import Sizes
from pipeline.engine.executor import CallFailedError, Capacity, ClassifyAnswer, Executor, ReadAnswer, Reference, Trouble
from pipeline.engine.tasks import BlockReport, ReadReport
from pipeline.engine.work import Key
from pipeline.predict.classifier import ClassifyReport
from pipeline.records.plan import Block
from spex_core.errors import SpexError
from tests.pipeline.engine.autoscaler import Autoscaler, Fleet, settle
from tests.pipeline.engine.machines import FAULTS, Actor, Machine, Ref, Running, Written, memory_of


class World(Executor):
    """See the module. ``rates`` are probabilities per call, for machines per turn of the weather."""

    def __init__(
        self,
        seed: int,
        blocks: dict[Key, Block],
        sizes: dict[Key, Sizes],
        *,
        machines: int,
        faults: bool,
        store_bytes: int = 2**60,
        fleet: Fleet | None = None,
    ) -> None:
        self.random = random.Random(seed)
        draw = self.random
        self.rates = {kind: draw.choice((0.02, 0.1, 0.3)) if faults and draw.random() < 0.4 else 0.0 for kind in FAULTS}
        self.quiet_after = draw.choice((50.0, 2_000.0, 40_000.0))
        """From then on nothing new goes wrong: a run must come to its end."""
        self.sizes = sizes
        self.store_bytes = store_bytes
        self.empty = {key for key in sorted(blocks) if draw.random() < draw.choice((0.0, 0.0, 0.2))}
        self.poisoned: dict[str, set[Key]] = {
            kind: {key for key in sorted(blocks) if draw.random() < self.rates[f"block poisons {kind}"]}
            for kind in ("readers", "actors", "finishers")
        }
        self.unread = {key for key in sorted(blocks) if draw.random() < self.rates["scene unread"]}
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = itertools.count()
        self.machines = [Machine(number) for number in range(machines)]
        self.fleet = fleet
        if fleet is not None:
            Autoscaler(self, fleet)
        self.objects: weakref.WeakSet[Ref] = weakref.WeakSet()
        self.running: list[Running] = []
        self.actors: list[Actor] = []
        # what is looked at afterwards
        self.store: dict[Key, Written] = {}
        self.calls: dict[str, Counter[Key]] = {kind: Counter() for kind in ("read", "classify", "finish")}
        self.failures: dict[str, Counter[Key]] = {kind: Counter() for kind in ("read", "classify", "finish", "load")}
        self.losses: Counter[Key] = Counter()
        self.happened: Counter[str] = Counter()
        self.peak_bytes = 0
        self.most_actors = 0
        self.worked_on: Counter[int] = Counter()  # machine → classifications
        self.steps = 0
        if self.rates["machine dies"] or self.rates["machine is out of reach"]:
            self._later(draw.uniform(0, 60), self._weather)

    # -- time -------------------------------------------------------------------------------------------------------

    def clock(self) -> float:
        return self.now

    def _later(self, seconds: float, then: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.now + seconds, next(self.numbers), then))

    def _strikes(self, kind: str) -> bool:
        if self.now > self.quiet_after or self.random.random() >= self.rates[kind]:
            return False
        self.happened[kind] += 1
        return True

    def wait(self, references: Sequence[Reference], timeout_s: float) -> list[Reference]:
        self.steps += 1
        if self.steps > 20_000:
            raise AssertionError("the driver goes round and round")
        until = self.now + timeout_s
        refs = [ref for ref in references if isinstance(ref, Ref)]
        while True:
            ready = [ref for ref in refs if ref.ready]
            if ready:
                self.random.shuffle(ready)
                return list(ready[: self.random.randint(1, len(ready))])
            if not self.events or self.events[0][0] > until:
                self.now = until
                return []
            self.now, _, then = heapq.heappop(self.events)
            then()
            self.peak_bytes = max(self.peak_bytes, sum(ref.size for ref in self.objects if not ref.lost))

    def get(self, reference: Reference) -> Any:
        assert isinstance(reference, Ref)
        assert reference.ready, "asked for an answer that is not there"
        failed = reference.failure
        if failed is not None:  # a fresh one each time: a raised exception holds on to all that its raiser knew
            raise CallFailedError(failed.trouble, failed.error, failed.reason, failed.lost_object)
        return reference.value

    # -- machines ---------------------------------------------------------------------------------------------------

    def _weather(self) -> None:
        """Machines go, are out of reach for a while, and come."""
        if self.now > self.quiet_after:
            return
        spot = [machine for machine in self.machines[1:] if machine.alive]  # the driver's own machine stays
        if spot and self._strikes("machine dies"):
            self._lose_machine(self.random.choice(spot))
            self.machines.append(Machine(len(self.machines), slots=self.fleet.slots if self.fleet else 99))
            settle(self)
        if spot and self._strikes("machine is out of reach"):
            self.random.choice(spot).reachable_at = self.now + self.random.uniform(1, 5_000)
        self._later(self.random.uniform(1, 200), self._weather)

    def _lose_machine(self, machine: Machine) -> None:
        machine.alive = False
        told: set[Key] = set()
        for ref in [ref for ref in self.objects if ref.home is machine and not ref.lost]:
            ref.lost = True
            if ref.ready:
                told.add(ref.key)
        self.losses.update(told)
        for call in [call for call in self.running if call.machine is machine and call.kind != "classify"]:
            self._fail_later(call, Trouble.WORKER, "the machine is gone")
        for actor in self.actors:
            if actor.machine is machine:
                self._kill_actor(actor, "the machine is gone")

    def _place(self) -> Machine:
        alive = [m for m in self.machines if m.alive]
        return self.random.choice(alive)

    def _delay(self, machine: Machine) -> float:
        """Until word of a machine arrives."""
        return max(0.0, machine.reachable_at - self.now) + self.random.uniform(0, 2)

    def _ref(self, what: str, key: Key, size: int = 0, home: Machine | None = None) -> Ref:
        ref = Ref(next(self.numbers), what, key, size, home)
        if size:
            self.objects.add(ref)
        return ref

    # -- calls ------------------------------------------------------------------------------------------------------

    def read(self, zone: int, block: Block) -> ReadAnswer:
        key, machine = (zone, block.index), self._place()
        size = self.sizes[key]
        pixels = self._ref("pixels", key, size.pixels, machine)
        layers = self._ref("layers", key, size.layers, machine)
        report = self._ref("read", key)
        call = Running("read", key, machine, [pixels, layers, report])
        self.calls["read"][key] += 1
        self.running.append(call)
        seconds = self.random.expovariate(1 / 5)
        if self._strikes("read hangs"):
            return ReadAnswer(pixels, layers, report)
        if self._strikes("read is late"):
            seconds += 4_000
        self._later(seconds, lambda: self._read_done(call))
        return ReadAnswer(pixels, layers, report)

    def _read_done(self, call: Running) -> None:
        if call.over:
            return
        if call.key in self.poisoned["readers"] or self._strikes("read raises"):
            self._fail_later(call, Trouble.OWN, "the disk is on fire")
        elif self._strikes("reader dies"):
            self._fail_later(call, Trouble.WORKER, "a reader died")
        elif self._strikes("read answer is lost"):
            self._fail_later(call, Trouble.LOST, "the answer is gone")
        else:
            problems = ("a scene could not be read",) if call.key in self.unread else ()
            report = ReadReport(call.key in self.empty, problems, bool(problems), memory_of(call.machine))
            self._answer_later(call, report)

    def finish(self, zone: int, block: Block, layers: Reference, pieces: Sequence[Reference]) -> Reference:
        assert isinstance(layers, Ref)
        key, machine = (zone, block.index), self._place()
        given = [layers, *(piece for piece in pieces if isinstance(piece, Ref))]
        assert layers.what == "layers"
        assert layers.key == key
        assert len(given) == len(pieces) + 1
        report = self._ref("finish", key)
        call = Running("finish", key, machine, [report], given)
        self.calls["finish"][key] += 1
        self.running.append(call)
        if self._lost_before(call):
            return report
        seconds = self.random.expovariate(1 / 2)
        sources = frozenset(piece.key[1] for piece in given[1:])
        order = [piece.key[1] for piece in given[1:]]
        assert order == sorted(order), "pieces are summed in the fixed order"
        if self._strikes("finish hangs"):
            return report
        if self._strikes("finish is late"):
            seconds += self.random.uniform(3_000, 9_000)
        self._later(seconds, lambda: self._finish_done(call, sources))
        return report

    def _finish_done(self, call: Running, sources: frozenset[int]) -> None:
        if call.over and not (call.unwanted and call.machine.alive and self.random.random() < 0.5):
            return  # half of those that could not be ended go on writing all the same
        if not call.over and (call.key in self.poisoned["finishers"] or self._strikes("finish raises")):
            self._fail_later(call, Trouble.OWN, "no space left on device")
        elif not call.over and self._strikes("finisher dies before writing"):
            self._fail_later(call, Trouble.WORKER, "a finisher died")
        else:
            self.store[call.key] = Written(sources)
            if call.over:
                return
            if self._strikes("finisher dies after writing"):
                self._fail_later(call, Trouble.WORKER, "a finisher died")
            else:
                self._answer_later(call, BlockReport("0" * 64, 1.0, memory_of(call.machine)))

    def capacity(self) -> Capacity:
        return Capacity(sum(machine.slots for machine in self.machines if machine.alive), self.store_bytes)

    def hire(self) -> tuple[Actor, Reference]:
        load = self._ref("load", (-1, -1))
        actor = Actor(None, load)
        self.actors.append(actor)
        self.most_actors = max(self.most_actors, sum(actor.alive for actor in self.actors))
        settle(self)
        return actor, load

    def _begin_loading(self, actor: Actor) -> None:
        if not self._strikes("load hangs"):
            self._later(self.random.expovariate(1 / 20), lambda: self._loaded(actor))

    def _loaded(self, actor: Actor) -> None:
        if not actor.alive:
            return
        if self._strikes("actor dies loading"):
            self._kill_actor(actor, "died while loading")
            return
        actor.loaded, actor.load.ready, actor.load.value = True, True, 1
        if self._strikes("actor dies idle"):
            self._later(self.random.uniform(0, 500), lambda: self._kill_actor(actor, "died for nothing"))

    def classify(
        self, actor: Actor, zone: int, block: Block, targets: tuple[int, ...], pixels: Reference
    ) -> ClassifyAnswer:
        assert isinstance(pixels, Ref), "an actor is given pixels"
        key = (zone, block.index)
        assert actor.machine is not None, "an actor that no machine carries was sent a block"
        assert pixels.what == "pixels"
        assert pixels.key == key
        pieces = [self._ref("piece", key, self.sizes[key].pieces.get(t, 0), actor.machine) for t in targets]
        report = self._ref("classify", key)
        call = Running("classify", key, actor.machine, [*pieces, report], [pixels])
        self.calls["classify"][key] += 1
        assert len(actor.queue) < 2, "an actor has one call running and one waiting"
        actor.reports = [*(ref for ref in actor.reports if not ref.ready), report]
        if not actor.alive:
            self._fail_later(call, Trouble.WORKER, "the actor is dead")
            return ClassifyAnswer(tuple(pieces), report)
        actor.queue.append(call)
        if len(actor.queue) == 1:
            self._work(actor)
        return ClassifyAnswer(tuple(pieces), report)

    def _work(self, actor: Actor) -> None:
        """Begins with the first call of the queue."""
        if not actor.queue or not actor.alive or actor.hanging:
            return
        call = actor.queue[0]
        if self._lost_before(call):
            actor.queue.popleft()
            self._work(actor)
            return
        if self._strikes("actor hangs"):
            actor.hanging = True
            return
        self._later(self.random.expovariate(1 / 8), lambda: self._classified(actor, call))

    def _classified(self, actor: Actor, call: Running) -> None:
        if not actor.alive or not actor.queue or actor.queue[0] is not call:
            return
        if call.key in self.poisoned["actors"] or self._strikes("actor dies at work"):
            self._kill_actor(actor, "out of memory")
            return
        actor.queue.popleft()
        if self._strikes("classify raises"):
            self._fail_later(call, Trouble.OWN, "a number is not a number")
        else:
            self.worked_on[call.machine.number] += 1
            self._answer_later(call, ClassifyReport((), memory_of(call.machine)))
        self._work(actor)

    def _kill_actor(self, actor: Actor, reason: str) -> None:
        if not actor.alive:
            return
        actor.alive = False
        if not actor.load.ready:
            actor.load.failure = CallFailedError(Trouble.WORKER, SpexError(reason), reason)
            self._later(
                self._delay(actor.machine) if actor.machine else 0.0, lambda: setattr(actor.load, "ready", True)
            )
        for call in actor.queue:
            self._fail_later(call, Trouble.WORKER, reason)
        actor.queue.clear()

    # -- answers ----------------------------------------------------------------------------------------------------

    def _lost_before(self, call: Running) -> bool:
        """Before a call begins its arguments are fetched; what is evicted or gone with a machine cannot be."""
        for ref in call.given:
            kind = "pixels are evicted" if ref.what == "pixels" else "object is evicted"
            if not ref.lost and ref.home is not None and self._strikes(kind):
                ref.lost = True
                self.losses[ref.key] += 1
        lost = [ref for ref in call.given if ref.lost]
        if lost:
            self._fail_later(call, Trouble.LOST, "an object is gone", self.random.choice(lost))
        return bool(lost)

    def _fail_later(self, call: Running, trouble: Trouble, reason: str, lost: Ref | None = None) -> None:
        if call.over:
            return
        call.over = True
        if trouble is not Trouble.LOST:
            self.failures[call.kind][call.key] += 1
        elif call.kind == "read":
            self.losses[call.key] += 1
        failure = CallFailedError(trouble, SpexError(reason), reason, None if lost is None else str(lost.number))
        report = call.refs[-1]

        def told() -> None:
            report.failure, report.ready = failure, True

        self._drop(call)
        self._later(self._delay(call.machine), told)

    def _answer_later(self, call: Running, answer: Any) -> None:
        call.over = True
        report, refs = call.refs[-1], weakref.WeakSet(call.refs[:-1])  # what the driver forgets is freed
        self._drop(call)

        def told() -> None:
            report.value, report.ready = answer, True
            for ref in refs:
                ref.ready = True
                if ref.lost:  # it went between the end of the call and word of it
                    self.losses[ref.key] += 1

        self._later(self._delay(call.machine), told)

    def _drop(self, call: Running) -> None:
        call.given.clear()
        call.refs = call.refs[-1:]
        if call in self.running:
            self.running.remove(call)

    def gone(self, given: Sequence[Reference], failure: CallFailedError) -> frozenset[Reference]:
        if self._strikes("nobody knows what is lost"):
            return frozenset()
        refs = [ref for ref in given if isinstance(ref, Ref)]
        return frozenset(ref for ref in refs if ref.lost)

    def kill(self, actor: Actor) -> None:
        """The driver gave it up: whatever it would have answered does not count."""
        for ref in actor.reports:
            if not ref.ready:
                self.failures["classify"][ref.key] += 1
        for call in actor.queue:
            call.over = True
            self._drop(call)
        actor.queue.clear()
        actor.alive = False
        settle(self)

    def cancel(self, reference: Reference) -> None:
        assert isinstance(reference, Ref)
        if not reference.ready:
            self.failures[reference.what][reference.key] += 1
        for call in self.running:
            if call.refs[-1] is reference:
                call.over = call.unwanted = True
                self._drop(call)
                return
