"""The domains still to be decided: a priority queue on their bounds whose memory is bounded, the rest on disk."""

from __future__ import annotations

import heapq
import pickle
import tempfile
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
SPILL_PART = 2  # a full queue writes 1 / SPILL_PART of its domains, those with the largest bounds


@dataclass(frozen=True, eq=False, slots=True)
class Domain:
    """One subproblem: which clause, which neurons are fixed, what warm-starts its children, and the neuron they split.

    `rows` int32 `[d]` and `signs` int8 `[d]` as `bounds.Splits`, `alpha` float16 `[U + 1]`, `beta` float32 `[d]`, `gamma` float32 `[m]`.
    """

    bound: float
    clause: int
    rows: Array
    signs: Array
    alpha: Array
    beta: Array
    gamma: Array
    choice: int

    @property
    def nbytes(self) -> int:
        """Memory it holds, in bytes."""
        return 500 + sum(a.nbytes for a in (self.rows, self.signs, self.alpha, self.beta, self.gamma))


class Frontier:
    """Best-first: `pop` gives the domains with the smallest bounds.  Beyond `limit` bytes the others wait on disk."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self._heap: list[tuple[float, int, Domain]] = []
        self._order = count()
        self._spilled: list[tuple[float, int, Any]] = []  # smallest bound, number of domains, file

    def __len__(self) -> int:
        return len(self._heap) + sum(number for _, number, _ in self._spilled)

    @property
    def bound(self) -> float:
        """The smallest bound of all domains, infinity where there are none."""
        return min([*(entry[0] for entry in self._heap[:1]), *(least for least, _, _ in self._spilled)], default=float("inf"))

    def push(self, domains: list[Domain]) -> None:
        """Add domains; spill when they take more memory than allowed."""
        for domain in domains:
            heapq.heappush(self._heap, (domain.bound, next(self._order), domain))
            self.bytes += domain.nbytes
        if self.bytes > self.limit and len(self._heap) > 1:
            self._spill()

    def pop(self, number: int) -> list[Domain]:
        """Take up to `number` domains; what is on disk comes back when its bound is the smallest."""
        taken: list[Domain] = []
        while len(taken) < number and len(self):
            self._fetch()
            domain = heapq.heappop(self._heap)[2]
            self.bytes -= domain.nbytes
            taken.append(domain)
        return taken

    def _spill(self) -> None:
        self._heap.sort()
        kept = len(self._heap) - max(1, len(self._heap) // SPILL_PART)
        out, self._heap = [entry[2] for entry in self._heap[kept:]], self._heap[:kept]
        file = tempfile.TemporaryFile(prefix="edgectl-verify-")  # noqa: SIM115: lives until it is read back
        pickle.dump(out, file, protocol=pickle.HIGHEST_PROTOCOL)
        self._spilled.append((out[0].bound, len(out), file))
        self.bytes -= sum(domain.nbytes for domain in out)

    def _fetch(self) -> None:
        while self._spilled:
            least = min(range(len(self._spilled)), key=lambda i: self._spilled[i][0])
            if self._heap and self._heap[0][0] <= self._spilled[least][0]:
                return
            _, _, file = self._spilled.pop(least)
            with file:
                file.seek(0)
                back: list[Domain] = pickle.load(file)
            for domain in back:
                heapq.heappush(self._heap, (domain.bound, next(self._order), domain))
                self.bytes += domain.nbytes


def stack(arrays: list[Array], width: int, fill: float, dtype: npt.DTypeLike) -> Array:
    """Rows of different lengths as one `[width, N]` array, the rest `fill`."""
    out = np.full((width, len(arrays)), fill, dtype)
    for column, array in enumerate(arrays):
        out[: len(array), column] = array
    return out
