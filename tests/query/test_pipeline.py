"""The query stage inside the whole chain: events, permissions, costs, errors, conversations over HTTP and on the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from langchain_core.messages import AIMessage, HumanMessage
from typer.testing import CliRunner

from rag.core import Event, Finding, Found, Hit, Message, QueryEvent, Usage
from rag.errors import ConfigError, ModelError
from rag.pipeline import Rag
from rag.serve.server import create_app
from tests.conftest import LIGHT
from tests.fakes import ParagraphChunker, QuotingGenerator, ToyLM, WordIndex, document

DUCKS = document("ducks.txt", "Ducks swim on ponds.\n\nDucks eat weed.", meta={"topic": "birds"})
CATS = document("cats.txt", "Cats sleep.\n\nCats eat fish.", meta={"topic": "mammals"})
SECRET = document("secret.txt", "Ducks own gold.", principals=("user:ann",))
TALK = [("user", "Tell me about cats"), ("assistant", "Cats sleep. [1]")]


class Reading(QuotingGenerator):
    """Remembers the question it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.queries: list[str] = []

    def generate(self, query: str, hits: Sequence[Hit]) -> Iterator[Event]:
        self.queries.append(query)
        yield from super().generate(query, hits)


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Rag]:
    def make(block: dict[str, Any], lm: ToyLM | None = None, **components: Any) -> Rag:
        parts = {"indexes.words": WordIndex(), "chunker": ParagraphChunker(), "generator": Reading(), **components}
        config = {**LIGHT, "query": block}
        if lm is not None:
            parts["lm"] = lm
        rag = Rag.open(tmp_path / "index", config, components=parts)
        rag.ingest_documents([DUCKS, CATS, SECRET])
        return rag

    return make


def test_plain_is_the_default_shows_no_stage_and_reads_no_history(opened: Callable[..., Rag]) -> None:
    rag = opened({"use": "plain"})
    assert [event.stage for event in rag.stages("cats eat", history=TALK)] == ["words", "select"]
    assert rag.search("ducks weed", history=TALK) == rag.search("ducks weed")


def test_the_chain_shows_what_was_searched_and_reads_the_rewritten_question(opened: Callable[..., Rag]) -> None:
    generator = Reading()
    rag = opened({"use": "rewrite"}, ToyLM(answer=lambda prompt: "What do cats eat?"), generator=generator)
    events = list(rag.stages("And what do they eat?", history=TALK))
    assert [event.stage for event in events] == ["words", "query:rewrite", "select"]
    assert isinstance(events[1], QueryEvent) and events[1].queries == ("What do cats eat?",) and events[1].hits == events[0].hits
    answer = rag.ask("And what do they eat?", history=TALK)
    assert answer.query == "And what do they eat?" and generator.queries == ["What do cats eat?"]
    assert answer.text == "Cats eat fish. [1]" and answer.usage.lm_calls == 1
    assert set(answer.seconds) == {"words", "query:rewrite", "select", "generate"}


def test_rerankers_and_the_selector_read_the_rewritten_question(opened: Callable[..., Rag]) -> None:
    seen: list[str] = []

    class Spy:
        def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
            seen.append(query)
            return list(hits)

    rag = opened({"use": "carry"}, select=Spy())
    rag.ask("What do they eat?", history=TALK)
    assert seen == ["What do they eat? cats"]


def test_an_index_shows_once_whatever_the_number_of_searches(opened: Callable[..., Rag]) -> None:
    waiting = iter(["cats fish", "ducks weed", "NOTHING"])
    rag = opened({"use": "multi-hop"}, ToyLM(answer=lambda prompt: next(waiting)))
    events = list(rag.stages("ponds"))
    assert [event.stage for event in events] == ["words", "query:multi-hop", "select"]
    assert {hit.chunk.text for hit in events[0].hits} >= {"Ducks swim on ponds.", "Cats eat fish.", "Ducks eat weed."}
    assert all(hit.why["multi-hop"] for hit in events[1].hits)


def test_what_the_indexes_found_shows_before_the_fusion_begins(tmp_path: Path) -> None:
    class Late:
        reads_vectors = False
        has_begun = False

        def fuse(self, rankings: Any, vectors: Any) -> list[Hit]:
            self.has_begun = True
            return list(rankings["words"])

    late = Late()
    config = {**LIGHT, "indexes": {"words": {"use": "bm25"}, "other": {"use": "bm25"}}}
    parts = {"indexes.words": WordIndex(), "indexes.other": WordIndex(), "chunker": ParagraphChunker(), "fuse": late}
    rag = Rag.open(tmp_path / "index", config, components=parts)
    rag.ingest_documents([DUCKS, CATS])
    events = rag.stages("ducks")
    assert [next(events).stage, next(events).stage] == ["words", "other"] and not late.has_begun
    assert [event.stage for event in events] == ["fuse", "select"] and late.has_begun
    left = rag.stages("ducks")
    next(left)
    left.close()


