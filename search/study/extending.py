"""Making a study larger while it is open: more trials or hours, one trial with more epochs, or a wider space."""

from __future__ import annotations

from search.storage.events import EventKind
from search.storage.rows import Request
from search.study.checks import refuse_hopeless
from search.study.extension import Extension, copy_checkpoint, extended_trial, widened_file
from search.study.session import Session


def extend(session: Session, extension: Extension, *, request: Request | None = None) -> None:
    """Make the study larger, and resume it if it had ended.

    Args:
        session: Session of the study.
        extension: Requested changes.
        request: Request of the user, if it came from one.

    Raises:
        ValueError: If a value would shrink, or a trial cannot continue; nothing is changed then.
    """
    wide = None if extension.file is None else widened_file(session.current_file(), extension.file)
    budget = session.row.budget if wide is None else wide.resolved()["budget"]
    changes = extension.changes(budget, spent=session.clock.seconds_used() / 3600, now=session.ledger.now())
    trial = None
    if extension.trial is not None:
        usual = session.file.budget.epochs
        trial = extended_trial(session.state.trials, extension.trial, extension.epochs, usual=usual)
        copy_checkpoint(session.checkpoints.folder, extension.trial, trial.number)
    elif extension.epochs is not None:
        raise ValueError("--epochs extends one trial: name it with --trial; budget.epochs is fixed")
    if wide is not None:
        refuse_hopeless(wide, session.sizes, session.row.facts.max_params)
    with session.ledger.decision() as writer:
        if request is not None:
            writer.act_for(request.who)
            writer.answer(request)
        if wide is not None:
            writer.event(EventKind.WIDENED, file=wide.resolved())
        if trial is None or extension.more_trials or extension.max_hours is not None or extension.until is not None:
            writer.event(EventKind.EXTENDED, **changes)
        if trial is not None:
            trial = writer.start(trial)
    session.read_budget()
    if wide is not None:
        session.rebuild()
        return
    if trial is not None:
        session.state.start(trial, None)
        session.in_flight.queue([trial])
    session.state.extend()
