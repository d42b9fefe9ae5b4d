"""Studies that are shared, joined, and gone on with after a kill: in SQLite files and on a real PostgreSQL server."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState

from edgectl.errors import ToolError, UserError
from edgectl.search.storage import RETRIES, check_storage, open_study, storage_errors

from .study_worker import FACTS, NAME, finished, sampler

WORKER = Path(__file__).with_name("study_worker.py")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


def start(url: str, trials: int, *options: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(WORKER), url, str(trials), *map(str, options)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def start_together(*workers: subprocess.Popen[str]) -> None:
    """Lets workers with a gate go, once all are there."""
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()


def wait(*workers: subprocess.Popen[str]) -> None:
    for worker in workers:
        worker.communicate(timeout=120)
        assert worker.returncode == 0


def kill_when_hanging(worker: subprocess.Popen[str]) -> None:
    assert worker.stdout is not None
    assert any(line == "hanging\n" for line in worker.stdout)
    worker.send_signal(signal.SIGKILL)
    worker.communicate(timeout=60)


def joined(url: str) -> optuna.Study:
    return open_study(url, NAME, RandomSampler(), FACTS)


def points(trials: list[FrozenTrial]) -> list[dict[str, object]]:
    return [trial.params for trial in trials]


def check_shared(study: optuna.Study, trials: int) -> None:
    """No trial is lost, none was tried by two, no point was tried twice."""
    done = finished(study)
    assert len(done) >= trials
    assert [trial.number for trial in study.trials] == list(range(len(study.trials)))
    assert len({tuple(sorted(trial.params.items())) for trial in done}) == len(done)


def test_a_killed_search_keeps_its_finished_trials_tries_the_one_in_flight_again_and_ends_like_an_unbroken_one(
    url: str, tmp_path: Path
) -> None:
    kill_when_hanging(start(url, 9, "--hang", 6))
    before = finished(joined(url))
    assert len(before) == 6
    wait(start(url, 9))
    study = joined(url)
    assert finished(study)[:6] == before
    broken, again = study.trials[6], study.trials[7]
    assert (broken.state, again.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert again.params == broken.params
    unbroken = f"sqlite:///{tmp_path / 'unbroken.db'}"
    wait(start(unbroken, 9))
    assert points(finished(study)) == points(finished(joined(unbroken)))


def test_two_workers_that_start_at_once_share_a_new_sqlite_file(url: str) -> None:
    workers = [start(url, 24, "--seed", seed, "--gate") for seed in (1, 2)]
    start_together(*workers)
    said = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    check_shared(joined(url), 24)
    assert all("trial" in text for text in said)
    tried = [line for text in said for line in text.splitlines()]
    assert len(set(tried)) == len(tried)


@pytest.mark.parametrize("late", [False, True])
def test_a_worker_whose_trial_was_given_to_another_is_told_so(url: str, late: bool) -> None:
    study = joined(url)

    def objective(trial: optuna.Trial) -> float:
        value = _width(trial) if late else 0.0
        joined(url).tell(trial.number, state=TrialState.FAIL)
        return value if late else _width(trial)

    told = r"^keeping trials in the storage .* failed: .*was given to another"
    with pytest.raises(ToolError, match=told), storage_errors(url, "keeping trials in"):
        study.optimize(objective, n_trials=1)


@pytest.mark.parametrize("mistake", [AssertionError("mine"), ValueError("mine")])
def test_a_mistake_of_the_objective_is_not_taken_for_the_storages(url: str, mistake: Exception) -> None:
    def objective(trial: optuna.Trial) -> float:
        raise mistake

    with pytest.raises(type(mistake), match="mine"), storage_errors(url, "keeping trials in"):
        joined(url).optimize(objective, n_trials=1)


def test_a_trial_whose_worker_is_killed_each_time_is_left_alone_in_the_end(url: str) -> None:
    study = open_study(url, NAME, RandomSampler(seed=0), FACTS)
    study.enqueue_trial({"block": "a", "width": 1, "depth": 1})
    for number in range(1 + RETRIES):
        kill_when_hanging(start(url, 9, "--hang", number))
    wait(start(url, 3))
    killed = [trial for trial in study.trials if trial.state == TrialState.FAIL]
    assert points(killed) == [{"block": "a", "width": 1, "depth": 1}] * (1 + RETRIES)
    assert len(finished(study)) == 3


def test_a_living_worker_keeps_its_trial_while_another_begins(url: str) -> None:
    slow = start(url, 9, "--hang", 0)
    assert slow.stdout is not None
    assert slow.stdout.readline() == "trial 0\n"
    try:
        wait(start(url, 2, "--seed", 1))
        assert [trial.state for trial in joined(url).trials] == [TrialState.RUNNING, TrialState.COMPLETE, TrialState.COMPLETE]
    finally:
        slow.kill()
        slow.communicate()


def test_joining_with_other_facts_is_refused_and_says_what_differs(url: str) -> None:
    joined(url)
    with pytest.raises(UserError, match=r"has budget 33.0, not 20.0; device None, not 'host':"):
        open_study(url, NAME, RandomSampler(), FACTS | {"budget": 20.0, "device": "host"})
    assert joined(url).user_attrs["facts"] == FACTS


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("postgres//u:hidden@h/x", r"^postgres//u:\*\*\*@h/x is no storage: write postgresql://"),
        ("postgresql://u:hidden@h:port/x", r"is no storage: write postgresql://"),
        ("mysql://u:hidden@h/x", r"^The storage mysql://u:\*\*\*@h/x is of a kind that is not supported"),
        ("postgresql+nodriver://u:hidden@h/x", r"needs the driver of postgresql\+nodriver"),
        ("sqlite://", r"names no file, so nothing would be kept"),
    ],
)
def test_a_storage_that_cannot_be_is_refused_in_one_sentence_without_its_password(url: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        open_study(url, NAME, RandomSampler(), FACTS)
    assert "hidden" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a database" * 100)
    with pytest.raises(UserError, match=r"notes.txt is not an SQLite file"):
        open_study(f"sqlite:///{file}", NAME, RandomSampler(), FACTS)
    assert file.read_text() == "not a database" * 100


def test_an_sqlite_file_that_cannot_be_made_names_the_step(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ToolError, match=r"^opening the storage sqlite:///.* failed: .*File exists"):
        open_study(f"sqlite:///{tmp_path}/file/study.db", NAME, RandomSampler(), FACTS)


def test_a_server_that_does_not_answer_is_told_by_its_step_without_its_password() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://searcher:hidden@127.0.0.1:{silent.getsockname()[1]}/searches"
        with pytest.raises(
            ToolError, match=r"^opening the storage postgresql://searcher:\*\*\*@.* failed: .*timeout"
        ) as caught:
            check_storage(url)
    assert "hidden" not in str(caught.value)
    with pytest.raises(ToolError, match=r"Connection refused|refused"):
        open_study(url, NAME, RandomSampler(), FACTS)


class Server:
    """A PostgreSQL server of our own, on a port and in a folder of its own, with a password."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self.programs = folder, programs
        self.user = "nobody" if os.getuid() == 0 else None  # a server refuses to run as root
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        password = folder / "password"
        password.write_text("se{cr}et")
        if self.user is not None:
            shutil.chown(folder, self.user)
            shutil.chown(password, self.user)
        self.run("initdb", "-D", folder / "data", "-U", "searcher", "-A", "scram-sha-256", f"--pwfile={password}", "--no-sync")
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://searcher:se{{cr}}et@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories={self.folder} -c fsync=off"
        self.run("pg_ctl", "start", "-w", "-D", self.folder / "data", "-l", self.folder / "log", "-o", options)

    def stop(self) -> None:
        self.run("pg_ctl", "stop", "-D", self.folder / "data", "-m", "immediate")

    def run(self, program: str, *arguments: object) -> None:
        command = [str(self.programs / program), *map(str, arguments)]
        subprocess.run(command, user=self.user, cwd=self.folder, check=True, timeout=120, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    found = shutil.which("initdb") or (installed[-1] if installed else None)
    if found is None:
        pytest.skip("there is no PostgreSQL server here: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="edgectl-postgres-"))
    try:
        running = Server(folder, Path(found).parent)
        try:
            yield running
        finally:
            running.stop()
    finally:
        shutil.rmtree(folder)


def test_two_workers_share_a_study_on_a_postgresql_server_and_one_takes_over_what_the_other_was_killed_in(
    server: Server,
) -> None:
    doomed, other = start(server.url, 16, "--seed", 1, "--hang", 3, "--gate"), start(server.url, 16, "--seed", 2, "--gate")
    start_together(doomed, other)
    kill_when_hanging(doomed)
    wait(other)
    wait(start(server.url, 20, "--seed", 3))
    study = joined(server.url)
    check_shared(study, 20)
    (broken,) = (trial for trial in study.trials if trial.state == TrialState.FAIL)
    assert broken.params in points(finished(study))


def test_a_wrong_password_is_the_servers_word_and_is_not_shown(server: Server) -> None:
    with pytest.raises(
        ToolError, match=r"^opening the storage .*:\*\*\*@.* failed: .*password authentication failed"
    ) as caught:
        open_study(server.url.replace("se{cr}et", "wrongone"), NAME, RandomSampler(), FACTS)
    assert "wrongone" not in str(caught.value)


def test_a_server_that_goes_away_in_the_middle_is_told_and_has_the_finished_trials_when_it_is_back(server: Server) -> None:
    study = open_study(server.url, "another study", RandomSampler(seed=0), FACTS)

    def objective(trial: optuna.Trial) -> float:
        value = _width(trial)
        if trial.number == 3:
            server.stop()
        return value

    told = r"^keeping trials in the storage .*:\*\*\*@.* failed: "
    with pytest.raises(ToolError, match=told) as caught, storage_errors(server.url, "keeping trials in"):
        study.optimize(objective, n_trials=9)
    assert "secret" not in str(caught.value).replace("{", "").replace("}", "")
    server.start()
    assert len(finished(open_study(server.url, "another study", RandomSampler(), FACTS))) == 3


def test_a_study_of_another_sampler_is_gone_on_with(url: str) -> None:
    open_study(url, NAME, RandomSampler(seed=0), FACTS).optimize(_width, n_trials=5)
    study = open_study(url, NAME, sampler(0), FACTS)
    study.optimize(_width, n_trials=5)
    assert len(finished(study)) == 10


def _width(trial: optuna.Trial) -> float:
    trial.suggest_categorical("block", ["a", "b", "c"])
    return trial.suggest_int("width", 1, 20) + trial.suggest_int("depth", 1, 8)
