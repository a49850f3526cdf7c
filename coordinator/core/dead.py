"""Dead letters: which ends leave one, and which letters are to go.

The shell stores a letter before the result that says so. Where that result was not the first, or a term ended between the
two, the letter must not stay: it counts only where the recorded result says that there is one.
"""

from __future__ import annotations

from coordinator.core import tune
from coordinator.core.actions import AskLetters, DropLetter, Emit
from coordinator.core.events import LettersAsked, LettersFound
from coordinator.core.record import TaskRecord
from coordinator.core.state import Coordinator, Out
from schemas.event import TaskEvent
from schemas.task import CommandHead, ResultHead


def leaves_letter(task: TaskRecord) -> bool:
    """Whether a task that failed for good is kept as a dead letter.

    A command that came to an exit code and was not to be tried again has answered: its submitter has all there is to know.
    """
    errors = task.history.errors
    answered = bool(errors) and errors[-1].exit_code is not None
    return not (answered and isinstance(task.head.run, CommandHead) and not task.head.retry.limit)


def letters_found(state: Coordinator, event: LettersFound, now: float, out: Out) -> None:
    """Letters that may have to go: their results tell."""
    state.letters.update(event.letters)
    _ask(state, (event.letters, tune.LETTERS_AGAIN_S), now, out)


def _ask(state: Coordinator, what: tuple[tuple[tuple[str, str], ...], float], now: float, out: Out) -> None:
    """Ask for the results, and for those that are not there yet ever more rarely: their tasks are still under way."""
    names, again_s = what
    left = tuple(name for name in names if name in state.letters)
    for i in range(0, len(left), tune.ASK_BATCH):
        out.append(AskLetters(left[i : i + tune.ASK_BATCH]))
    if not left:
        return
    if again_s < tune.LETTERS_GIVE_UP_S:
        state.at(now + again_s, _ask, (left, 4 * again_s))
    else:
        state.letters.difference_update(left)


def letters_asked(state: Coordinator, event: LettersAsked, now: float, out: Out) -> None:
    """What RESULTS holds of them."""
    for result in event.results:
        settle(state, result, out)


def settle(state: Coordinator, result: ResultHead, out: Out) -> None:
    """A task's recorded result is known, and so is what becomes of a letter of it."""
    name = result.submitter, result.task
    if state.letters and name in state.letters:
        state.letters.discard(name)
        if not result.dead_letter:
            out.append(DropLetter(*name))


def tell(result: ResultHead, node: str, reason: str, out: Out) -> None:
    """Say that a task was given up. `node` and `reason` are cut already."""
    key = f"{result.task}.{result.placement}.dead-lettered"
    data = TaskEvent(result.task, result.submitter, node, result.placement, result.attempts, reason)
    out.append(Emit("task.dead-lettered", result.task, key, data))
