"""A server that takes and gives JSON over HTTP: time-outs, retries, server-sent events, a key that is never told. Knows no model."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from rag.errors import ModelError

if TYPE_CHECKING:
    import httpx

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


class Refused(ModelError):
    """The server answered with an error status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Endpoint:
    """POSTs JSON below ``base_url``; see ``rag.lm_openai.OpenAILM`` for the options. Raises ``ModelError`` for whatever goes wrong."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        timeout_seconds: float,
        retries: int,
        backoff_seconds: float,
        max_wait_seconds: float,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url={without_login(base_url)!r}: must begin with http:// or https://")
        if timeout_seconds <= 0:
            raise ValueError(f"timeout_seconds={timeout_seconds}: must be positive")
        if retries < 0:
            raise ValueError(f"retries={retries}: must not be negative")
        self._base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._timeout_seconds = timeout_seconds
        self._retries = retries
        self._backoff_seconds = backoff_seconds
        self._max_wait_seconds = max_wait_seconds
        self._opened: httpx.Client | None = None
        self._lock = threading.Lock()

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object that the server answers."""
        with self._answered(path, body, read=True) as response:
            try:
                reply = response.json()
            except ValueError as error:
                raise ModelError(self.said(path, f"sent a broken answer ({self._brief(str(error))})")) from error
        if not isinstance(reply, dict):
            raise ModelError(self.said(path, f"sent {type(reply).__name__} instead of an object"))
        return reply

    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The objects of the server-sent events, up to ``[DONE]`` or the end of the connection."""
        import httpx

        with self._answered(path, body, read=False) as response:
            try:
                for payload in _payloads(response.iter_bytes()):
                    if payload.strip() == "[DONE]":
                        return
                    event = json.loads(payload)
                    if isinstance(event, dict):
                        yield event
            except (ValueError, httpx.HTTPError, httpx.StreamError) as error:
                reason = self._brief(str(error) or type(error).__name__)
                raise ModelError(self.said(path, f"sent a broken stream ({reason})")) from error

    def said(self, path: str, what: str) -> str:
        """``POST <url> <what>``, for messages."""
        return f"POST {without_login(self._base_url)}/{path} {what}"

    def _answered(self, path: str, body: Mapping[str, Any], read: bool) -> _Answered:
        """The response with status 200, after as many tries as allowed; with ``read``, so is its body."""
        import httpx

        client = self._client()
        for tries_left in range(self._retries, -1, -1):
            attempt = self._retries - tries_left
            request = client.build_request("POST", f"{self._base_url}/{path}", json=dict(body))
            try:
                response = client.send(request, stream=not read)
            except httpx.HTTPError as error:
                if tries_left:
                    time.sleep(self._wait_seconds(attempt, None))
                    continue
                what = f"timed out after {self._timeout_seconds:g} s" if isinstance(error, httpx.TimeoutException) else "failed"
                reason = self._brief(str(error) or type(error).__name__)
                raise ModelError(self.said(path, f"{what} ({reason}; {attempt + 1} tries)")) from None
            if response.status_code == 200:
                return _Answered(response)
            with _Answered(response):
                try:
                    response.read()
                    answer = response.text
                except httpx.HTTPError:
                    answer = ""
            if tries_left and response.status_code in RETRIED:
                time.sleep(self._wait_seconds(attempt, response.headers.get("retry-after")))
                continue
            status = f"answered {response.status_code} {response.reason_phrase}".strip()
            raise Refused(self.said(path, f"{status}: {self._brief(answer)} ({attempt + 1} tries)"), response.status_code)
        raise AssertionError("the last try returns or raises")

    def _client(self) -> httpx.Client:
        import httpx

        with self._lock:
            if self._opened is None:
                headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
                self._opened = httpx.Client(headers=headers, timeout=self._timeout_seconds, follow_redirects=False)
            return self._opened

    def _wait_seconds(self, attempt: int, retry_after: str | None) -> float:
        asked = _asked_seconds(retry_after)
        if asked is not None:
            return min(asked, self._max_wait_seconds)
        # half of it random, so that many clients do not come back at once
        return min(self._backoff_seconds * 2.0**attempt * (0.5 + random.random() / 2), self._max_wait_seconds)

    def _brief(self, text: str) -> str:
        """One short line of ``text`` in which the key, or a login in the URL, is blotted out."""
        line = " ".join(text.split())
        login = urlsplit(self._base_url).netloc.rpartition("@")[0]
        for secret in (self._api_key, login):
            if secret:
                line = line.replace(secret, "***")
        return line[:300] + ("\u2026" if len(line) > 300 else "") if line else "no message"


class _Answered:
    """Closes a streamed response however its reading ends."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    def __enter__(self) -> httpx.Response:
        return self._response

    def __exit__(self, *_: object) -> None:
        self._response.close()


def _payloads(pieces: Iterator[bytes]) -> Iterator[str]:
    """The data of each server-sent event: its ``data:`` lines joined; comments and other fields are skipped.

    Lines end with a line feed alone: ``str.splitlines`` would also cut at U+2028, which JSON may hold.
    """
    held, parts = b"", list[str]()
    for piece in pieces:
        *lines, held = (held + piece).split(b"\n")
        for raw in lines:
            line = raw.decode("utf-8").removesuffix("\r")
            if line.startswith("data:"):
                parts.append(line[5:].removeprefix(" "))
            elif not line and parts:
                yield "\n".join(parts)
                parts = []
    if parts:
        yield "\n".join(parts)


def _asked_seconds(retry_after: str | None) -> float | None:
    """What a Retry-After header asks for: seconds or a date; ``None`` if there is none or it cannot be read."""
    if not retry_after:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None


def without_login(url: str) -> str:
    """``url`` without a user name and password.

    >>> without_login("http://me:secret@host:1/v1")
    'http://host:1/v1'
    """
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
