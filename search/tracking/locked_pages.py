"""MLflow's pages behind a lock: they are shown to those who bring the token that `paretune ui` has printed.

The loopback address is open to every user of a machine, and MLflow lets each of them write. A browser brings the token once, in the
printed address, and gets a cookie for it; programs send it as a bearer token (`MLFLOW_TRACKING_TOKEN`). The entry point
`mlflow.app` in `pyproject.toml` names this file to MLflow.
"""

from __future__ import annotations

import hmac
import os
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

APP = "paretune"  # name of the entry point
TOKEN = "PARETUNE_UI_TOKEN"  # noqa: S105 - the environment variable that holds it
_REFUSAL = "This is a Paretune of somebody on this machine. Open the address that `paretune ui` has printed.\n"


def app() -> Lock:
    """Make MLflow's application with its lock; uvicorn calls this."""
    from search.tracking.mlflow_internals import pages_app

    return Lock(pages_app(), os.environ[TOKEN])


class Lock:
    """An ASGI application that passes on what brings the token.

    Args:
        inner: Application behind the lock.
        token: Secret to bring.
    """

    def __init__(self, inner: ASGIApp, token: str) -> None:
        self._inner = inner
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request: pass it on, exchange the token for a cookie, or refuse it."""
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        request = HTTPConnection(scope)
        cookie = f"paretune-{request.url.port}"  # browsers do not tell the ports of one host apart
        if scope["type"] == "http" and self._fits(request.query_params.get("token")):
            answer = RedirectResponse(request.url.path, status_code=303)  # the browser keeps what is behind the #
            answer.set_cookie(cookie, self._token, httponly=True, samesite="strict")
            await answer(scope, receive, send)
            return
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self._fits(request.cookies.get(cookie)) or self._fits(bearer):
            await self._inner(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await PlainTextResponse(_REFUSAL, status_code=401)(scope, receive, send)

    def _fits(self, brought: str | None) -> bool:
        return brought is not None and hmac.compare_digest(brought.encode(), self._token.encode())
