"""The server over real HTTP semantics (an in-process client) and once over a real socket."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from rag.pipeline import Rag
from rag.serve.server import create_app
from tests.fakes import ParagraphChunker, QuotingGenerator, WordIndex, document

ROOT = Path(__file__).parents[1]
PARTS: dict[str, Callable[[], Any]] = {"indexes.words": WordIndex, "chunker": ParagraphChunker, "generator": QuotingGenerator}


def served(folder: Path, **serve: object) -> TestClient:
    config = {"indexes": {"words": {"use": "bm25"}}, "chunker": {"use": "fixed"}, "serve": serve}
    rag = Rag.open(folder, config, components={name: make() for name, make in PARTS.items()})
    return TestClient(create_app(rag))


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with served(tmp_path / "index") as client:
        yield client


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[TestClient]:
    config = {"indexes": {"words": {"use": "bm25"}}, "chunker": {"use": "fixed"}}
    rag = Rag.open(tmp_path / "index", config, components={name: make() for name, make in PARTS.items()})
    rag.ingest_documents([document("ducks", "Ducks eat weed."), document("secret", "Ducks own gold.", principals=("user:ann",))])
    with served(tmp_path / "index") as client:
        yield client


def wait_for(client: TestClient, job: str) -> dict[str, Any]:
    for _ in range(600):
        state: dict[str, Any] = client.get(f"/v1/jobs/{job}").json()
        if state["status"] in ("done", "failed"):
            return state
        time.sleep(0.1)
    raise AssertionError("the job did not end")


def test_health_and_readiness(client: TestClient, filled: TestClient) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert filled.get("/ready").json() == {"status": "ready", "documents": 2, "chunks": 2}
    assert filled.get("/v1/models").json()["data"][0]["id"] == "rag"
    assert "/v1/chat/completions" in filled.get("/openapi.json").json()["paths"]


def test_not_ready_without_an_index(client: TestClient) -> None:
    assert client.get("/ready").status_code == 503
    assert client.post("/v1/search", json={"query": "x"}).status_code == 503


def test_upload_search_chat_delete(client: TestClient) -> None:
    files = [("files", ("cats.md", b"# Cats\n\nCats eat fish.")), ("files", ("../../bad.pdf", b"%PDF-no"))]
    accepted = client.post("/v1/documents", files=files)
    assert accepted.status_code == 202
    state = wait_for(client, accepted.json()["job"])
    assert state["status"] == "done" and list(state["failed"]) == ["bad.pdf"]
    (hit,) = client.post("/v1/search", json={"query": "fish"}).json()["hits"]
    assert hit["source"] == "upload:cats.md"
    (listed,) = client.get("/v1/documents").json()["data"]
    assert client.delete(f"/v1/documents/{listed['id']}").json() == {"deleted": 1}
    assert client.post("/v1/search", json={"query": "fish"}).json()["hits"] == []
    assert client.delete(f"/v1/documents/{listed['id']}").status_code == 404
    assert client.get("/v1/jobs/none").status_code == 404


def test_chat_answers_in_openai_s_shape(filled: TestClient) -> None:
    body = {
        "model": "rag",
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "what is weed"}],
        "temperature": 0,
    }
    answer = filled.post("/v1/chat/completions", json=body).json()
    message = answer["choices"][0]["message"]
    assert (message["role"], message["content"]) == ("assistant", "Ducks eat weed. [1]")
    (citation,) = message["annotations"]
    assert "Ducks eat weed."[citation["start"] : citation["end"]] == citation["quote"]
    assert set(answer["rag"]["seconds"]) == {"words", "select", "generate"}
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]


def test_the_stream_joined_is_the_answer(filled: TestClient) -> None:
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "weed"}]}], "stream": True}
    with filled.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    assert len({chunk["id"] for chunk in chunks}) == 1
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == "Ducks eat weed. [1]"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop" and len(chunks[-1]["choices"][0]["delta"]["annotations"]) == 1


def test_nobody_sees_what_is_not_theirs(filled: TestClient, tmp_path: Path) -> None:
    assert filled.post("/v1/search", json={"query": "gold"}).json()["hits"] == []
    assert [row["source"] for row in filled.get("/v1/documents").json()["data"]] == ["ducks"]
    assert filled.post("/v1/search", json={"query": "gold", "principals": ["user:ann"]}).status_code == 403
    with served(tmp_path / "index", trust_principals=True) as trusting:
        assert len(trusting.post("/v1/search", json={"query": "gold", "principals": ["user:ann"]}).json()["hits"]) == 1
        assert trusting.post("/v1/search", json={"query": "gold", "principals": ["user:bob"]}).json()["hits"] == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"query": ""}, 422),
        ({"query": "   "}, 422),
        ({"query": "x", "k": 0}, 422),
        ({"query": "x", "k": 10_000}, 413),
        ({"query": "x" * 9000}, 413),
        ({"query": "x", "where": "a ="}, 422),
        ({"query": "x", "wher": "a = 1"}, 422),
        ({}, 422),
    ],
)
def test_bad_requests(filled: TestClient, body: dict[str, Any], status: int) -> None:
    assert filled.post("/v1/search", json=body).status_code == status


def test_bad_chats(filled: TestClient) -> None:
    assert filled.post("/v1/chat/completions", json={"messages": []}).status_code == 422
    error = filled.post("/v1/chat/completions", json={"messages": [{"role": "assistant", "content": "hi"}]})
    assert error.status_code == 422 and "user message" in error.json()["error"]["message"]


def test_limits_and_key(tmp_path: Path) -> None:
    with served(tmp_path / "index", max_body_mb=1, api_key="k3y") as client:
        assert client.get("/health").status_code == 200
        assert client.get("/v1/models").status_code == 401
        assert client.get("/v1/models", headers={"Authorization": "Bearer wrong"}).status_code == 401
        headers = {"Authorization": "Bearer k3y"}
        assert client.get("/v1/models", headers=headers).status_code == 200
        big = client.post("/v1/documents", files=[("files", ("a.txt", b"x" * 2_000_000))], headers=headers)
        assert big.status_code == 413 and "1 MiB" in big.json()["error"]["message"]
        endless = client.post("/v1/search", content=iter([b"{}"]), headers=headers)
        assert endless.status_code == 411


def test_the_queue_of_uploads_is_bounded(tmp_path: Path) -> None:
    with served(tmp_path / "index", max_queued_jobs=1) as client:
        codes = [client.post("/v1/documents", files=[("files", (f"{n}.txt", b"some text"))]).status_code for n in range(8)]
        assert set(codes) == {202, 429}


def test_a_real_server_answers_and_stops_on_a_signal(tmp_path: Path) -> None:
    (tmp_path / "ducks.txt").write_text("Mallards nest close to water.")
    (tmp_path / "light.yaml").write_text(
        "indexes: {words: {use: bm25}}\nmodels: {tokenizer: {use: words}}\nchunker: {use: recursive}\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "rag"]
    subprocess.run([*command, "ingest", "ducks.txt", "-c", "light.yaml"], cwd=tmp_path, env=environment, check=True)
    server = subprocess.Popen([*command, "serve", "--port", "0"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        address = next(match[0] for line in server.stderr if (match := re.search(r"http://127\.0\.0\.1:\d+", line)))
        hits = httpx.post(f"{address}/v1/search", json={"query": "where do mallards nest"}, timeout=60).json()["hits"]
        assert "close to water" in hits[0]["chunk"]["text"]
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) in (0, -signal.SIGTERM)
