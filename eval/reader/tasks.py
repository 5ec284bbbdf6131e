"""Generated tasks: chunks of facts about people and towns, and questions with the chunks their answers stand in.

Knows words and sentences, no tokens and no model. Three kinds of question:

- ``direct``: one sentence of one chunk names the subject and the value;
- ``two-hop``: the question names a person by a fact of one chunk, the value stands in another chunk;
- ``cross-chunk``: a chunk ends by naming a person or a town, the next has sentences about "She", "He" or "It", at its beginning
  or (``carried_at="middle"``) after a sentence about something else. At least two chunks (from three on) have the same kinds of
  such sentences, so without the chunk before it none can be told from its likes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rag.eval.reader import names
from rag.eval.reader.relations import CLOSINGS, RELATIONS, Relation, Thing, article

Kind = Literal["direct", "two-hop", "cross-chunk"]
Place = Literal["start", "middle"]
KINDS: tuple[Kind, ...] = ("direct", "two-hop", "cross-chunk")

_PRONOUNS = {"woman": "She", "man": "He", "town": "It"}
_MAX_TRIES = 50
_MAX_RUN = 3  # chunks in a row that one document was cut into
_CARRIED_TOWNS = 0.25  # share of instances whose cross-chunk facts are about towns


@dataclass(frozen=True, slots=True)
class Fact:
    """``subject`` has ``value`` by ``relation``: stated in chunk ``chunk`` (from 0), by a pronoun if ``carried``."""

    subject: str
    relation: str
    value: str
    chunk: int
    sentence: str
    carried: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its answer and the chunks (from 0) that state what it rests on.

    The answer is a whole sentence by name without its full stop, ``value`` the words in it that had to be found.
    """

    kind: Kind
    text: str
    answer: str
    evidence: tuple[int, ...]
    value: str


@dataclass(frozen=True, slots=True)
class Instance:
    """What one prompt is made of: the chunks in prompt order, all facts, and every question they answer."""

    chunks: tuple[str, ...]
    facts: tuple[Fact, ...]
    questions: tuple[Question, ...]


def make(
    seed: int,
    num_chunks: int,
    *,
    facts_per_chunk: tuple[int, int] = (2, 4),
    num_relations: tuple[int, int] = (4, 8),
    carried_at: Place = "start",
) -> Instance:
    """The instance of ``seed``: ``num_chunks`` chunks of a random number of named facts within ``facts_per_chunk``.

    All facts are of a random number of relations within ``num_relations``: the fewer, the more often only the subject tells
    two sentences apart. ``carried_at``: where the sentences with a pronoun stand in their chunk; in the ``middle`` they follow one more named
    fact, about a town if the pronoun is a person's and about a person if it is a town's. The same arguments give the same instance on every machine. Raises ``ValueError`` for fewer than 2 chunks, more than
    12, or bounds that are not 1 <= low <= high <= 6.
    """
    low, high = facts_per_chunk
    if not 2 <= num_chunks <= 12:
        raise ValueError(f"num_chunks must be 2 to 12, not {num_chunks}")
    if not 1 <= num_relations[0] <= num_relations[1]:
        raise ValueError(f"num_relations must be two numbers 1 <= low <= high, not {num_relations}")
    if not 1 <= low <= high <= 6:
        raise ValueError(f"facts_per_chunk must be two numbers 1 <= low <= high <= 6, not {facts_per_chunk}")
    return _Writer(random.Random(seed), num_chunks, facts_per_chunk, num_relations, carried_at).write()


def pick(instance: Instance, kind: Kind, seed: int) -> Question | None:
    """One question of ``kind``, drawn by ``seed``; None if the instance has none."""
    of_kind = [question for question in instance.questions if question.kind == kind]
    return random.Random(seed).choice(of_kind) if of_kind else None


