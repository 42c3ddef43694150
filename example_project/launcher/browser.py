"""What the check uses to look at the pages: a browser without a window."""

from __future__ import annotations

import http.cookiejar
import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any


class CheckFailed(Exception):
    """Something is not as promised; the text says what."""


def expect(holds: bool, otherwise: str) -> None:
    """Raise CheckFailed unless a promise holds."""
    if not holds:
        raise CheckFailed(otherwise)


class Browser:
    """Reads pages and sends forms as a browser does: with cookies and the CSRF token."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.at = self.query = ""
        self.cookies = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self.cookies)
        )

    def get(self, path: str) -> bytes:
        """Return the body of a page; anything but success is a failed check."""
        return self._open(urllib.request.Request(self.url + path))

    def json(self, path: str) -> dict[str, Any]:
        """Return what a JSON address answers."""
        body: dict[str, Any] = json.loads(self.get(path))
        return body

    def post(self, path: str, **fields: object) -> str:
        """Send a form; return the address of the page that it leads to."""
        token = next((c.value for c in self.cookies if c.name == "csrftoken"), None) or ""
        headers = {"X-CSRFToken": token, "Accept": "application/json"}
        data = urllib.parse.urlencode(fields).encode()
        self._open(urllib.request.Request(self.url + path, data, headers, method="POST"))
        return self.at

    def _open(self, request: urllib.request.Request) -> bytes:
        try:
            with self._opener.open(request, timeout=30) as answer:
                self.at = urllib.parse.urlsplit(answer.url).path
                self.query = urllib.parse.urlsplit(answer.url).query
                body: bytes = answer.read()
                return body
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            raise CheckFailed(f"{request.full_url}: {error.code}\n{text[:2000]}") from error
        except OSError as error:
            raise CheckFailed(f"{request.full_url} does not answer: {error}") from error
