"""Search, ask what is missing, search for that, and so on, within bounds. Knows hits and a language model; knows no index."""

from __future__ import annotations

from collections.abc import Sequence

from rag.core import LM, Finding, Found, Hit, Message, Usage
from rag.forms import one_line
from rag.query.asking import MAX_QUERY_CHARS, Asker
from rag.query.merge import distinct, merged

TASK = """You see a question and passages that a search found for it. If the passages hold every fact that the answer needs, reply with the one
word NOTHING. Otherwise reply with one search query, on one line, for the fact that is missing; use names that the passages gave.
Do not answer the question."""

_DONE = ("nothing", "none", "no", "nothing is missing")


class MultiHopQuery:
    """Searches for the question, then at most ``max_rounds`` times for what ``lm`` says is missing from the passages found so far.

    It stops when the model says that nothing is missing, asks for what was searched before, or when a search brings no new chunk among
    its first ``num_passages``. The model sees the first ``num_passages`` of the merged ranking, at most ``max_words`` words of each,
    and at most ``max_prompt_tokens`` in all. Rankings are merged by reciprocal rank fusion over the queries. The later stages read
    the question. A reply in another form is asked for once more; after that the search ends with what it has, and a note says so.
    The conversation is not read: ``rewrite`` with ``then: {use: multi-hop}`` reads it.
    """

    rewrites = True

    def __init__(
        self,
        lm: LM,
        max_rounds: int = 3,
        num_passages: int = 6,
        max_words: int = 150,
        max_tokens: int = 96,
        max_prompt_tokens: int = 4000,
    ) -> None:
        for name, value in (("max_rounds", max_rounds), ("num_passages", num_passages), ("max_words", max_words)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        self._asker = Asker(lm, max_tokens, max_prompt_tokens)
        self.max_rounds = max_rounds
        self.num_passages = num_passages
        self.max_words = max_words

    def find(self, question: str, history: Sequence[Message]) -> Finding:
        """At most ``max_rounds + 1`` searches and ``max_rounds`` questions to the model (each twice if its reply is bad)."""
        queries, rankings = distinct([question]), list[list[Hit]]()
        rankings += yield queries
        usage, note = Usage(), f"stopped after {self.max_rounds} rounds"
        for _ in range(self.max_rounds):
            shown = merged("multi-hop", rankings)[: self.num_passages]
            reply = self._asker.ask(
                TASK, question, self._asker.passages(TASK, question, shown, self.max_words),
                lambda text: one_line(text, MAX_QUERY_CHARS),
            )  # fmt: skip
            usage += reply.usage
            if reply.value is None:
                note = f"multi-hop: the model's reply could not be read ({reply.fault}); the search ended there"
                break
            if reply.value.casefold().strip(" .!") in _DONE:
                note = "nothing is missing"
                break
            if len(distinct([*queries, reply.value])) == len(queries):
                note = f"{reply.value!r} was searched before"
                break
            queries.append(reply.value)
            known = {hit.chunk.id for ranking in rankings for hit in ranking[: self.num_passages]}
            (ranking,) = yield [reply.value]
            rankings.append(ranking)
            if all(hit.chunk.id in known for hit in ranking[: self.num_passages]):
                note = f"{reply.value!r} brought nothing new"
                break
        return Found(question, merged("multi-hop", rankings), usage, (note,))
