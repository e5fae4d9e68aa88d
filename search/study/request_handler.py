"""The requests of users, carried out by the driver of the study: each one in a decision of its own, done or refused."""

from __future__ import annotations

from search.errors import RequestError
from search.storage.rows import Pause, Request
from search.study import user_requests
from search.study.extending import extend
from search.study.extension import Extension
from search.study.session import Session, Stopping
from search.trial import State, Trial


class RequestHandler:
    """The requests that arrive in one session.

    Args:
        session: Session of the study.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def handle(self) -> None:
        """Carry out the requests that no driver has answered."""
        for request in self._session.ledger.requests(waiting=True):
            if request.verb == "extend":
                self._extend(request)
            else:
                self._carry_out(request)

    def _carry_out(self, request: Request) -> None:
        number, trials = request.trial, self._session.state.trials
        asked = None if number is None or number >= len(trials) else trials[number]
        with self._session.ledger.decision() as writer:
            try:
                user_requests.check_request(request.verb, number, None if asked is None else asked.state, len(trials))
            except user_requests.Refused as refusal:
                writer.answer(request, str(refusal))
                return
            trial = user_requests.carry_out(writer, request, asked)
        if trial is not None:
            self._follow_trial(trial)
        else:
            self._follow_study(request)

    def _follow_trial(self, trial: Trial) -> None:
        """Let the worker of a trial leave it, or keep it, as its new state says."""
        self._session.state.set_standing(trial)
        if trial.state is State.RUNNING:
            self._session.in_flight.clear_stop(trial)
        else:
            self._session.in_flight.request_stop(trial.number)

    def _follow_study(self, request: Request) -> None:
        """Stop, pause or unpause the study, as the ledger says it is done."""
        session = self._session
        if request.verb == "stop":
            session.stopping = Stopping.NOW if request.detail.get("now") else Stopping.WHEN_IDLE
            if session.stopping is Stopping.NOW:
                session.in_flight.request_stop_of_all()
        else:
            paused = Pause(request.who, session.ledger.now(), request.detail.get("reason"))
            session.state.paused = paused if request.verb == "pause" else None

    def _extend(self, request: Request) -> None:
        try:
            extend(self._session, Extension(**request.detail, trial=request.trial), request=request)
        except (ValueError, RequestError) as error:
            with self._session.ledger.decision() as writer:
                writer.act_for(request.who)
                writer.answer(request, str(error))
