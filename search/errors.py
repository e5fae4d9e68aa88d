"""What can go wrong without a fault of ours."""


class RequestError(Exception):
    """The request was wrong; the message names the place, the law and the remedy. The command line prints it and exits with 2."""


class StudyFileError(RequestError):
    """A study file that cannot be used; the message lists every problem, one per line."""


class LedgerError(RequestError):
    """The ledger cannot be used as asked; the message names the law and the remedy."""


class OwnedElsewhere(LedgerError):
    """Another driver holds the study."""


class OutOfReach(OSError):
    """The ledger's disk is full or gone, or its server is away, in the middle of the work. The command line exits with 1."""
