"""Several queries for one question, written by a language model and searched together. Knows no index."""

from __future__ import annotations

from collections.abc import Sequence

from rag.core import LM, Finding, Found, Message
from rag.forms import listed_lines
from rag.query.asking import MAX_QUERY_CHARS, Asker, fallen_back
from rag.query.merge import distinct, merged

PARAPHRASE = """You write queries for a search engine. Write {num} queries that ask the same as the question in other words: synonyms,
another order, the words that a document on the subject would use. Keep names and numbers as they are; do not answer.
Reply with the queries alone, one a line, each beginning with "- "."""

DECOMPOSE = """You write queries for a search engine. Split the question into at most {num} simple questions, each of which one passage can
answer and which can be understood alone; together they cover the question. If it is simple already, write it alone.
Reply with the questions alone, one a line, each beginning with "- "."""


class _SeveralQueries:
    """Asks for a list of queries and merges their rankings and that of the question by reciprocal rank fusion."""

    rewrites = True
    word = ""
    task = ""

    def __init__(self, lm: LM, num_queries: int, keep_question: bool, max_tokens: int, max_prompt_tokens: int) -> None:
        if not 1 <= num_queries <= 20:
            raise ValueError(f"num_queries={num_queries}: must be between 1 and 20")
        self._asker = Asker(lm, max_tokens, max_prompt_tokens)
        self.num_queries = num_queries
        self.keep_question = keep_question

    def find(self, question: str, history: Sequence[Message]) -> Finding:
        """One call of the model (two if the first reply is bad), one search of all queries. ``history`` is not read."""
        task = self.task.format(num=self.num_queries)
        reply = self._asker.ask(task, question, (), lambda text: listed_lines(text, self.num_queries, MAX_QUERY_CHARS))
        written = reply.value or []
        rankings = yield distinct([*([question] if self.keep_question or not written else []), *written])
        return Found(question, merged(self.word, rankings), reply.usage, fallen_back(self.word, reply))


class MultiQuery(_SeveralQueries):
    """Searches for the question and ``num_queries`` paraphrases of it, in one batch, merged by reciprocal rank fusion over the queries.

    ``keep_question``: the question itself is one of the queries. A reply that is not a list of at most ``num_queries`` lines of at
    most 500 characters is asked for once more; after that the question is searched alone, and a note says so. The later
    stages read the question. The conversation is not read: ``rewrite`` with ``then: {use: multi-query}`` reads it.
    """

    word = "multi-query"
    task = PARAPHRASE

    def __init__(
        self, lm: LM, num_queries: int = 3, keep_question: bool = True, max_tokens: int = 200, max_prompt_tokens: int = 1000
    ) -> None:
        super().__init__(lm, num_queries, keep_question, max_tokens, max_prompt_tokens)


class DecomposeQuery(_SeveralQueries):
    """Searches for the simple questions that ``lm`` splits the question into, in one batch, merged by reciprocal rank fusion.

    ``num_queries``: at most so many of them; ``keep_question``: the whole question is searched too. The rest is as in ``multi-query``.
    """

    word = "decompose"
    task = DECOMPOSE

    def __init__(
        self, lm: LM, num_queries: int = 4, keep_question: bool = True, max_tokens: int = 200, max_prompt_tokens: int = 1000
    ) -> None:
        super().__init__(lm, num_queries, keep_question, max_tokens, max_prompt_tokens)
