"""Requests that are refused: a status of HTTP, and one sentence for the client."""

from http import HTTPStatus

LONGEST = 400  # characters of a message; it may quote what a client sent


class RefusedError(Exception):
    """A request gets an error as its answer.

    Parameters
    ----------
    status : int
        Of HTTP, 400 or more.
    message : str
        The rule, the value and the remedy; cut after `LONGEST` characters.
    headers : tuple of (bytes, bytes)
        Further headers of the answer.
    """

    def __init__(self, status: int, message: str, *headers: tuple[bytes, bytes]):
        message = message if len(message) <= LONGEST else message[:LONGEST] + "…"
        super().__init__(message)
        self.status = HTTPStatus(status)
        self.headers = headers


class DisconnectedError(Exception):
    """The client left before its request was whole."""


def invalid(message: str) -> RefusedError:
    """The refusal of a request whose content breaks a rule: status 400."""
    return RefusedError(400, message)