def test_a_component_can_be_wrapped(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []

    def wrap(kind: str, key: str, component: Any) -> Any:
        seen.append((kind, key))
        return Reading() if kind == "generator" else component

    parts = {"indexes.words": WordIndex(), "chunker": ParagraphChunker(), "generator": QuotingGenerator()}
    rag = Rag.open(tmp_path / "index", LIGHT, components=parts, wrap=wrap)
    rag.ingest_documents([DUCKS])
    rag.ask("ducks")
    assert isinstance(rag.generator, Reading) and rag.generator.queries == ["ducks"]
    assert sorted(seen) == [
        ("chunker", "chunker"), ("generator", "generator"), ("index", "indexes.words"), ("query", "query"), ("selector", "select"),
    ]  # fmt: skip


def test_no_search_of_a_stage_sees_more_than_the_one_who_asks(opened: Callable[..., Rag]) -> None:
    def greedy(prompt: str) -> str:
        return f"ducks own gold {len(lm.prompts)}"

    lm = ToyLM(answer=greedy)
    rag = opened({"use": "multi-hop", "max_rounds": 2}, lm)
    for options in ({}, {"principals": ["user:bob"]}):
        assert all("gold" not in hit.chunk.text for event in rag.stages("ducks", **options) for hit in event.hits)  # type: ignore[arg-type]
        assert all("gold." not in prompt for prompt in lm.prompts)
    assert any("gold" in hit.chunk.text for hit in rag.search("ducks", principals=["user:ann"]))
    found = rag.search("ducks", principals=["user:ann"], where="topic = 'mammals'")
    assert {hit.chunk.doc_id for hit in found} <= {CATS.id}


def test_an_evaluation_finds_what_single_questions_find(opened: Callable[..., Rag]) -> None:
    rag = opened({"use": "multi-query"}, ToyLM(answer=lambda prompt: "- cats fish\n- ducks weed"))
    batch = rag.search_each(["ponds", "sleep"], 10)
    assert all(set(stages) == {"words", "fused"} for stages in batch)
    for query, stages in zip(["ponds", "sleep"], batch, strict=True):
        assert [hit.chunk.id for hit in stages["fused"]] == [hit.chunk.id for hit in rag.search(query)]


def test_a_model_that_fails_names_the_stage_and_nothing_is_answered(opened: Callable[..., Rag]) -> None:
    def dead(prompt: str) -> str:
        raise ModelError("the server is gone")

    rag = opened({"use": "hyde"}, ToyLM(answer=dead))
    for call in (rag.ask, rag.search, lambda query: list(rag.stages(query))):
        with pytest.raises(ModelError, match="query stage 'hyde': the server is gone"):
            call("ducks")


def test_bad_turns_and_empty_questions_are_refused(opened: Callable[..., Rag]) -> None:
    rag = opened({"use": "carry"})
    with pytest.raises(ValueError, match=r"history\[0\] is 'hello'"):
        rag.ask("ducks", history=["hello"])
    with pytest.raises(ValueError, match="the query is empty"):
        rag.search(" ", history=TALK)
    assert rag.ask("cats", history=()).text


def test_stages_inside_stages_are_configured_as_blocks(opened: Callable[..., Rag]) -> None:
    route = {"use": "route", "complex": {"use": "multi-hop", "max_rounds": 1}, "simple": {"use": "carry"}}
    lm = ToyLM(answer=lambda prompt: "cats fish" if "PASSAGE" in prompt else "What is the difference between ducks and cats?")
    rag = opened({"use": "rewrite", "then": route}, lm)
    *_, event, _ = rag.stages("And the difference?", history=TALK)
    assert isinstance(event, QueryEvent) and event.queries == ("What is the difference between ducks and cats?", "cats fish")
    assert event.notes[0] == "complex: it compares" and event.usage.lm_calls == 2
    with pytest.raises(ConfigError, match=r"query\.then\.use: unknown query 'rewrit' \(did you mean 'rewrite'\?\)"):
        opened({"use": "carry", "then": {"use": "rewrit"}}).search("ducks")
    with pytest.raises(ConfigError, match="query .hyde. needs a model: add `models: {lm:"):
        opened({"use": "hyde"}).search("ducks")


def test_an_own_stage_in_three_lines(opened: Callable[..., Rag]) -> None:
    class Loud:
        rewrites = True

        def find(self, question: str, history: Sequence[Message]) -> Finding:
            (hits,) = yield [question.lower()]
            return Found(question.lower(), hits, Usage(lm_calls=3), ("lower case",))

    answer = opened({"use": "plain"}, query=Loud()).ask("CATS SLEEP")
    assert answer.text == "Cats sleep. [1]" and answer.usage.lm_calls == 3


async def test_the_async_twins_take_the_conversation(opened: Callable[..., Rag]) -> None:
    rag = opened({"use": "carry"})
    assert (await rag.aask("What do they eat?", history=TALK)).text == "Cats eat fish. [1]"
    assert (await rag.asearch("What do they eat?", history=TALK))[0].chunk.text == "Cats eat fish."
    assert any([isinstance(event, QueryEvent) async for event in rag.astream("What do they eat?", history=TALK)])


def test_a_chat_over_http_is_a_conversation(opened: Callable[..., Rag]) -> None:
    said = [{"role": role, "content": content} for role, content in TALK]
    asked = {"messages": [{"role": "system", "content": "Be kind."}, *said, {"role": "user", "content": "What do they eat?"}]}
    with TestClient(create_app(opened({"use": "carry"}))) as client:
        body = client.post("/v1/chat/completions", json=asked).json()
        assert body["choices"][0]["message"]["content"] == "Cats eat fish. [1]" and body["rag"]["support"] == "full"
        streamed = client.post("/v1/chat/completions", json={**asked, "stream": True}).text
        assert "Cats eat fish." in streamed
        found = client.post("/v1/search", json={"query": "What do they eat?", "history": said}).json()
        assert found["hits"][0]["chunk"]["text"] == "Cats eat fish."
        assert body["rag"]["queries"] == ["What do they eat? cats"] and body["rag"]["notes"] == ["carried: cats"]


def test_a_langchain_retriever_takes_the_conversation(opened: Callable[..., Rag]) -> None:
    from rag.langchain import RagRetriever

    retriever = RagRetriever(rag=opened({"use": "carry"}), k=1)
    (found,) = retriever.invoke("What do they eat?", history=[HumanMessage("Tell me about cats"), AIMessage("They sleep.")])
    assert found.page_content == "Cats eat fish."


def test_the_command_line_takes_conversations(tmp_path: Path) -> None:
    from rag import cli

    (tmp_path / "cats.txt").write_text("Cats sleep all day. Cats eat fish in the evening.")
    (tmp_path / "ducks.txt").write_text("Ducks swim on ponds. Ducks eat weed in the morning.")
    (tmp_path / "rag.yaml").write_text("{models: {tokenizer: {use: words}}, indexes: {words: {use: bm25}}, chunker: {use: fixed}}")
    index = ["--index", str(tmp_path / "index")]
    config = ["--config", str(tmp_path / "rag.yaml")]
    ingested = CliRunner().invoke(cli.app, ["ingest", str(tmp_path), "--include", "*.txt", *index, *config])
    assert ingested.exit_code == 0, ingested.output
    said = CliRunner().invoke(cli.app, ["chat", *index], input="Do cats sleep?\nWhat do they eat?\n\n")
    (tmp_path / "talk.json").write_text('[{"role": "user", "content": "Do cats sleep?"}]')
    (tmp_path / "carry.yaml").write_text((tmp_path / "rag.yaml").read_text()[:-1] + ", query: {use: carry}}")
    asking = ["ask", "What do they eat?", *index, "--config", str(tmp_path / "carry.yaml"), "--json", "--history"]
    answer = json.loads(CliRunner().invoke(cli.app, [*asking, str(tmp_path / "talk.json")]).output)
    assert "Cats eat fish in the evening. [1]" in answer["text"] and answer["support"] == "full" and "cats" in answer["queries"][0]
    refused = CliRunner().invoke(cli.app, [*asking, str(tmp_path / "rag.yaml")])
    assert isinstance(refused.exception, ConfigError) and "is not JSON" in str(refused.exception)
    assert said.exit_code == 0 and "Cats sleep all day. [1]" in said.output and "Cats eat fish in the evening. [1]" in said.output


def test_the_answer_says_what_was_searched(opened: Callable[..., Rag]) -> None:
    answer = opened({"use": "carry"}).ask("What do they eat?", history=TALK)
    assert answer.queries == ("What do they eat? cats",) and answer.notes == ("carried: cats",)
    assert opened({"use": "plain"}).ask("What do they eat?", history=TALK).queries == ()
