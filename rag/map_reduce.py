"""Answers from more sources than one prompt holds: read in groups, noted down, the notes put together. Knows hits and a language model.

LLMxMapReduce (arXiv 2410.09342): every group of sources becomes a note {information, rationale, answer, confidence}; notes that are
too long together are collapsed into fewer of the same form; the answer is written from the notes, weighed by reason and confidence.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from rag.citations import MIN_SUPPORT
from rag.core import LM, Chunk, Event, Hit, Message, StageEvent, TextEvent, Usage, UsageEvent
from rag.forms import DATA_RULE, Reply, ask_each, json_object, room_for
from rag.generate import LMGenerator, checked_answer
from rag.prompt import ABSTENTION, inert, sourced_prompt, unmarked

KEYS = ("information", "rationale", "answer", "confidence", "sources")
DEFAULT_PROMPT_TOKENS = 6000
MAX_COLLAPSES = 4
FRAME_TOKENS = 48
"""What stands around a source or a note in a prompt: two lines with the key."""
MAX_NOTE_CHARS = 4000
_T = TypeVar("_T")

_FORM = """Reply with one JSON object and nothing else, with exactly these keys:
"information": the facts that bear on the question, as they are stated; "" if there are none
"rationale": in one sentence, how they lead to the answer, or why they do not
"answer": what they answer, or ""
"confidence": a number from 0 to 5
"sources": the numbers of the sources that the information comes from, such as [1, 3]
How to set the confidence, for the question "When was the bridge opened?":
"The bridge was opened on 19 March 1932." is stated outright: 5.
"Work on the bridge ended in early 1932, and traffic crossed it that spring." lets one conclude: 3.
"The bridge was being built in the 1920s." is near the subject, the answer a guess: 1.
"The bridge is 503 metres long." does not bear on the question: information "" and confidence 0."""

MAP = f"""You read a part of a larger set of numbered sources and note down what it holds on a question. Others read the other parts.
{_FORM}
Each source stands between a BEGIN and an END line. {DATA_RULE}"""

COLLAPSE = f"""You put several notes on one question together into one note that loses no fact. Where notes contradict each other, keep the claim
with the better rationale and the higher confidence, and say so in the rationale.
{_FORM}
{DATA_RULE}"""

REDUCE = f"""You answer a question from notes that readers made of numbered sources; you do not see the sources.
Use only the information in the notes. Where notes contradict each other, weigh their rationales and prefer the higher confidence
(0 to 5). After each sentence, cite the numbers of the sources that its notes name, in square brackets, such as [1] or [1][3]. Do not
speak of notes or readers. If the notes do not contain the answer, reply exactly: {ABSTENTION}
{DATA_RULE}"""


@dataclass(frozen=True, slots=True)
class Note:
    """What a group of sources holds on the question. ``numbers``: of the hits (from 1) that it comes from."""

    information: str
    rationale: str
    answer: str
    confidence: float
    numbers: tuple[int, ...]


class MapReduceGenerator:
    """Lets ``lm`` read the hits in groups of about ``group_tokens`` tokens, all groups in one call, and answer from its notes.

    A note is a JSON object, checked; a bad one is asked for once more and then left out (``Usage.unread_replies`` counts it). Notes without
    information are left out; if none is left, the answer is ``abstention``. Notes beyond the room of a prompt are collapsed group by
    group, at most 4 times, and then those with the least confidence are dropped. If all hits fit one group, or some note could not be
    read and no other has information, the hits are answered from directly, as by ``use: lm``.

    The answer cites hits by number, and each citation is checked against the text of its hit, not against the note. Costs one prompt
    per group and one for the answer. ``max_note_tokens``: length of a note. A hit longer than ``group_tokens`` is a group of its own
    and is cut where the model's context ends. The rest is as in ``use: lm``.
    """

    def __init__(
        self,
        lm: LM,
        group_tokens: int = 1500,
        max_note_tokens: int = 300,
        max_tokens: int = 400,
        max_prompt_tokens: int | None = None,
        min_support: float = MIN_SUPPORT,
        abstention: str = ABSTENTION,
    ) -> None:
        for name, value in (("group_tokens", group_tokens), ("max_note_tokens", max_note_tokens)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        self._direct = LMGenerator(lm, max_tokens, max_prompt_tokens, min_support, abstention)
        self.lm = lm
        self.group_tokens = group_tokens
        self.max_note_tokens = max_note_tokens
        self.max_tokens = max_tokens
        self.max_prompt_tokens = max_prompt_tokens or DEFAULT_PROMPT_TOKENS
        self.min_support = min_support
        self.abstention = abstention

    def prepare(self, chunks: Sequence[Chunk]) -> None:
        """Nothing to prepare."""

    def keep_only(self, chunks: Iterable[Chunk]) -> int:
        """Nothing is kept."""
        return 0

    def generate(self, query: str, hits: Sequence[Hit]) -> Iterator[Event]:
        """What the prompts show, text, citations at the ends of sentences, then the usage of all calls. No hits: abstains without the model."""
        groups = self._groups(query, hits)
        if len(groups) <= 1:
            yield from self._direct.generate(query, hits)
            return
        shown, replies = self._mapped(query, groups)
        yield StageEvent("prompt", shown, 0.0)
        usage = sum((reply.usage for reply in replies), Usage())
        notes = [reply.value for reply in replies if reply.value and reply.value.information and reply.value.confidence > 0]
        events: Iterator[Event]
        if notes:
            notes, spent = self._fitting(query, notes)
            usage += spent
            pieces = self.lm.stream(notes_prompt(REDUCE, self.abstention, query, notes), max_tokens=self.max_tokens)
            events = checked_answer(pieces, hits, self.min_support, self.abstention)
        elif usage.unread_replies:  # what could not be noted down may hold the answer
            events = (event for event in self._direct.generate(query, hits) if not isinstance(event, StageEvent))
        else:
            events = iter([TextEvent(self.abstention), UsageEvent(Usage(), abstained=True)])
        for event in events:
            yield replace(event, usage=usage + event.usage) if isinstance(event, UsageEvent) else event

    def _groups(self, query: str, hits: Sequence[Hit]) -> list[list[Hit]]:
        """Runs of hits that fit a prompt of the first round whole."""
        fixed = self.lm.count_tokens(MAP) + self.lm.count_tokens(query) + 2 * FRAME_TOKENS
        room = room_for(self.lm, self.max_prompt_tokens, self.max_note_tokens) - fixed
        sizes = [self.lm.count_tokens(hit.chunk.indexed_text) + FRAME_TOKENS for hit in hits]
        return grouped(hits, sizes, max(min(self.group_tokens, room), 1))

    def _mapped(self, query: str, groups: Sequence[Sequence[Hit]]) -> tuple[tuple[Hit, ...], list[Reply[Note]]]:
        """The hits as far as they were shown, and one reply per group, its source numbers those of all hits."""
        room = room_for(self.lm, self.max_prompt_tokens, self.max_note_tokens)
        prompts = [sourced_prompt(query, group, max_tokens=room, count=self.lm.count_tokens, system=MAP) for group in groups]
        replies = ask_each(self.lm, [prompt.messages for prompt in prompts], read_note, self.max_note_tokens)
        starts = [sum(map(len, groups[:number])) for number in range(len(groups))]
        renumbered = [
            replace(reply, value=_renumbered(reply.value, start, len(group)))
            for reply, start, group in zip(replies, starts, groups, strict=True)
        ]
        return tuple(hit for prompt in prompts for hit in prompt.shown), renumbered

    def _fitting(self, query: str, notes: list[Note]) -> tuple[list[Note], Usage]:
        """Notes whose prompt has room, and what collapsing them cost."""
        usage = Usage()
        room = room_for(self.lm, self.max_prompt_tokens, max(self.max_tokens, self.max_note_tokens))

        def is_long(some: Sequence[Note]) -> bool:
            return self.lm.count_tokens(notes_prompt(REDUCE, self.abstention, query, some)) > room

        for _ in range(MAX_COLLAPSES):
            if len(notes) < 2 or not is_long(notes):
                break
            notes, spent = self._collapsed(query, notes, room)
            usage += spent
        while len(notes) > 1 and is_long(notes):
            notes.remove(min(reversed(notes), key=lambda note: note.confidence))
        return notes, usage

    def _collapsed(self, query: str, notes: Sequence[Note], room: int) -> tuple[list[Note], Usage]:
        """One note per group of at least two; a group whose reply cannot be read keeps its surest note."""
        sizes = [self.lm.count_tokens(_written(note)) for note in notes]
        groups = grouped(notes, sizes, max(room // 2, 1), at_least=2)
        ask = partial(notes_prompt, COLLAPSE, self.abstention, query)
        replies = ask_each(self.lm, [ask(group) for group in groups], read_note, self.max_note_tokens)
        kept = []
        for group, reply in zip(groups, replies, strict=True):
            known = {number for note in group for number in note.numbers}
            surest = max(group, key=lambda note: note.confidence)
            note = reply.value if reply.value is not None and reply.value.information else surest
            kept.append(replace(note, numbers=tuple(n for n in note.numbers if n in known) or surest.numbers))
        return kept, sum((reply.usage for reply in replies), Usage())


def grouped(items: Sequence[_T], sizes: Sequence[int], limit: int, *, at_least: int = 1) -> list[list[_T]]:
    """Runs of neighbours of at most ``limit`` in size, or of ``at_least`` items where those are larger (the last may be shorter)."""
    groups: list[list[_T]] = []
    room = 0
    for item, size in zip(items, sizes, strict=True):
        if not groups or (size > room and len(groups[-1]) >= at_least):
            groups.append([])
            room = limit
        groups[-1].append(item)
        room -= size
    return groups


def read_note(text: str) -> Note:
    """The note that a reply holds. Raises ``ValueError`` with what is wrong."""
    found = json_object(text, KEYS)
    words = [found[name] for name in ("information", "rationale", "answer")]
    if not all(isinstance(each, str) for each in words):
        raise ValueError("information, rationale and answer must be strings")
    confidence, sources = found["confidence"], found["sources"]
    if isinstance(confidence, bool) or not isinstance(confidence, (int, float)) or not 0 <= confidence <= 5:
        raise ValueError(f"confidence must be a number from 0 to 5, not {str(confidence)[:20]}")
    if not isinstance(sources, list) or not all(type(number) is int and number >= 1 for number in sources):
        raise ValueError("sources must be a list of source numbers")
    information, rationale, answer = (each.strip()[:MAX_NOTE_CHARS] for each in words)
    return Note(information, rationale, answer, float(confidence), tuple(dict.fromkeys(sources)))


def _renumbered(note: Note | None, start: int, num_sources: int) -> Note | None:
    """Numbers of the whole list of hits for those of a group; a note that names no source of its group may be of any of them."""
    if note is None:
        return None
    named = [number for number in note.numbers if number <= num_sources] or range(1, num_sources + 1)
    return replace(note, numbers=tuple(start + number for number in named))


def notes_prompt(task: str, abstention: str, query: str, notes: Sequence[Note]) -> list[Message]:
    """The question after the notes, which are quoted: they hold strangers' words."""
    key = secrets.token_hex(8)
    blocks = "".join(
        f"BEGIN NOTE {key}\n{_written(note).replace(key, '(key)')}\nEND NOTE {key}\n\n" for note in notes
    )  # fmt: skip
    return [
        Message("system", task.replace(ABSTENTION, abstention)),
        Message("user", f"One-time key: {key}\n\n{blocks}The notes end here.\n\nQuestion: {inert(query).strip()}"),
    ]


def _written(note: Note) -> str:
    """A note as text; the only marks in it are those of its own sources."""
    named = "".join(f"[{number}]" for number in note.numbers)
    parts = {"information": note.information, "rationale": note.rationale, "answer": note.answer}
    lines = [f"{name}: {' '.join(unmarked(inert(text)).split())}" for name, text in parts.items() if text]
    return "\n".join([f"sources: {named}", *lines, f"confidence: {note.confidence:g}"])
