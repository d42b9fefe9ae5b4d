"""Where a study's trials are kept: an SQLite file, or a PostgreSQL server that workers on many machines share."""

from __future__ import annotations

import json
import re
import sqlite3
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from edgectl.errors import ToolError, UserError, first_line
from edgectl.search.worker import is_gone, this_worker

try:
    import optuna
    from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial, TrialState
    from sqlalchemy import Connection, event
    from sqlalchemy.engine import URL, make_url
    from sqlalchemy.exc import (
        ArgumentError,
        IntegrityError,
        NoSuchModuleError,
        OperationalError,
        ProgrammingError,
        SQLAlchemyError,
    )
except ImportError as error:
    raise UserError("A search keeps its trials with Optuna: run `pip install 'edgectl[search]'`.") from error

RETRIES = 2
"""Times that a trial is begun again after its worker died: a network that kills its workers is left alone then."""
_FACTS = "facts"
_RETRIED, _RETRY_OF = "retried", "retry of"
_WORKER = "edgectl:worker"
_HEARTBEAT, _GRACE = 5, 60
"""Seconds between a worker's signs of life, and those without one after which its trial is another's."""
_OPTUNAS = (UnboundLocalError, AssertionError, ValueError)
"""What `Study.optimize` stumbles over itself where it cannot write how a trial ended; the cause is in their context."""
_BUSY, _CONNECT, _SILENT = 60, 5, 30
_KINDS = "write postgresql://USER:PASSWORD@HOST/DATABASE, or sqlite:///FILE for workers on one machine"


def open_study(url: str, name: str, sampler: optuna.samplers.BaseSampler, facts: Mapping[str, Any]) -> optuna.Study:
    """Creates a study that maximises, or joins it.

    Workers may share it as long as they use `Study.optimize`. The trial of one that was killed is marked failed and begun
    again, by the next worker that asks for a trial: at once on the same machine, elsewhere when it has shown no sign of life
    for a minute. Finished trials stay.

    Args:
        url: `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/DATABASE`.
        facts: JSON of what all workers must agree on; kept in the study, and compared when it is joined.

    Raises:
        UserError: the URL is none, its driver is not installed, the file is no study, or the study is of other facts.
        ToolError: the database does not answer.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a failing trial is told by whoever catches its error
    parsed = _parsed(url)
    shown = _without_password(url)
    with storage_errors(url, "opening"):
        storage = _opened(parsed, shown)
        try:
            study = optuna.create_study(storage=storage, study_name=name, sampler=sampler, direction="maximize")
            study.set_user_attr(_FACTS, dict(facts))
        except DuplicatedStudyError:
            study = optuna.load_study(storage=storage, study_name=name, sampler=sampler)
        _compare(study, json.loads(json.dumps(dict(facts))), shown)
    return study


def check_storage(url: str) -> None:
    """Refuses a storage that cannot be or does not answer, before any work is done for it.

    Raises:
        UserError, ToolError: as `open_study`.
    """
    parsed = _parsed(url)
    with storage_errors(url, "opening"):
        _opened(parsed, _without_password(url)).engine.dispose()


@contextmanager
def storage_errors(url: str, step: str) -> Iterator[None]:
    """Says of a database that fails in a block which storage it is.

    Args:
        step: as in "opening", "keeping trials in".

    Raises:
        ToolError: the database failed, or has given this worker's trial to another.
    """
    try:
        yield
    except (StorageInternalError, SQLAlchemyError, UpdateFinishedTrialError, *_OPTUNAS) as error:
        failure: BaseException | None = error
        while isinstance(failure, UnboundLocalError | AssertionError):
            failure = failure.__context__
        if isinstance(failure, UpdateFinishedTrialError) or str(failure).startswith("Cannot tell a"):
            detail = "this worker was silent for so long that its trial was given to another"
        elif isinstance(failure, StorageInternalError | SQLAlchemyError):
            detail = first_line(failure.__cause__ or failure)
        else:
            raise
        raise _failed(step, url, detail) from error


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Puts the point of a trial that failed in line again, before any new one, unless that was done `RETRIES` times."""
    point = trial.system_attrs.get("fixed_params", {}) | trial.params
    times = trial.user_attrs.get(_RETRIED, 0)
    if point and times < RETRIES:
        study.enqueue_trial(point, user_attrs={_RETRIED: times + 1, _RETRY_OF: trial.number})


