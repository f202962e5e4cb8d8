"""What keeps a run from starting, all of it in one message."""

from typing import NamedTuple


class PreflightError(RuntimeError):
    """A run cannot start; the message says what was looked for, where, and what to do."""


class Problem(NamedTuple):
    """One thing that is missing or wrong, and what to do about it."""

    what: str
    remedies: tuple[str, ...]


def report(problems: list[Problem]) -> None:
    """End the run if there is a problem.

    Raises:
        PreflightError: Naming all of them, and what to do, once each.
    """
    if problems:
        # Train and validation data usually lack the same folder: name it and the remedy once.
        found = dict.fromkeys(f"  - {problem.what}" for problem in problems)
        remedies = dict.fromkeys(f"  - {line}" for problem in problems for line in problem.remedies)
        raise PreflightError("\n".join(["cannot start:", *found, "what to do:", *remedies]))
