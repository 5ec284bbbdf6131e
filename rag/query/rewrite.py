"""A question of a conversation, rewritten by a language model so that it stands alone. Knows turns, no index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rag.core import LM, Finding, Message, QueryStage
from rag.forms import one_line
from rag.query.asking import MAX_QUERY_CHARS, Asker, fallen_back
from rag.query.plain import PlainQuery

TASK = """You prepare questions for a search engine that does not see the conversation they come from.
Rewrite the question so that it can be understood alone: put names in the place of words that refer to earlier turns, and add what the
conversation has made clear. Keep its meaning and its language; do not answer it; add nothing that was not said. If it stands alone
already, repeat it unchanged. Reply with the question alone, on one line."""


class RewriteQuery:
    """Lets ``lm`` rewrite the question from the conversation before it; then ``then`` (default: ``plain``) searches for that.

    Without a conversation nothing is asked. A reply that is not one line of at most 500 characters is asked for once more, and
    after that the question stays as it is; a note says so. ``max_prompt_tokens``: the oldest turns are left out beyond that. The later
    stages and the generator read the rewritten question.
    """

    rewrites = True

    def __init__(self, lm: LM, then: QueryStage | None = None, max_tokens: int = 128, max_prompt_tokens: int = 2000) -> None:
        self._asker = Asker(lm, max_tokens, max_prompt_tokens)
        self.then = then or PlainQuery()

    def find(self, question: str, history: Sequence[Message]) -> Finding:
        """One call of the model (two if the first reply is bad) and the searches of ``then``."""
        turns = self._asker.turns(TASK, question, history)
        if not turns:
            return (yield from self.then.find(question, ()))
        reply = self._asker.ask(TASK, question, turns, lambda text: one_line(text, MAX_QUERY_CHARS))
        found = yield from self.then.find(reply.value or question, ())
        return replace(found, usage=reply.usage + found.usage, notes=fallen_back("rewrite", reply) + found.notes)
