"""What a person can get wrong."""


class RequestError(Exception):
    """The request was wrong; the message names the place, the law and the remedy. The command line prints it and exits with 2."""
