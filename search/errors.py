"""Errors caused by the request or the environment, not by a bug in Paretune."""


class RequestError(Exception):
    """The error of a wrong request: place, law and remedy. The command line prints its message and exits with 2."""


class StudyFileError(RequestError):
    """The error of an unusable study file; the message lists every problem, one per line."""


class LedgerError(RequestError):
    """The error that the ledger cannot be used as requested; the message names the law and the remedy."""


class NoLedger(LedgerError):
    """The error that a study does not exist, or does not exist yet."""


class OwnedElsewhere(LedgerError):
    """The error that another driver holds the study."""


class OutOfReach(OSError):
    """The error of a full or missing ledger disk, or an unreachable server, during the work. The command line exits with 1."""
