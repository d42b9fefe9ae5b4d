"""What a runtime's profile comes to: the nanoseconds of every layer in every run, each layer under a name of its own."""

from __future__ import annotations

import itertools

from edgectl.artifact import Runner


class Profile(dict[str, list[int]]):
    """All runs of a profile: layer's name -> nanoseconds of each run, in execution order.

    The name is the PyTorch module path for layers that our backend ran (several events of one run with one module path
    are summed), and the operator's name, made unique, for the others. Nanoseconds are ticks of the device's clock:
    instructions where that clock counts them. A layer that a run left out has 0 there.

    Attributes:
        runners: layer's name -> who ran it.
        totals: nanoseconds of each whole run, with profiling on.
    """

    def __init__(self, totals: list[int]) -> None:
        super().__init__()
        self.runners: dict[str, Runner] = {}
        self.totals = totals


class Series:
    """Collects times by key; the keys keep the order in which they first came."""

    def __init__(self, runs: int) -> None:
        self.runs = runs
        self.names: dict[tuple[object, ...], tuple[str, Runner]] = {}
        self.times: dict[tuple[object, ...], list[int]] = {}

    def add(self, key: tuple[object, ...], name: str, runner: Runner, run: int, ns: int) -> None:
        """Adds nanoseconds to what `key` took in a run; its first name and runner stay."""
        self.names.setdefault(key, (name, runner))
        self.times.setdefault(key, [0] * self.runs)[run] += ns

    def fill(self, profile: Profile) -> None:
        """Module paths keep their names; the names of other operators are numbered where they are taken."""
        taken = {name for name, runner in self.names.values() if runner == "edge"}
        for key, (name, runner) in self.names.items():
            unique = name
            if runner != "edge":
                numbers = itertools.count(2)
                while unique in taken:
                    unique = f"{name} #{next(numbers)}"
                taken.add(unique)
            profile[unique] = self.times[key]
            profile.runners[unique] = runner
