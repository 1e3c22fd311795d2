"""Whether the hub of models can be reached, so that nobody waits for it in vain.

Without a network, `huggingface_hub` tries every file again and again for the better part of a
minute, with a line for each try. One question beforehand tells; files in its cache are found either
way.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

_TIMEOUT_S = 5.0
# Anything else, a certificate or a status that somebody does not like, is for the client to judge.
_NO_WAY_THERE = (ConnectionError, TimeoutError, socket.gaierror)
# Plain errors of the system, as those of certificates are.
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN)


@contextlib.contextmanager
def asked_if_it_answers() -> Iterator[str | None]:
    """While the context lasts, a hub that does not answer is asked for nothing.

    Yields:
        Its address if it does not answer, None if it does or the user said not to ask.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or _answers(constants.ENDPOINT):
        yield None
        return
    constants.HF_HUB_OFFLINE = True  # read before every request
    try:
        yield constants.ENDPOINT
    finally:
        constants.HF_HUB_OFFLINE = False


def _answers(address: str) -> bool:
    request = urllib.request.Request(address, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S):
            return True
    except urllib.error.URLError as error:
        reason = error.reason
        lost = isinstance(reason, OSError) and reason.errno in _NO_ROUTE
        return not (lost or isinstance(reason, _NO_WAY_THERE))
    except _NO_WAY_THERE:
        return False
