"""The client of OpenAI-compatible servers, against a real server on 127.0.0.1."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from rag.core import Completion, Message
from rag.errors import ModelError
from rag.lm_openai import OpenAILM

KEY = "sk-very-secret-0123456789"
Reply = Callable[["Handler", dict[str, Any]], None]


class Server(ThreadingHTTPServer):
    """Answers request ``i`` with ``script[i]`` (the last one for all further requests) and keeps what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Reply] = []
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.paths.append(self.path)
            self.server.keys.append(self.headers.get("authorization"))
            reply = self.server.script[min(len(self.server.bodies), len(self.server.script)) - 1]
        reply(self, body)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def send(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


def says(text: str, finish: str = "stop", **choice: Any) -> Reply:
    reply = {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish, **choice}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
    }
    return lambda handler, _: handler.send(200, json.dumps(reply).encode())


def fails(status: int, text: str = '{"error": "no"}', **headers: str) -> Reply:
    return lambda handler, _: handler.send(status, text.encode(), **headers)


def events(*payloads: object, done: bool = True, broken: bytes = b"") -> Reply:
    lines = [b": keep-alive\n\n", *(b"data: " + json.dumps(p, ensure_ascii=False).encode() + b"\n\n" for p in payloads)]
    body = b"".join(lines) + broken + (b"data: [DONE]\n\n" if done else b"")
    return lambda handler, _: handler.send(200, body, "text/event-stream")


def delta(text: str | None, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"delta": {} if text is None else {"content": text}, "finish_reason": finish}]}


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def client(server: Server, **options: Any) -> OpenAILM:
    return OpenAILM("m", server.url, **{"api_key": KEY, "timeout_seconds": 5, "backoff_seconds": 0.01, **options})


def test_a_completion(server: Server) -> None:
    server.script = [says("Hello. END more")]
    found = client(server).complete([[Message("system", "Be brief."), Message("user", "Hi")]], stop=["END"], max_tokens=9)
    assert found == [Completion("Hello. ", 7, 3, "stop")]
    assert server.paths == ["/v1/chat/completions"] and server.keys == [f"Bearer {KEY}"]
    assert server.bodies[0] == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "max_tokens": 9,
        "temperature": 0,
        "stop": ["END"],
    }


def test_many_prompts_keep_their_order(server: Server) -> None:
    def echo(handler: Handler, body: dict[str, Any]) -> None:
        time.sleep(0.02 * (3 - len(body["messages"][0]["content"])))
        says(body["messages"][0]["content"] * 2, "length")(handler, body)

    server.script = [echo]
    found = client(server).complete(["a", "bb", "ccc"])
    assert [(each.text, each.finish) for each in found] == [("aa", "length"), ("bbbb", "length"), ("cccccc", "length")]


def test_a_stream_comes_in_pieces_and_ends_with_the_completion(server: Server) -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
    server.script = [
        events(
            {"choices": [{"delta": {"role": "assistant"}}]}, delta("Gr\u00fc\u2028"), delta("\u00dfe"), delta(None, "length"), usage
        )
    ]
    assert list(client(server).stream("x")) == ["Gr\u00fc\u2028", "\u00dfe", Completion("Gr\u00fc\u2028\u00dfe", 5, 2, "length")]
    assert server.bodies[0]["stream"] is True


def test_a_stream_is_cut_before_a_stop_string(server: Server) -> None:
    server.script = [events(delta("one E"), delta("ND two"), delta(None, "stop"))]
    *pieces, last = client(server).stream("x", stop=["END"])
    assert pieces == ["one "] and isinstance(last, Completion) and last.text == "one "


