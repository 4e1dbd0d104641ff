"""Who may speak to the API from a browser: it carries out what any page asks, and the service asks for no password."""

import re
from functools import lru_cache
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Problem, problem_response
from service.validation import shown

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

_LOOPBACK_HOST = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)


class OwnPagesOnly:
    """Refuses what a foreign web page makes a browser send.

    A page can point its own name at 127.0.0.1 (DNS rebinding), and then reads answers too. Where only this machine is served the
    Host header gives that away; where others are, their names for the service are not known here.

    Args:
        app: What the request goes on to.
        is_loopback: Whether the service listens on this machine's loopback address only.
    """

    def __init__(self, app: ASGIApp, *, is_loopback: bool) -> None:
        self.app = app
        self.is_loopback = is_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one ASGI connection."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is not None:
            await problem_response(scope, refusal)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Problem | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.is_loopback and not is_loopback_host(host):
            return Problem(
                "misdirected",
                f"Host must be localhost, 127.0.0.1 or [::1], since the service listens on this machine only, got {shown(host)}: "
                "use one of these names, or listen on another address",
            )
        if scope["method"] in SAFE_METHODS or origin is None or origin.partition("://")[2].lower() == host.lower():
            return None
        return Problem(
            "forbidden",
            f"Origin must be the service's own for {scope['method']}, got {shown(origin)} for Host {shown(host)}: "
            "call it from outside a browser, or let the proxy before it pass Host on",
        )


@lru_cache(maxsize=64)
def is_loopback_host(host: str) -> bool:
    """Whether a Host header names this machine."""
    return _LOOPBACK_HOST.fullmatch(host) is not None


def is_loopback(host: str) -> bool:
    """Whether a listening address can be reached from this machine only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
