"""TLS that ends at a declared proxy: its word about the client's address and certificate, and nobody else's."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_network
from urllib.parse import unquote_to_bytes

from dicom_store.asgi import App, Receive, Scope, Send, send_problem
from dicom_store.status import HttpRefusal
from healthcheck.client_address import client_address, is_one_of, parse_address

LONGEST_REMEMBERED = 512  # characters of an X-Forwarded-For
_PEM = re.compile(
    rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]{1,16384})-----END CERTIFICATE-----", re.ASCII
)


class Proxied:
    """An ASGI application around another, which reads `client` and `peer_certificate` from the scope's state.

    `proxies`: addresses or networks; a peer that is none of them is answered 403. `header`: where the proxy puts
    the certificate that it verified, PEM with percent escapes (nginx: $ssl_client_escaped_cert); it must strip
    what clients send under that name.
    """

    def __init__(self, app: App, proxies: Sequence[str], header: str) -> None:
        self._app = app
        self._proxies = tuple(ip_network(one, strict=False) for one in proxies)
        self._header = header.lower().encode("ascii")
        self._is_proxy = lru_cache(maxsize=256)(lambda peer: is_one_of(parse_address(peer), self._proxies))
        self._client = lru_cache(maxsize=1024)(
            lambda peer, forwarded: client_address(peer, forwarded, self._proxies)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request of a proxy on, with what it says of its client."""
        peer = (scope.get("client") or ("",))[0]
        try:
            if not self._is_proxy(peer):
                raise HttpRefusal(403, "not-a-proxy", "Forbidden", "Only declared proxies are answered here.")
            forwarded, certificate = _joined(scope, b"x-forwarded-for", self._header)
            scope["state"] = {
                **(scope.get("state") or {}),
                "client": self.client_of(peer, forwarded),
                "peer_certificate": _certificate(certificate),
            }
        except HttpRefusal as refusal:
            await send_problem(send, refusal, scope["method"] == "HEAD")
            return
        await self._app(scope, receive, send)

    def client_of(self, peer: str, forwarded: str | None) -> str:
        """As `client_address`; what is of a usual length is remembered."""
        if forwarded is not None and len(forwarded) > LONGEST_REMEMBERED:
            return client_address(peer, forwarded, self._proxies)
        return self._client(peer, forwarded)


def _joined(scope: Scope, *names: bytes) -> list[str | None]:
    """Headers by their names, those that are there several times as one list (RFC 9110 5.2)."""
    found: dict[bytes, str | None] = dict.fromkeys(names)
    for key, value in scope["headers"]:
        if key in found:
            before, one = found[key], value.decode("latin-1")
            found[key] = one if before is None else f"{before},{one}"
    return [found[name] for name in names]


@lru_cache(maxsize=256)
def _certificate(header: str | None) -> bytes | None:
    """DER, None when the client showed none. Raises `HttpRefusal` 400 for what is no certificate."""
    if not header or header == "-":
        return None
    found = _PEM.fullmatch(unquote_to_bytes(header).strip())
    try:
        if found is not None:
            return base64.b64decode(b"".join(found[1].split()), validate=True)
    except binascii.Error:
        found = None
    detail = "The proxy's header for the client certificate holds no PEM certificate."
    raise HttpRefusal(400, "proxy-certificate", "Bad request", detail)
