"""Machines that come for actors that wait for one, and go: when they are idle, and when somebody takes them away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.pipeline.engine.machines import Machine

IDLE_S = 120.0


@dataclass(frozen=True)
class Fleet:
    """What an autoscaling cluster may rent; the driver's own machine carries no model actor."""

    slots: int
    """Model actors that each machine carries."""
    most: int
    boots_within_s: float
    takes_away: float = 0.0
    """Probability that one is taken, with all that it holds, whenever the autoscaler looks."""


def carried(world: Any, machine: Machine) -> int:
    """Model actors that live on a machine."""
    return sum(actor.alive and actor.machine is machine for actor in world.actors)


def settle(world: Any) -> None:
    """Actors that wait are put where there is a place, in the order of asking."""
    for actor in world.actors:
        if not actor.alive or actor.machine is not None:
            continue
        places = [m for m in world.machines if m.alive and m.slots > carried(world, m)]
        if not places:
            return
        actor.machine = world.random.choice(places)
        world._begin_loading(actor)


class Autoscaler:
    """Looks at a :class:`~tests.pipeline.engine.fault_world.World` every now and then."""

    def __init__(self, world: Any, fleet: Fleet) -> None:
        self.world, self.fleet = world, fleet
        self.booting = 0
        for machine in world.machines:
            machine.slots = 0 if machine.number == 0 else fleet.slots
        world._later(0.0, self.look)

    def look(self) -> None:
        """Asks for machines, gives back, and loses."""
        world, fleet = self.world, self.fleet
        rented = [machine for machine in world.machines[1:] if machine.alive]
        waiting = sum(actor.alive and actor.machine is None for actor in world.actors)
        while waiting > self.booting * fleet.slots and len(rented) + self.booting < fleet.most:
            self.booting += 1
            world._later(world.random.uniform(20, fleet.boots_within_s), self.join)
        if world.now < world.quiet_after and rented and world.random.random() < fleet.takes_away:
            world.happened["capacity goes"] += 1
            world._lose_machine(world.random.choice(rented))
        for machine in rented:
            if machine.alive and not carried(world, machine) and world.now >= machine.idle_until:
                world.happened["idle machine goes"] += 1
                world._lose_machine(machine)
        world._later(world.random.uniform(5, 60), self.look)

    def join(self) -> None:
        """A machine has booted."""
        world = self.world
        self.booting -= 1
        world.happened["machine joins"] += 1
        slots = self.fleet.slots
        world.machines.append(Machine(len(world.machines), slots=slots, idle_until=world.now + IDLE_S))
        settle(world)
