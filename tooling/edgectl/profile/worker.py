"""A runtime in a process of its own, which idles until it is told to do a few runs."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgectl.profile.int8 import INT8_PEERS
from edgectl.profile.peers import FLOAT_PEERS, Peer, PeerFailure
from edgectl.profile.workload import load_workload

PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (*FLOAT_PEERS, *INT8_PEERS)}
_SECONDS_TO_END = 5.0
_REST_SECONDS = 0.02
_MOST_RESTS = 50


@dataclass(frozen=True)
class Job:
    """What a worker prepares.

    Attributes:
        model: the recipe or Python file.
        state: the tensors that every row shares, as torch saved them: (weights, input). The file's own may be random.
        threads: to run on.
        folder: for the files that the runtimes write.
    """

    model: Path
    state: Path
    threads: int
    folder: Path


class Worker:
    """A peer in a process of its own."""

    def __init__(self, peer: str, job: Job) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, peer, job), daemon=True)
        self._process.start()
        theirs.close()

    def prepare(self) -> list[np.ndarray]:
        """Waits for the conversion; returns the outputs of a first run.

        Raises:
            PeerFailure: the peer cannot convert or run the network.
        """
        return self._answer()

    def round(self, warmup: int, runs: int) -> list[int]:
        """Does `warmup` runs, then `runs` timed ones; their wall times in ns. Waits until the runtime's threads rest.

        Raises:
            PeerFailure: a run failed.
        """
        self._pipe.send((warmup, runs))
        return self._answer()

    def close(self) -> None:
        """Ends the process: it ends by itself when nobody is left to talk to, unless it hangs."""
        self._pipe.close()
        self._process.join(_SECONDS_TO_END)
        self._process.kill()
        self._process.join()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            raise PeerFailure(f"its process ended with code {self._process.exitcode}") from None
        if isinstance(answer, str):
            raise PeerFailure(answer)
        return answer


def _serve(pipe: Connection, peer: str, job: Job) -> None:
    """The worker's process: prepares, answers with the first outputs, then does round after round until it is ended."""
    _silence()
    tempfile.tempdir = str(job.folder)  # what converters leave there goes with it
    try:
        _prepare_and_run(pipe, peer, job)
    except EOFError:
        return
    except (Exception, SystemExit) as error:
        lines = (line.strip() for line in str(error).splitlines())
        pipe.send(next((line for line in lines if line), type(error).__name__))


def _prepare_and_run(pipe: Connection, name: str, job: Job) -> None:
    module = load_workload(job.model).module
    weights, example = torch.load(job.state, weights_only=True)
    module.load_state_dict(weights)
    peer = PEERS[name](module, example, job.threads, job.folder)
    pipe.send(peer.outputs(peer.run()))
    while True:
        warmup, runs = pipe.recv()
        for _ in range(warmup):
            peer.run()
        times = []
        for _ in range(runs):
            begin = time.perf_counter_ns()
            peer.run()
            times.append(time.perf_counter_ns() - begin)
        _rest()
        pipe.send(times)


def _rest() -> None:
    """Waits until this process's threads have stopped spinning for work, which would take time from the next row."""
    for _ in range(_MOST_RESTS):
        before = time.process_time()
        time.sleep(_REST_SECONDS)
        if time.process_time() - before < _REST_SECONDS / 10:
            return


def _silence() -> None:
    """Sends all that this process writes, converters in C++ included, to nowhere."""
    sys.stdout.flush()
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)
