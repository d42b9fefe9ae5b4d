"""What the commands share to talk to a person: tables on stdout, progress on stderr, figures that read well."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

_WIDTH_WITHOUT_TERMINAL = 100
_QUIET_SECONDS = 2.0


def output() -> Console:
    """The console of stdout: as wide as the terminal, or 100 columns into a file or a pipe. It prints brackets as they are."""
    width = None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL
    return Console(width=width, highlight=False, markup=False, emoji=False)


def table(*columns: str) -> Table:
    """An empty table; columns whose name begins with `>` are aligned to the right."""
    made = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        right = column.startswith(">")
        made.add_column(column.lstrip(">"), justify="right" if right else "left", overflow="fold", no_wrap=right)
    return made


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str, float | None], None]]:
    """What to call with a message and the fraction done, or None: a bar on a terminal, else a line a message."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=None)
        shown = ""

        def show(message: str, fraction: float | None) -> None:
            nonlocal shown
            if message != shown:
                bars.reset(task, total=None if fraction is None else 1.0)
                shown = message
            bars.update(task, description=escape(message), total=None if fraction is None else 1.0, completed=fraction or 0)

        yield show


def _lines() -> Callable[[str, float | None], None]:
    """Prints the messages of steps at once, those of parts of a step (with a fraction) every two seconds at most."""
    last, printed = "", 0.0

    def show(message: str, fraction: float | None) -> None:
        nonlocal last, printed
        now = time.monotonic()
        if message != last and (fraction is None or now - printed > _QUIET_SECONDS):
            print(message, file=sys.stderr, flush=True)
            last, printed = message, now

    return show


def count(value: float | None) -> str:
    """A count in at most 6 characters: 874, 12.3k, 4.56M, 1.20G."""
    if value is None:
        return "-"
    for limit, divisor, unit in ((1e3, 1, ""), (1e6, 1e3, "k"), (1e9, 1e6, "M"), (1e12, 1e9, "G")):
        if abs(value) < limit * 0.9995:
            return f"{value:.0f}" if divisor == 1 else f"{_three_digits(value / divisor)}{unit}"
    return f"{_three_digits(value / 1e12)}T"


def milliseconds(value: float | None) -> str:
    """A time in ms with three significant digits, at least."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 1000 else f"{value:.3f}" if value < 1 else _three_digits(value)


def shape(sizes: list[int]) -> str:
    """A shape without its batch: 32x180x320."""
    return "x".join(str(size) for size in (sizes[1:] if len(sizes) > 1 else sizes)) or "-"


def _three_digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
