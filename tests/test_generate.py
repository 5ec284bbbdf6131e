"""The LM generator, with a scripted model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from rag.core import (
    Chunk,
    Citation,
    CitationEvent,
    Completion,
    Document,
    Hit,
    Message,
    Prompt,
    Span,
    TextEvent,
    TokenLogprobs,
    UsageEvent,
)
from rag.generate import LMGenerator
from rag.prompt import ABSTENTION

TOWER = "The Eiffel Tower is 330 metres tall. It was built in 1889 by Gustave Eiffel."
DUCKS = "Ducks are water birds. Mallards weigh about 1.1 kg."


def hit(name: str, text: str) -> Hit:
    document = Document(Document.id_of(name), name, text)
    return Hit(Chunk.of(document, Span(0, len(text))), 1.0)


HITS = [hit("tower", TOWER), hit("ducks", DUCKS)]


class ScriptedLM:
    """Says ``text`` in pieces of ``size`` characters, whatever it is asked."""

    fingerprint = "scripted"
    context_tokens: int | None = None

    def count_tokens(self, prompt: Prompt) -> int:
        return len(str(prompt)) // 4

    def __init__(self, text: str, size: int = 3) -> None:
        self.text = text
        self.size = size
        self.prompts: list[Prompt] = []

    def stream(self, prompt: Prompt, *, stop: Sequence[str] = (), max_tokens: int = 256) -> Iterator[str | Completion]:
        self.prompts.append(prompt)
        for start in range(0, len(self.text), self.size):
            yield self.text[start : start + self.size]
        yield Completion(self.text, 100, 20, "stop")

    def complete(self, prompts: Sequence[Prompt], *, stop: Sequence[str] = (), max_tokens: int = 256) -> list[Completion]:
        return [Completion(self.text, 100, 20, "stop") for _ in prompts]

    def score(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[list[float]]:
        return [[0.0 for _ in choices] for _ in prompts]

    def logprobs(self, texts: Sequence[str]) -> list[TokenLogprobs]:
        return [TokenLogprobs((), ()) for _ in texts]

    def continuation_logprobs(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[float]:
        return [0.0 for _ in prompts]


def answer(text: str, size: int = 3, hits: Sequence[Hit] = HITS) -> tuple[str, list[Citation], UsageEvent]:
    *events, last = list(LMGenerator(ScriptedLM(text, size)).generate("How tall is the tower?", hits))
    assert isinstance(last, UsageEvent)
    words = "".join(event.text for event in events if isinstance(event, TextEvent))
    return words, [event.citation for event in events if isinstance(event, CitationEvent)], last


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
@pytest.mark.parametrize(
    ("said", "printed", "numbers", "num_dropped"),
    [
        ("The tower is 330 metres tall [1].", "The tower is 330 metres tall [1].", [1], 0),
        (
            "The tower is 330 metres tall.[1] Mallards weigh 1.1 kg. [2]",
            "The tower is 330 metres tall.[1] Mallards weigh 1.1 kg. [2]",
            [1, 2],
            0,
        ),
        ("The tower is 330 metres tall [2].", "The tower is 330 metres tall.", [], 1),
        ("The tower is 330 metres tall [1, 2] [9].", "The tower is 330 metres tall [1].", [1], 2),
        ("According to [1], Eiffel built it in 1889.", "According to [1], Eiffel built it in 1889.", [1], 0),
        ("Cats purr [1]. It was built in 1889 [1]!", "Cats purr. It was built in 1889 [1]!", [1], 1),
        ("- Built in 1889 [1]\n- Mallards weigh 1.1 kg [1-2]\n", "- Built in 1889 [1]\n- Mallards weigh 1.1 kg [2]\n", [1, 2], 1),
        (
            "It is 330 metres tall [1], and mallards weigh 1.1 kg [2].",
            "It is 330 metres tall [1], and mallards weigh 1.1 kg [2].",
            [1, 2],
            0,
        ),
        ("No marks here. None at all", "No marks here. None at all", [], 0),
    ],
)
def test_marks_are_kept_if_borne_out(said: str, printed: str, numbers: list[int], num_dropped: int, size: int) -> None:
    words, citations, last = answer(said, size)
    assert words == printed
    assert [citation.number for citation in citations] == numbers
    assert last.usage.dropped_citations == num_dropped
    for citation in citations:
        text = HITS[citation.number - 1].chunk.text
        assert citation.quote == text[citation.start : citation.end]


def test_a_sentence_without_marks_is_not_held_back() -> None:
    events = LMGenerator(ScriptedLM("The tower is tall and made of iron", 4)).generate("q", HITS)
    assert next(events) == TextEvent("The")


def test_the_same_quotation_is_offered_once() -> None:
    _, citations, _ = answer("The tower is 330 metres tall [1]. Yes, 330 metres tall [1].")
    assert len(citations) == 1


def test_usage_is_the_models() -> None:
    usage = answer("It was built in 1889 [1].")[2].usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.lm_calls) == (100, 20, 1)


@pytest.mark.parametrize(
    ("said", "abstained"),
    [
        (ABSTENTION, True),
        ("The sources don't contain this.", True),
        ("I cannot answer this from the sources.", True),
        ("", True),
        ("The tower is 330 metres tall [1].", False),
        ("The sources do not mention a name, but it was built in 1889 [1].", False),
        ("Sources of the river are unknown.", False),
    ],
)
def test_abstention(said: str, abstained: bool) -> None:
    words, _, last = answer(said)
    assert last.abstained is abstained
    assert words == (said or ABSTENTION)


def test_no_hits_no_question_to_the_model() -> None:
    lm = ScriptedLM("x")
    events = list(LMGenerator(lm, abstention="Nothing found.").generate("q", []))
    assert events[0] == TextEvent("Nothing found.") and isinstance(events[1], UsageEvent) and events[1].abstained
    assert not lm.prompts


def test_the_prompt_has_roles_sources_and_the_abstention() -> None:
    lm = ScriptedLM("x")
    list(LMGenerator(lm, abstention="Nothing found.").generate("How tall?", HITS))
    prompt = lm.prompts[0]
    assert not isinstance(prompt, str)
    system, user = prompt
    assert "reply exactly: Nothing found." in system.content and TOWER in user.content


class SmallLM(ScriptedLM):
    """Has little room and counts one token per word."""

    context_tokens = 260

    def count_tokens(self, prompt: Prompt) -> int:
        return len(str(prompt).split())


def test_the_models_own_room_limits_the_sources() -> None:
    lm = SmallLM("The tower is 330 metres tall [1]. Word [3].")
    hits = [hit(str(i), TOWER + " " + "word " * 30) for i in range(3)]
    *_, last = LMGenerator(lm, max_tokens=20).generate("How tall?", hits)
    assert sum(len(message.content.split()) for message in lm.prompts[0] if isinstance(message, Message)) <= 240
    assert isinstance(last, UsageEvent) and last.usage.dropped_citations == 1  # [3] was not shown


@pytest.mark.parametrize("options", [{"max_tokens": 0}, {"max_prompt_tokens": 0}, {"min_support": 2.0}])
def test_bad_options_are_named(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        LMGenerator(ScriptedLM(""), **options)  # type: ignore[arg-type]
