"""An OpenAI-compatible server on 127.0.0.1 behind which a ``ToyLM`` answers."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from rag.core import Completion, Message
from tests.fakes import ToyLM

CHOICES = ("yes", "no")


class ToyHandler(BaseHTTPRequestHandler):
    """Chat completions, streamed or not, with the log-probabilities of ``CHOICES`` if asked; completions that echo."""

    server: ToyServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.num_requests += 1
        if self.path.endswith("/chat/completions"):
            self._chat(body)
        else:
            self._echo(body["prompt"])

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _chat(self, body: Mapping[str, Any]) -> None:
        prompt = [Message(turn["role"], turn["content"]) for turn in body["messages"]]
        *pieces, last = self.server.lm.stream(prompt, stop=body.get("stop", ()), max_tokens=body["max_tokens"])
        assert isinstance(last, Completion)
        usage = {"prompt_tokens": last.prompt_tokens, "completion_tokens": last.completion_tokens}
        if body.get("stream"):
            events: list[dict[str, Any]] = [{"choices": [{"delta": {"content": piece}}]} for piece in pieces]
            events += [{"choices": [{"delta": {}, "finish_reason": last.finish}]}, {"choices": [], "usage": usage}]
            self._send("".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n", "text/event-stream")
            return
        choice: dict[str, Any] = {"message": {"role": "assistant", "content": last.text}, "finish_reason": last.finish}
        if body.get("logprobs"):
            values = self.server.lm.score([prompt], CHOICES)[0]
            top = [{"token": word, "logprob": value} for word, value in zip(CHOICES, values, strict=True)]
            choice["logprobs"] = {"content": [{"token": CHOICES[0], "top_logprobs": top}]}
        self._send(json.dumps({"choices": [choice], "usage": usage}))

    def _echo(self, text: str) -> None:
        (found,) = self.server.lm.logprobs([text])
        listed = {
            "text_offset": [span.start for span in found.spans],
            "token_logprobs": [None if math.isnan(value) else value for value in found.logprobs],
        }
        self._send(json.dumps({"choices": [{"text": text, "logprobs": listed}]}))

    def _send(self, text: str, kind: str = "application/json") -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class ToyServer(ThreadingHTTPServer):
    """``url`` is its ``/v1``; ``num_requests`` counts."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ToyHandler)
        self.lm = ToyLM()
        self.num_requests = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


@contextmanager
def toy_server() -> Iterator[ToyServer]:
    """A running server, stopped at the end."""
    server = ToyServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