class _Storage(RDBStorage):
    """Optuna's storage, where workers on one machine know of each other's death, and with SQLite share no trial by accident.

    Optuna reads before it writes in one transaction. SQLite's ordinary ones lock at the first write, so that two workers could
    take the same waiting trial: ours lock as they begin.
    """

    def __init__(self, url: URL, options: dict[str, Any]) -> None:
        text = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")  # Optuna formats it
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats are
            super().__init__(
                text,
                engine_kwargs={"connect_args": options, "pool_pre_ping": True},
                heartbeat_interval=_HEARTBEAT,
                grace_period=_GRACE,
                heartbeat_stale_trial_callback=retry,
            )
        if url.get_backend_name() == "sqlite":
            event.listen(self.engine, "begin", _lock)

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        trial = super()._create_new_trial(study_id, template_trial)
        if trial.state == TrialState.RUNNING:
            self._sign(trial._trial_id)
        return trial

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """As Optuna's; a trial that begins to run is signed by this worker."""
        changed = super().set_trial_state_values(trial_id, state, values)
        if changed and state == TrialState.RUNNING:
            self._sign(trial_id)
        return changed

    def _sign(self, trial_id: int) -> None:
        self.set_trial_system_attr(trial_id, _WORKER, this_worker())

    def record_heartbeat(self, trial_id: int) -> None:
        """A sign of life for other machines. One that cannot be given is not missed, as long as others can."""
        with suppress(StorageInternalError, SQLAlchemyError):
            super().record_heartbeat(trial_id)

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        silent = set(super()._get_stale_trial_ids(study_id))
        running = self.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,))
        gone = {trial._trial_id: is_gone(trial.system_attrs.get(_WORKER, "")) for trial in running}
        return [number for number, known in gone.items() if known or (known is None and number in silent)]


def _lock(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _parsed(url: str) -> URL:
    """A storage's URL, PostgreSQL's with the driver that is used here.

    Raises:
        UserError: it is none, or of a database that is not supported.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise UserError(f"{_without_password(url)} is no storage: {_KINDS}.") from error
    kind = parsed.get_backend_name()
    if kind not in ("sqlite", "postgresql"):
        raise UserError(f"The storage {_without_password(url)} is of a kind that is not supported: {_KINDS}.")
    if kind == "sqlite" and (parsed.database or ":memory:") == ":memory:":
        raise UserError(f"The storage {url} names no file, so nothing would be kept: {_KINDS}.")
    return parsed.set(drivername="postgresql+psycopg") if parsed.drivername == "postgresql" else parsed


def _opened(url: URL, shown: str) -> _Storage:
    if url.get_backend_name() == "sqlite":
        _prepare(Path(url.database or ""))
        options: dict[str, Any] = {"timeout": _BUSY, "isolation_level": None}
    else:
        alive = {"keepalives_idle": _SILENT, "keepalives_interval": 5, "keepalives_count": 3}
        options = {"connect_timeout": _CONNECT, "tcp_user_timeout": 1000 * _SILENT} | alive
    try:
        for pause in (0.1, 0.4, 1.6):
            try:
                return _Storage(url, options)
            except (ProgrammingError, IntegrityError, OperationalError) as error:
                if isinstance(error, OperationalError) and "already exists" not in str(error):
                    raise
                time.sleep(pause)  # another worker makes the same tables at this moment
        return _Storage(url, options)
    except (ImportError, NoSuchModuleError) as error:
        need = "psycopg" if url.drivername == "postgresql+psycopg" else f"the driver of {url.drivername}"
        raise UserError(f"The storage {shown} needs {need}: run `pip install 'edgectl[postgres]'`.") from error
    except RuntimeError as error:
        raise UserError(f"The storage {shown} was made by another version of Optuna: {first_line(error)}") from error


def _prepare(file: Path) -> None:
    """Makes an SQLite file whose readers and writers do not wait for each other.

    Raises:
        UserError: the file is something else.
        ToolError: it cannot be made.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(file, timeout=_BUSY)) as db:
            db.execute("PRAGMA journal_mode=WAL")
    except (OSError, sqlite3.OperationalError) as error:
        raise _failed("opening", f"sqlite:///{file}", first_line(error)) from error
    except sqlite3.DatabaseError as error:
        raise UserError(f"{file} is not an SQLite file: give the storage another name.") from error


def _compare(study: optuna.Study, facts: dict[str, Any], shown: str) -> None:
    """Raises UserError where a study is of other facts."""
    known = study.user_attrs.get(_FACTS)
    begin = time.monotonic()
    while known is None and time.monotonic() < begin + _CONNECT:  # whoever makes the study at this moment writes them next
        time.sleep(0.1)
        known = study.user_attrs.get(_FACTS)
    if known is None:
        study.set_user_attr(_FACTS, facts)
        return
    differ = [
        f"{name} {known.get(name)!r}, not {facts.get(name)!r}"
        for name in dict.fromkeys([*known, *facts])
        if known.get(name) != facts.get(name)
    ]
    if differ:
        raise UserError(f"The study {study.study_name!r} in {shown} has {'; '.join(differ)}: ask the same, or begin another.")


def _failed(step: str, url: str, detail: str) -> ToolError:
    return ToolError(f"{step} the storage {_without_password(url)}", detail)


def _without_password(url: str) -> str:
    return re.sub(r"//([^:@/]*):.*@", r"//\1:***@", url)
