"""A passage that would answer the question, written by a language model to search with. Knows no index."""

from __future__ import annotations

from collections.abc import Sequence

from rag.core import LM, Finding, Found, Message
from rag.query.asking import Asker, fallen_back
from rag.query.merge import distinct, merged

TASK = """Write a passage of about 80 words, as it might stand in a document, that answers the question. It is used to find real
passages that resemble it and is never shown, so guess where you do not know. Write the passage alone."""


class HydeQuery:
    """Searches for a hypothetical answer beside the question, and merges the two rankings (reciprocal rank fusion).

    HyDE (arXiv 2212.10496): a made-up answer lies nearer to real answers than the question does. It averages the vectors of several
    made-up answers and of the question; here every index takes part, so rankings are merged in place of vectors, and the one passage
    is the model's most likely one. ``keep_question``: search for the question too. The later stages read the question.

    A reply without at least three words is asked for once more; after that the question is searched alone, and a note says so. The
    conversation is not read: ``rewrite`` with ``then: {use: hyde}`` reads it.
    """

    rewrites = True

    def __init__(self, lm: LM, keep_question: bool = True, max_tokens: int = 160, max_prompt_tokens: int = 1000) -> None:
        self._asker = Asker(lm, max_tokens, max_prompt_tokens)
        self.keep_question = keep_question

    def find(self, question: str, history: Sequence[Message]) -> Finding:
        """One call of the model (two if the first reply is bad), one search of one or two queries."""
        reply = self._asker.ask(TASK, question, (), _passage, may_be_cut=True)
        kept = [question] if self.keep_question or reply.value is None else []
        rankings = yield distinct([*kept, reply.value or ""])
        return Found(question, merged("hyde", rankings), reply.usage, fallen_back("hyde", reply))


def _passage(text: str) -> str:
    words = text.split()
    if len(words) < 3:
        raise ValueError(f"it has {len(words)} words where a passage was asked for")
    return " ".join(words)