def test_the_first_piece_does_not_wait_for_the_last(server: Server) -> None:
    gate = threading.Event()

    def slowly(handler: Handler, _: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("connection", "close")
        handler.end_headers()
        handler.wfile.write(b"data: " + json.dumps(delta("one")).encode() + b"\n\n")
        handler.wfile.flush()
        assert gate.wait(5)
        handler.wfile.write(b"data: " + json.dumps(delta(" two", "stop")).encode() + b"\n\ndata: [DONE]\n\n")
        handler.close_connection = True

    server.script = [slowly]
    stream = client(server).stream("x")
    assert next(stream) == "one"
    gate.set()
    assert next(stream) == " two"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_failures_are_tried_again(server: Server, status: int) -> None:
    server.script = [fails(status), fails(status), says("ok")]
    assert client(server).complete(["x"])[0].text == "ok"
    server.bodies.clear()
    server.script = [fails(status), events(delta("ok", "stop"))]
    assert next(client(server).stream("x")) == "ok"


def test_retry_after_is_honoured_and_limited(server: Server) -> None:
    server.script = [fails(429, retry_after="0.3"), says("ok")]
    started = time.monotonic()
    client(server).complete(["x"])
    assert 0.3 <= time.monotonic() - started < 3
    server.bodies.clear()
    server.script = [fails(429, retry_after="3600"), says("ok")]
    started = time.monotonic()
    client(server, max_wait_seconds=0.1).complete(["x"])
    assert time.monotonic() - started < 3


def test_retries_end(server: Server) -> None:
    server.script = [fails(500, "boom")]
    with pytest.raises(ModelError, match=r"POST http://127\.0\.0\.1:\d+/v1/chat/completions answered 500 .*boom.*3 tries"):
        client(server, retries=2).complete(["x"])
    assert len(server.bodies) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_lasting_failures_are_not_tried_again_and_keep_the_key(server: Server, status: int) -> None:
    server.script = [fails(status, json.dumps({"error": f"bad key {KEY}"}))]
    with pytest.raises(ModelError, match=f"answered {status}") as caught:
        client(server).complete(["x"])
    assert len(server.bodies) == 1
    assert KEY not in str(caught.value) and "***" in str(caught.value)


def test_the_key_is_nowhere_to_be_seen(server: Server) -> None:
    lm = OpenAILM("m", server.url.replace("http://", "http://me:hunter2@"), api_key=KEY, retries=0)
    server.script = [fails(401, "me:hunter2 is wrong")]
    with pytest.raises(ModelError) as caught:
        lm.complete(["x"])
    for text in (repr(lm), str(lm), lm.fingerprint, str(caught.value), repr(vars(lm))):
        assert KEY not in text and "hunter2" not in text
    assert lm.fingerprint == OpenAILM("m", server.url).fingerprint != OpenAILM("n", server.url).fingerprint


def test_redirects_are_not_followed_with_the_key(server: Server) -> None:
    server.script = [fails(307, location=server.url + "/elsewhere")]
    with pytest.raises(ModelError, match="answered 307"):
        client(server).complete(["x"])
    assert len(server.bodies) == 1


def test_a_time_out_is_named(server: Server) -> None:
    server.script = [lambda handler, _: time.sleep(0.6)]
    with pytest.raises(ModelError, match=r"timed out after 0\.1 s.*2 tries"):
        client(server, timeout_seconds=0.1, retries=1).complete(["x"])


def test_nobody_listens() -> None:
    with pytest.raises(ModelError, match=r"POST http://127\.0\.0\.1:9/v1/chat/completions failed .*2 tries"):
        OpenAILM("m", "http://127.0.0.1:9/v1", retries=1, backoff_seconds=0.01, timeout_seconds=2).complete(["x"])


@pytest.mark.parametrize(
    "reply",
    [
        events(delta("one"), done=False, broken=b"data: {not json\n\n"),
        events(delta("one"), done=False),
        events(delta("one"), {"error": {"message": "out of memory"}}),
        events(delta("one"), done=False, broken=b"data: \xff\xfe\n\n"),
    ],
)
def test_a_broken_stream_is_an_error_and_not_tried_again(server: Server, reply: Reply) -> None:
    server.script = [reply, events(delta("again", "stop"))]
    stream = client(server).stream("x")
    assert next(stream) == "one"
    with pytest.raises(ModelError, match="broke|broken"):
        list(stream)
    assert len(server.bodies) == 1


def test_a_connection_that_dies_in_the_stream_is_an_error(server: Server) -> None:
    def dies(handler: Handler, _: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "99999")
        handler.end_headers()
        handler.wfile.write(b"data: " + json.dumps(delta("one")).encode() + b"\n\n")
        handler.close_connection = True

    server.script = [dies]
    stream = client(server).stream("x")
    assert next(stream) == "one"
    with pytest.raises(ModelError, match="broken stream"):
        list(stream)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"choices": []}'])
def test_a_broken_answer_is_an_error(server: Server, body: bytes) -> None:
    server.script = [lambda handler, _: handler.send(200, body)]
    with pytest.raises(ModelError, match=r"chat/completions sent"):
        client(server).complete(["x"])


def top(**probabilities: float) -> dict[str, Any]:
    listed = [{"token": token.replace("_", " "), "logprob": math.log(p)} for token, p in probabilities.items()]
    return {"logprobs": {"content": [{"token": "x", "logprob": -1.0, "top_logprobs": listed}]}}


def test_scores_sum_the_spellings_that_the_server_lists(server: Server) -> None:
    server.script = [says("Yes", **top(Yes=0.5, _yes=0.2, YES=0.05, No=0.1, n=0.05, Maybe=0.04))]
    (row,) = client(server).score(["x"], ("yes", "no"))
    assert [math.exp(value) for value in row] == pytest.approx([0.75, 0.15])
    assert server.bodies[0]["logprobs"] is True and server.bodies[0]["max_tokens"] == 1


def test_a_choice_that_is_not_listed_gets_an_upper_bound(server: Server) -> None:
    server.script = [says("Yes", **top(Yes=0.9, sure=0.07))]
    (row,) = client(server).score(["x"], ("yes", "no"))
    assert [math.exp(value) for value in row] == pytest.approx([0.9, 0.03])


