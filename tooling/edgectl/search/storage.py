"""Where a study's trials are kept: SQLite, or a server's database that workers on many machines share."""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from edgectl.errors import ToolError, UserError, first_line

try:
    import optuna
    from optuna.exceptions import ExperimentalWarning
    from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
    from sqlalchemy.engine import URL, make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
except ImportError as error:
    raise UserError("A search keeps its trials with Optuna: run `pip install 'edgectl[search]'`.") from error

_HEARTBEAT, _GRACE = 5, 30
"""Seconds between a worker's signs of life, and those without one after which its trial is given to another."""
_CONNECT = 5
_BUSY = 60


def open_study(url: str, name: str, sampler: optuna.samplers.BaseSampler, facts: Mapping[str, Any]) -> optuna.Study:
    """Creates a study that maximises, or joins it.

    Trials of a worker that was killed are tried again by another, or by itself when it is back; finished ones stay.

    Args:
        url: `sqlite:///FILE`, `postgresql://USER:PASSWORD@HOST/DATABASE`, or another that SQLAlchemy knows.
        facts: what all workers must agree on; kept in the study, and compared when it is joined.

    Raises:
        UserError: the URL is none, its driver is not installed, or the study is of other facts.
        ToolError: the database does not answer.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parsed = parse_url(url)
    shown = parsed.render_as_string(hide_password=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            storage = _storage(parsed)
            study = optuna.create_study(
                storage=storage, study_name=name, sampler=sampler, direction="maximize", load_if_exists=True
            )
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        extra = "edgectl[postgres]" if parsed.drivername.startswith("postgresql") else "its driver"
        raise UserError(f"The storage {shown} needs a driver that is not installed: run `pip install '{extra}'`.") from error
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise ToolError(f"opening the storage {shown}", first_line(error)) from error
    known = study.user_attrs
    if not known:
        for key, value in facts.items():
            study.set_user_attr(key, value)
        return study
    differ = [f"{key} {known.get(key)!r}, not {value!r}" for key, value in facts.items() if known.get(key) != value]
    if differ:
        raise UserError(f"The study {name!r} in {shown} has {'; '.join(differ)}: choose another --storage or --out.")
    return study


def parse_url(url: str) -> URL:
    """A storage's URL, PostgreSQL's with the driver that is used here.

    Raises:
        UserError: it is none.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise UserError(
            f"{url!r} is no storage: write postgresql://USER@HOST/DATABASE, or sqlite:///FILE for one machine."
        ) from error
    return parsed.set(drivername="postgresql+psycopg") if parsed.drivername == "postgresql" else parsed


def _storage(url: URL) -> RDBStorage:
    """Optuna's storage, with signs of life of its workers."""
    options: dict[str, Any] = {}
    if url.drivername.startswith("sqlite"):
        options = {"timeout": _BUSY}
        if url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(url.database)) as db:
                db.execute("PRAGMA journal_mode=WAL")
    elif url.drivername.startswith("postgresql"):
        options = {"connect_timeout": _CONNECT}
    return RDBStorage(
        url.render_as_string(hide_password=False),
        engine_kwargs={"connect_args": options, "pool_pre_ping": True},
        heartbeat_interval=_HEARTBEAT,
        grace_period=_GRACE,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
    )
