"""Sentences and questions of every relation a fact can have. Knows templates and who can stand in them, draws nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rag.eval.reader import names

Thing = Literal["person", "town", "word"]


@dataclass(frozen=True, slots=True)
class Relation:
    """One relation: ``{s}`` is the subject, ``{v}`` the value, ``{a}`` the article of the value.

    ``opening`` does not begin with the subject, so that it can begin a chunk (a name at the start of a line has no space
    before it and would be another token); ``carried`` is said of a pronoun; ``phrase`` names the value inside a question.
    """

    name: str
    subject: Thing
    value: Thing
    opening: str
    plain: str
    question: str
    words: Sequence[str] = ()
    phrase: str = ""

    @property
    def carried(self) -> str:
        """The plain sentence with a pronoun for its subject."""
        return self.plain.replace("{s}", "{p}")


RELATIONS = (
    Relation(
        "home", "person", "town", "The home of {s} is {v}.", "{s} lives in {v}.", "Where does {s} live?", phrase="the home of {s}"
    ),
    Relation("job", "person", "word", "The job of {s} is {v}.", "{s} works as {a} {v}.", "What is the job of {s}?", names.TRADES),
    Relation(
        "language",
        "person",
        "word",
        "The language of {s} is {v}.",
        "{s} speaks {v}.",
        "Which language does {s} speak?",
        names.LANGUAGES,
    ),
    Relation(
        "instrument",
        "person",
        "word",
        "The instrument of {s} is the {v}.",
        "{s} plays the {v}.",
        "Which instrument does {s} play?",
        names.INSTRUMENTS,
    ),
    Relation(
        "pet", "person", "word", "The pet of {s} is {a} {v}.", "{s} keeps {a} {v}.", "Which pet does {s} keep?", names.ANIMALS
    ),
    Relation(
        "colour", "person", "word", "The colour of {s} is {v}.", "{s} likes {v}.", "Which colour does {s} like?", names.COLOURS
    ),
    Relation(
        "mentor",
        "person",
        "person",
        "The mentor of {s} is {v}.",
        "{s} has the mentor {v}.",
        "Who is the mentor of {s}?",
        phrase="the mentor of {s}",
    ),
    Relation(
        "rival",
        "person",
        "person",
        "The rival of {s} is {v}.",
        "{s} has the rival {v}.",
        "Who is the rival of {s}?",
        phrase="the rival of {s}",
    ),
    Relation(
        "neighbour",
        "person",
        "person",
        "The neighbour of {s} is {v}.",
        "{s} has the neighbour {v}.",
        "Who is the neighbour of {s}?",
        phrase="the neighbour of {s}",
    ),
    Relation("goods", "town", "word", "The goods of {s} are {v}.", "{s} sells {v}.", "What does {s} sell?", names.GOODS),
    Relation(
        "river",
        "town",
        "word",
        "The river of {s} is the {v}.",
        "{s} lies on the {v}.",
        "On which river does {s} lie?",
        names.RIVERS,
    ),
    Relation("mayor", "town", "person", "The mayor of {s} is {v}.", "{s} has the mayor {v}.", "Who is the mayor of {s}?"),
)
"""Every relation, persons' first."""

CLOSINGS: dict[Thing, tuple[str, ...]] = {
    "person": ("The next name is {s}.", "Then there is {s}."),
    "town": ("The next town is {s}.", "Then there is {s}."),
}
"""Last sentences of a chunk whose next chunk goes on about ``{s}`` with a pronoun."""


def article(word: str) -> str:
    """The indefinite article of ``word``.

    >>> article("otter"), article("ukulele"), article("baker")
    ('an', 'a', 'a')
    """
    return "an" if word[0] in "aeio" else "a"