@pytest.mark.parametrize(
    ("first", "answer", "expected"),
    [
        (says("The"), "Yes, it does.", [0.98, 0.02]),
        (says("The"), "I would say: no", [0.02, 0.98]),
        (fails(400, "logprobs not supported"), "NO.", [0.02, 0.98]),
        (says("The"), "Yesterday nothing", [0.5, 0.5]),
    ],
)
def test_a_server_without_log_probabilities_is_asked_for_a_word(
    server: Server, first: Reply, answer: str, expected: list[float]
) -> None:
    server.script = [first, says(answer)]
    (row,) = client(server).score(["Is it?"], ("yes", "no"))
    assert [math.exp(value) for value in row] == pytest.approx(expected)
    assert "exactly one of these" in server.bodies[1]["messages"][-1]["content"]


def test_log_probabilities_of_a_text(server: Server) -> None:
    listed = {"tokens": ["Ducks", " swim", "."], "token_logprobs": [None, -2.0, -0.5], "text_offset": [0, 5, 10]}
    server.script = [
        lambda handler, _: handler.send(200, json.dumps({"choices": [{"text": "Ducks swim.", "logprobs": listed}]}).encode())
    ]
    (found,) = client(server).logprobs(["Ducks swim"])
    assert [tuple(span) for span in found.spans] == [(0, 5), (5, 10)]
    assert math.isnan(found.logprobs[0]) and found.logprobs[1] == -2.0
    assert server.paths == ["/v1/completions"] and server.bodies[0]["echo"] is True


@pytest.mark.parametrize("reply", [says("no echo"), fails(404)])
def test_a_server_that_does_not_echo_says_so(server: Server, reply: Reply) -> None:
    server.script = [reply]
    with pytest.raises(ModelError, match="completions"):
        client(server).logprobs(["Ducks swim"])


@pytest.mark.parametrize(("name", "value"), [("base_url", "ftp://x"), ("timeout_seconds", 0), ("retries", -1), ("parallel", 0)])
def test_bad_options_are_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        OpenAILM(**{"model": "m", "base_url": "http://x", name: value})  # type: ignore[arg-type]


def echoes(offsets: list[int], logprobs: list[float | None]) -> Reply:
    listed = {"token_logprobs": logprobs, "text_offset": offsets}
    return lambda handler, _: handler.send(200, json.dumps({"choices": [{"text": "", "logprobs": listed}]}).encode())


def test_log_probability_of_a_continuation(server: Server) -> None:
    server.script = [echoes([0, 5, 10, 14, 18], [None, -2.0, -0.5, -0.25, -9.0])]
    assert client(server).continuation_logprobs(["Ducks swim"], [" far off"]) == pytest.approx([-0.75])
    assert server.bodies[0]["prompt"] == "Ducks swim far off" and server.paths == ["/v1/completions"]
    server.script = [echoes([0, 3, 8], [None, -2.0, -0.5])]  # the token from 3 to 8 holds the end of the prompt and more
    assert client(server).continuation_logprobs(["Ducks"], ["swim!"]) == pytest.approx([-2.5])


def test_messages_are_written_out_before_a_continuation(server: Server) -> None:
    server.script = [echoes([0], [None])]
    asked = [Message("system", "Be brief."), Message("user", "Which question?")]
    with pytest.raises(ModelError, match="one token of the prompt"):
        client(server).continuation_logprobs([asked], ["What?"])
    assert server.bodies[0]["prompt"] == "System: Be brief.\n\nUser: Which question?\n\nAssistant: What?"
    server.script = [echoes([0, 52], [None, -1.0])]
    assert client(server).continuation_logprobs([asked, "x"], ["What?", ""]) == [-1.0, 0.0]


def test_continuations_without_echo_or_without_a_partner_are_errors(server: Server) -> None:
    server.script = [says("no echo")]
    with pytest.raises(ModelError, match="echo is not supported"):
        client(server).continuation_logprobs(["Ducks"], [" swim"])
    with pytest.raises(ValueError, match="2 continuations for 1 prompts"):
        client(server).continuation_logprobs(["Ducks"], ["a", "b"])
    with pytest.raises(ValueError, match="empty prompt"):
        client(server).continuation_logprobs([""], ["a"])


def test_sampling_is_asked_for_in_answers_and_not_in_scores(server: Server) -> None:
    server.script = [says("ok")]
    lm = client(server, temperature=0.7, top_p=0.9, seed=4)
    lm.complete(["x"])
    lm.score(["x"], ("yes", "no"))
    drawn, scored, named = server.bodies
    assert (drawn["temperature"], drawn["top_p"], drawn["seed"]) == (0.7, 0.9, 4)
    for body in (scored, named):
        assert body["temperature"] == 0 and not {"top_p", "seed"} & body.keys()
    names = {client(server, **options).fingerprint for options in ({}, {"temperature": 0.7}, {"temperature": 0.7, "seed": 1})}
    assert len(names) == 3
    assert client(server, seed=5).fingerprint == client(server).fingerprint  # a seed says nothing where nothing is drawn
    with pytest.raises(ValueError, match="top_p=0"):
        client(server, top_p=0)