class _Writer:
    """The draws of one instance: a cast, facts by chunk, and which chunk borders a subject is carried over."""

    def __init__(
        self, rng: random.Random, num_chunks: int, facts: tuple[int, int], num_relations: tuple[int, int], carried_at: Place
    ) -> None:
        self.rng, self.num_chunks, self.carried_at = rng, num_chunks, carried_at
        self.num_named = [rng.randint(*facts) for _ in range(num_chunks)]
        self.borders = _borders(rng, num_chunks)
        cast = max(4, len(self.borders) + 2, 2 * sum(self.num_named) // 3)
        self.carried_thing: Thing = "town" if rng.random() < _CARRIED_TOWNS else "person"
        families = rng.sample(names.FAMILIES, cast + len(self.borders))
        carried_firsts = rng.choice([names.WOMEN, names.MEN])
        firsts = rng.sample(carried_firsts, len(self.borders))
        firsts += rng.sample([name for name in names.WOMEN + names.MEN if name not in firsts], cast)
        people = [f"{first} {family}" for first, family in zip(firsts, families, strict=True)]
        towns = rng.sample(names.TOWNS, max(3, num_chunks) + len(self.borders))
        self.carried = (towns if self.carried_thing == "town" else people)[: len(self.borders)]
        self.pronoun = _PRONOUNS["town" if self.carried_thing == "town" else "woman" if carried_firsts is names.WOMEN else "man"]
        self.cast: dict[Thing, list[str]] = {"person": people[len(self.borders) :], "town": towns[len(self.borders) :]}
        self.unused: dict[str, list[str]] = {}
        self.known: dict[tuple[str, str], Fact] = {}
        self.carried_facts: list[Fact] = []
        kinds = [relation for relation in RELATIONS if relation.subject == self.carried_thing]
        self.carried_relations = rng.sample(kinds, rng.randint(1, 2))
        self.relations = self._relations(rng.randint(*num_relations))

    def write(self) -> Instance:
        """All draws in a fixed order: chains for two-hop questions, other named facts, carried facts, then the text."""
        named: list[list[Fact]] = [[] for _ in range(self.num_chunks)]
        self._chains(named)
        for chunk, facts in enumerate(named):
            tries = 0
            while len(facts) < self.num_named[chunk]:
                tries += 1  # all that the chosen relations can say of this cast may be said: then any relation will do
                if (fact := self._named(chunk, self.relations if tries < _MAX_TRIES else RELATIONS)) is not None:
                    facts.append(fact)
        chunks, facts = [], []
        for chunk in range(self.num_chunks):
            self.rng.shuffle(named[chunk])
            sentences, stated = self._chunk(chunk, named[chunk])
            chunks.append(" ".join(sentences))
            facts += stated
        return Instance(tuple(chunks), tuple(facts), tuple(_questions(facts)))

    def _relations(self, count: int) -> list[Relation]:
        """``count`` relations (or as many as it takes): the carried ones, one that leads on to others, and one it leads on to."""
        link = self.rng.choice([relation for relation in RELATIONS if relation.phrase])
        onward = self.rng.choice([relation for relation in RELATIONS if relation.subject == link.value and relation is not link])
        chosen = list({relation.name: relation for relation in [*self.carried_relations, link, onward]}.values())
        others = [relation for relation in RELATIONS if relation not in chosen]
        return chosen + self.rng.sample(others, max(0, count - len(chosen)))

    def _chunk(self, chunk: int, named: Sequence[Fact]) -> tuple[list[str], list[Fact]]:
        stated: list[Fact] = []
        if chunk in self.borders:
            if self.carried_at == "middle":
                stated.append(self._about_something_else(chunk))
            subject = self.carried[self.borders.index(chunk)]
            for relation in self.rng.sample(self.carried_relations, len(self.carried_relations)):
                value = self._value(
                    relation, subject, taken=[fact.value for fact in self.carried_facts if fact.relation == relation.name]
                )
                sentence = relation.carried.format(p=self.pronoun, v=value, a=article(value))
                stated.append(Fact(subject, relation.name, value, chunk, sentence, carried=True))
            self.carried_facts += [fact for fact in stated if fact.carried]
        for fact in named:
            relation = _RELATION[fact.relation]
            template = relation.opening if not stated or self.rng.random() < 0.5 else relation.plain
            sentence = template.format(s=fact.subject, v=fact.value, a=article(fact.value))
            stated.append(Fact(fact.subject, fact.relation, fact.value, chunk, sentence))
        sentences = [fact.sentence for fact in stated]
        if chunk + 1 in self.borders:
            closing = self.rng.choice(CLOSINGS[self.carried_thing])
            sentences.append(closing.format(s=self.carried[self.borders.index(chunk + 1)]))
        return sentences, stated

    def _about_something_else(self, chunk: int) -> Fact:
        """A named fact that leaves no doubt whom the pronoun after it means."""
        others = [relation for relation in RELATIONS if relation.subject != self.carried_thing and relation.value == "word"]
        tries = 0
        while (fact := self._named(chunk, others)) is None:
            tries += 1
            if tries == _MAX_TRIES and self.carried_thing == "person":  # all may be said of the few towns: one more town
                self.cast["town"].append(self.rng.choice([town for town in names.TOWNS if town not in self.cast["town"]]))
        sentence = _RELATION[fact.relation].opening.format(s=fact.subject, v=fact.value, a=article(fact.value))
        return Fact(fact.subject, fact.relation, fact.value, chunk, sentence)

    def _chains(self, named: list[list[Fact]]) -> None:
        """Pairs of named facts in two different chunks: the value of the first is the subject of the second."""
        for _ in range(max(1, self.num_chunks // 2)):
            places = [chunk for chunk in range(self.num_chunks) if len(named[chunk]) < self.num_named[chunk]]
            if len(places) < 2:
                return
            first, second = self.rng.sample(places, 2)
            link = self._named(first, [relation for relation in self.relations if relation.phrase])
            if link is None:
                continue
            named[first].append(link)
            thing = _RELATION[link.relation].value
            onwards = [relation for relation in self.relations if relation.subject == thing]
            if onwards and (onward := self._named(second, onwards, link.value)) is not None:
                named[second].append(onward)

    def _named(self, chunk: int, relations: Sequence[Relation], subject: str | None = None) -> Fact | None:
        """A new fact by name, or None if what was drawn is stated already."""
        relation = self.rng.choice(relations)
        subject = subject or self.rng.choice(self.cast[relation.subject])
        spent = relation.value != "person" and len(self._left(relation)) <= len(self.borders)  # the rest is for carried facts
        if spent or (subject, relation.name) in self.known:
            return None
        fact = Fact(subject, relation.name, self._value(relation, subject), chunk, "")
        self.known[subject, relation.name] = fact
        return fact

    def _value(self, relation: Relation, subject: str, taken: Sequence[str] = ()) -> str:
        """A person not in ``taken``; anything else is given once per instance and relation, so that values tell subjects apart."""
        if relation.value == "person":
            return self.rng.choice([name for name in self.cast["person"] if name != subject and name not in taken])
        return self._left(relation).pop()

    def _left(self, relation: Relation) -> list[str]:
        """Words not yet given as values of ``relation``; the last is given next."""
        if relation.name not in self.unused:
            words = list(names.TOWNS if relation.value == "town" else relation.words)
            self.rng.shuffle(words)
            # towns that have facts of their own come first, so that some homes lead on to a second hop
            self.unused[relation.name] = sorted(words, key=lambda word: word in self.cast["town"])
        return self.unused[relation.name]


_RELATION = {relation.name: relation for relation in RELATIONS}


def _borders(rng: random.Random, num_chunks: int) -> list[int]:
    """The chunks that go on with the subject of the chunk before: runs of 1 to 3 chunks, at least two borders from 3 chunks on."""
    while True:
        borders: list[int] = []
        start = 0
        while start < num_chunks:
            run = rng.randint(1, _MAX_RUN)
            borders += range(start + 1, min(start + run, num_chunks))
            start += run
        if len(borders) >= min(2, num_chunks - 1):
            return borders


def _stated(fact: Fact) -> str:
    """The fact as a whole sentence by name, without its full stop: what a question about it is answered with."""
    return _RELATION[fact.relation].opening.format(s=fact.subject, v=fact.value, a=article(fact.value)).removesuffix(".")


def _questions(facts: Sequence[Fact]) -> list[Question]:
    """Every question the facts answer, in the order of the facts."""
    questions = []
    for fact in facts:
        relation = _RELATION[fact.relation]
        text = relation.question.format(s=fact.subject)
        evidence = (fact.chunk - 1, fact.chunk) if fact.carried else (fact.chunk,)
        questions.append(Question("cross-chunk" if fact.carried else "direct", text, _stated(fact), evidence, fact.value))
        if fact.carried or not relation.phrase:
            continue
        for onward in facts:
            if onward.subject == fact.value and not onward.carried and onward.chunk != fact.chunk:
                text = _RELATION[onward.relation].question.format(s=relation.phrase.format(s=fact.subject))
                questions.append(Question("two-hop", text, _stated(onward), (fact.chunk, onward.chunk), onward.value))
    return questions
