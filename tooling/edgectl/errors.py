"""The two kinds of failure: a user's mistake (exit code 2), and a tool's or a device's failure (exit code 1)."""

from __future__ import annotations


class UserError(Exception):
    """A mistake the user can mend: one sentence that says what to do. The command line exits with code 2."""

    exit_code = 2


def first_line(error: BaseException) -> str:
    """The first line of what an error says that is not blank, or its kind where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class ToolError(Exception):
    """A tool or a device failed. The command line exits with code 1.

    Args:
        step: what was being done, in words, for example ``"pushing model.pte to emulator-1"``.
        detail: what the tool said, shortened to what helps.
    """

    exit_code = 1

    def __init__(self, step: str, detail: str = "") -> None:
        super().__init__(f"{step} failed: {detail.strip()}" if detail.strip() else f"{step} failed")
        self.step = step
        self.detail = detail.strip()
