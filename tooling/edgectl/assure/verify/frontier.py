"""The domains still to be decided: a priority queue on their bounds whose memory is bounded, the rest on disk."""

from __future__ import annotations

import heapq
import pickle
import tempfile
from itertools import count
from typing import IO, Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Entry(Protocol):
    """What can wait: its lower bound and the memory it holds, in bytes."""

    @property
    def bound(self) -> float:
        """Lower bound."""

    @property
    def nbytes(self) -> int:
        """Memory it holds, in bytes."""


E = TypeVar("E", bound=Entry)


class Frontier(Generic[E]):
    """Best-first: `pop` gives the smallest bounds.  Beyond `limit` bytes the half with the largest bounds waits on disk."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self._heap: list[tuple[float, int, E]] = []
        self._order = count()
        self._spilled: list[tuple[float, int, IO[bytes]]] = []  # smallest bound, number of entries, file

    def __len__(self) -> int:
        return len(self._heap) + sum(number for _, number, _ in self._spilled)

    @property
    def entries(self) -> list[E]:
        """What is in memory."""
        return [item[2] for item in self._heap]

    @property
    def bound(self) -> float:
        """The smallest bound of all entries, infinity where there are none."""
        return min([*(entry[0] for entry in self._heap[:1]), *(least for least, _, _ in self._spilled)], default=float("inf"))

    def push(self, entries: list[E]) -> None:
        """Add entries; spill when they take more memory than allowed."""
        for entry in entries:
            self._put(entry)
        if self.bytes > self.limit and len(self._heap) > 1:
            self._spill()

    def pop(self, number: int) -> list[E]:
        """Take up to `number` entries; what is on disk comes back when its bound is the smallest."""
        taken: list[E] = []
        while len(taken) < number and len(self):
            self._fetch()
            entry = heapq.heappop(self._heap)[2]
            self.bytes -= entry.nbytes
            taken.append(entry)
        return taken

    def _put(self, entry: E) -> None:
        heapq.heappush(self._heap, (entry.bound, next(self._order), entry))
        self.bytes += entry.nbytes

    def _spill(self) -> None:
        self._heap.sort(key=lambda item: item[:2])
        kept = len(self._heap) // 2
        out, self._heap = [item[2] for item in self._heap[kept:]], self._heap[:kept]
        file = tempfile.TemporaryFile(prefix="edgectl-verify-")  # noqa: SIM115
        pickle.dump(out, file, protocol=pickle.HIGHEST_PROTOCOL)
        self._spilled.append((out[0].bound, len(out), file))
        self.bytes -= sum(entry.nbytes for entry in out)

    def _fetch(self) -> None:
        while self._spilled:
            least = min(range(len(self._spilled)), key=lambda i: self._spilled[i][0])
            if self._heap and self._heap[0][0] <= self._spilled[least][0]:
                return
            _, _, file = self._spilled.pop(least)
            with file:
                file.seek(0)
                for entry in pickle.load(file):
                    self._put(entry)


def stack(arrays: list[Array], width: int, fill: float, dtype: npt.DTypeLike) -> Array:
    """Rows of different lengths as one `[width, N]` array, the rest `fill`."""
    out = np.full((width, len(arrays)), fill, dtype)
    for column, array in enumerate(arrays):
        out[: len(array), column] = array
    return out
