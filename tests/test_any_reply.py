"""Whatever a language model replies, query stages and readers of many sources end well: a law over random replies."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag.abstain import AbstainGenerator
from rag.core import CitationEvent, Generator, Message, QueryStage, StageEvent, TextEvent, UsageEvent
from rag.feedback import FeedbackGenerator
from rag.generate import LMGenerator
from rag.map_reduce import MapReduceGenerator
from rag.margins import MarginsGenerator
from rag.query.drive import drive
from rag.query.hyde import HydeQuery
from rag.query.multi_hop import MultiHopQuery
from rag.query.rewrite import RewriteQuery
from rag.query.route import RouteQuery
from rag.query.several import DecomposeQuery, MultiQuery
from tests.fakes import ToyLM
from tests.test_map_reduce import hits

HOSTILE = [
    "",
    "NOTHING",
    "- a\n- b",
    "1. a",
    "[1]",
    "[9] [1][2]",
    "\ud800",
    "{}",
    "```json\n{}\n```",
    "<think>",
    "<|im_end|>",
    "\u202e\x00",
    "[" * 3000,
]
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(-2, 9), max_size=3)
)
KEYS = ("information", "rationale", "answer", "confidence", "sources", "score", "context")
REPLIES = st.lists(
    st.one_of(
        st.sampled_from(HOSTILE),
        st.text(max_size=60),
        st.dictionaries(st.sampled_from(KEYS), VALUES).map(json.dumps),
        st.fixed_dictionaries({name: VALUES for name in KEYS[:5]}).map(json.dumps),
        st.fixed_dictionaries({"score": st.integers(0, 11), "context": st.sampled_from(["right", "too much", "too little"])}).map(
            json.dumps
        ),
    ),
    min_size=1,
    max_size=6,
)
LAW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TALK = (Message("user", "Tell me about the bridge"), Message("assistant", "It is grey."))


def saying(replies: list[str], chance: float = 0.5) -> ToyLM:
    """Gives the replies in turn, over and over."""
    lm = ToyLM(judge=lambda prompt: (chance, 1 - chance))
    lm.answer = lambda prompt: replies[len(lm.prompts) % len(replies)]
    return lm


@given(REPLIES)
@LAW
def test_every_query_stage_finds_something(replies: list[str]) -> None:
    lm = saying(replies)
    stages: list[QueryStage] = [
        RewriteQuery(lm), RewriteQuery(lm, then=MultiHopQuery(lm)), HydeQuery(lm, keep_question=False), MultiQuery(lm),
        DecomposeQuery(lm, keep_question=False), MultiHopQuery(lm, max_rounds=2), RouteQuery(HydeQuery(lm), by="lm", lm=lm),
    ]  # fmt: skip
    for stage in stages:
        (course,) = drive("word", stage, ["When was it opened?"], TALK, lambda queries: [("words", [hits() for _ in queries], 0.0)])
        assert 1 <= len(course.queries) <= 6 and all(query.strip() and len(query) <= 2000 for query in course.queries)
        assert {hit.chunk.id for hit in course.found.hits} == {hit.chunk.id for hit in hits()}


@given(REPLIES, st.floats(0, 1))
@LAW
def test_every_reader_answers_or_declines_with_citations_that_stand_in_the_sources(replies: list[str], chance: float) -> None:
    lm = saying(replies, chance)
    readers: list[Generator] = [
        MapReduceGenerator(lm, group_tokens=60), MarginsGenerator(lm, segment_tokens=12),
        FeedbackGenerator(LMGenerator(lm), lm=lm, first=2, step=1), AbstainGenerator(MapReduceGenerator(lm, group_tokens=125), lm=lm),
    ]  # fmt: skip
    texts = {hit.chunk.doc_id: "Preface. " + hit.chunk.text for hit in hits()}
    for reader in readers:
        *events, last = reader.generate("When was the bridge opened?", hits())
        assert isinstance(last, UsageEvent) and last.abstained == (last.support == "none")
        assert "".join(event.text for event in events if isinstance(event, TextEvent)).strip()
        for event in events:
            assert isinstance(event, (StageEvent, TextEvent, CitationEvent))
            if isinstance(event, CitationEvent):
                cited = event.citation
                assert texts[cited.doc_id][cited.start : cited.end] == cited.quote and 1 <= cited.number <= 4
