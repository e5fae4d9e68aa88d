"""The requests of users to a study: prune, pause and unpause trials, pause, unpause and stop the study.

A request is a row of the ledger, written by any process and carried out by the study's owner: the driver, or without a driver
the command itself, which then claims the ledger for that moment. The same rules are checked when it is written and when it is
carried out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search.errors import OwnedElsewhere, RequestError
from search.storage.events import EventKind
from search.storage.rows import Request
from search.storage.sql_ledger import SqlLedger, open_ledger
from search.storage.writer import LedgerWriter
from search.trial import State, Trial, no_trial

_FROM = {
    "prune": (State.RUNNING, State.PAUSED),
    "pause": (State.RUNNING,),
    "unpause": (State.PAUSED,),
    "extend": (State.COMPLETE, State.PRUNED),
}
DONE = {
    "prune": EventKind.PRUNED,
    "pause": EventKind.PAUSED,
    "unpause": EventKind.UNPAUSED,
    "stop": EventKind.STOPPING,
    "extend": EventKind.EXTENDED,
}


class Refused(RequestError):
    """The error that a study cannot fulfil a request; nothing was changed."""


def check_request(verb: str, number: int | None, state: State | None, n_trials: int) -> None:
    """Check that a trial is in a state in which the verb is possible.

    Args:
        verb: Requested action.
        number: Number of the trial; None for the whole study.
        state: State of the trial; None if it does not exist.
        n_trials: Number of trials that exist.

    Raises:
        Refused: If it is not, or the trial does not exist; the message names its state.
    """
    if number is None:
        return
    if state is None:
        raise Refused(no_trial(number, n_trials))
    if state not in _FROM[verb]:
        may = " or ".join(one.value for one in _FROM[verb])
        raise Refused(f"cannot {verb} trial {number}: it is {state.value} (only {may} trials can be {DONE[verb].value})")


def carry_out(writer: LedgerWriter, request: Request, trial: Trial | None) -> Trial | None:
    """Carry out a request in the name of its user, and write its answer.

    Returns:
        The trial in its new state; None for a request about the whole study.
    """
    reason = request.detail.get("reason")
    writer.act_for(request.who)
    if trial is None:
        writer.event(DONE[request.verb], **request.detail)
    elif request.verb == "prune":
        why = "pruned by a user" + (f": {reason}" if reason else "")
        if trial.runs:  # it keeps the runs that are complete
            trial = writer.finish(trial, State.COMPLETE, reason=f"run {trial.run}: {why}")
        else:
            trial = writer.finish(trial, State.PRUNED, reason=why)
    elif request.verb == "pause":
        trial = writer.pause(trial, reason)
    else:
        trial = writer.unpause(trial, reason)
    writer.answer(request)
    return trial


def write_requests(folder: Path, verb: str, numbers: Sequence[int], detail: Mapping[str, Any]) -> list[int]:
    """Write the request: one row per trial, or one for the whole study; all of them or none.

    Raises:
        Refused: If one of the trials is not in a possible state.
    """
    with open_ledger(folder) as ledger:
        if ledger.owner() is None:
            _alone(verb, numbers[0] if numbers else None)

        def check(states: Mapping[int, State], n_trials: int) -> None:
            for number in numbers:
                check_request(verb, number, states.get(number), n_trials)

        return ledger.ask_for(verb, list(dict.fromkeys(numbers)) or [None], detail, check)


def read_answers(folder: Path, numbers: Sequence[int]) -> list[Request] | None:
    """Return answered requests; None while one waits for a driver. Without a driver they are carried out here."""
    with open_ledger(folder) as ledger:
        if ledger.owner() is None:
            _serve_alone(ledger)
        mine = [request for request in ledger.requests() if request.number in numbers]
    return mine if all(request.served is not None for request in mine) else None


def has_waiting(folder: Path) -> bool:
    """Return whether the study has requests that no driver has answered."""
    with open_ledger(folder) as ledger:
        return bool(ledger.requests(waiting=True))


def _serve_alone(ledger: SqlLedger) -> None:
    if not _servable(ledger):
        return
    try:
        ledger.claim()
    except OwnedElsewhere:  # a driver has started in the meantime and will answer
        return
    waiting, n_trials = _servable(ledger), ledger.counts().n_trials
    trials = {trial.number: trial for trial in ledger.trials([one.trial for one in waiting if one.trial is not None])}
    for request in waiting:
        with ledger.decision() as writer:
            try:
                _alone(request.verb, request.trial)
                asked = None if request.trial is None else trials.get(request.trial)
                check_request(request.verb, request.trial, None if asked is None else asked.state, n_trials)
            except Refused as refusal:
                writer.answer(request, str(refusal))
                continue
            trial = carry_out(writer, request, asked)
        if trial is not None:
            trials[trial.number] = trial


def _servable(ledger: SqlLedger) -> list[Request]:
    """Return the waiting requests, except those that only a driver can carry out, because they continue the study."""
    return [request for request in ledger.requests(waiting=True) if request.verb != "extend"]


def _alone(verb: str, number: int | None) -> None:
    """Refuse requests that need a driver: without one, only requests about trials and unpausing are possible."""
    if number is None and verb != "unpause":
        raise Refused(f"no driver is running the study: there is nothing to {verb}")
