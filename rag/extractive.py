"""Answers made of the sources' own sentences, verbatim, with citations; declines when none fits. Knows no language model.

A sentence is scored by its meaning (cosine of its vector and the query's), by the query's words it holds (weighted by how rare
they are among the candidates), by those its chunk holds, by the rank of the hit, and by whether it has the kind of thing that is
asked for (a number for *how many*, a name for *who*). Two parts of that, meaning and plain overlap, make its **support**, on which
abstention is decided; the rest only orders sentences.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag.citations import quotation
from rag.core import Chunk, CitationEvent, Encoder, Event, Hit, Span, StageEvent, TextEvent, Usage, UsageEvent
from rag.prompt import ABSTENTION, unmarked, visible
from rag.sentences import STOP_WORDS, content_words, sentence_spans

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MIN_SUPPORT = 0.40
MIN_SUPPORT_WITHOUT_ENCODER = 0.45
DISPLAY_CHARS = 360
ENCODED_CHARS = 400
MAX_SHARED_WORDS = 0.8  # of the shorter one: above it two sentences say the same

_ASKS_NUMBER = re.compile(
    r"\b(?:when|(?:what|which) (?:year|date|day|month|time|century|decade|percentage|percent|number|amount|share|size|price|cost)"
    r"|how (?:many|much|long|old|far|tall|big|large|high|deep|heavy|fast|often))\b",
    re.IGNORECASE,
)
_ASKS_NAME = re.compile(r"\bwho(?:m|se)?\b", re.IGNORECASE)
_NUMBER = re.compile(
    r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|hundred|thousand|million|billion|half|third|"
    r"quarter|dozen|century|percent|january|february|march|april|may|june|july|august|september|october|november|december)s?\b",
    re.IGNORECASE,
)
_LEANS_BACK = re.compile(
    r"(?:it|its|he|his|she|her|they|their|them|this|these|those|such|that|however|therefore|thus|also|then|instead|otherwise|"
    r"both|here|there)\b",
    re.IGNORECASE,
)
_BOILERPLATE = re.compile(
    r"\u00a9|\ball rights reserved\b|^(?:page|slide) \d+(?: of \d+)?$|\bcookie (?:policy|settings)\b|^(?:table of )?contents$|\.{4,}|"
    r"^(?:figure|fig\.|table) \d+\W*$|^(?:back to top|read more|skip to (?:main )?content|click here)\b|^[\W\d_]*$|^https?://\S+$",
    re.IGNORECASE,
)
_BULLET = re.compile(r"^(?:[-*+\u2022\u2023\u25aa\u25cf\u2013]|>|\(?\d{1,2}[.)])\s+")
_TERMINAL = re.compile(r"[.!?:;\u2026\u3002\uff01\uff1f][\"'\u201d\u2019)\]*_`]*$")
_CLAUSE_END = re.compile(r"[,;:)\u2014\u3001\uff0c]\s*|\s[\u2013-]\s|\s\|\s")


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A sentence that may be quoted; ``read`` is what is compared with the query (a lead-in before it, where it needs one)."""

    hit: Hit
    hit_rank: int  # from 0
    span: Span  # in the chunk's text
    lead: Span | None  # the sentence before it that a reader needs too
    head: str  # the first row of the table it is a row of
    read: str
    words: Mapping[str, float]


class ExtractiveGenerator:
    """Quotes at most ``max_sentences`` sentences of the hits, each run of neighbours followed by its own ``[n]``; needs no LM.

    ``encoder``: compares meanings; without one only words count. ``min_support``: the least support, 0 to 1, of the best
    sentence; below it the answer is ``abstention``. Default: 0.40 with an encoder, 0.45 without. ``max_candidates``: sentences
    encoded per query, chosen by words and hit rank.

    The defaults were chosen on, and measured on, 873 questions with the 5 best hits by BM25 (``bench/abstention.py``; no held-out set).
    With all-MiniLM-L6-v2, of questions with an answer it declines 2% (XQuAD), 2% (product documentation) and 15% (MTRAG-UN, last
    turns of conversations); by words alone 8%, 18% and 14%. Of questions whose topic is absent it answers 7% (XQuAD, article taken
    out) and 2% (documentation questions put to XQuAD); by words alone 14% and 0%. Of MTRAG-UN's unanswerable turns, whose topic is
    there and whose answer is not, it answers 52% (53%): to see that takes a language model. The answer stands in a quotation
    for 91% (83%) of XQuAD's questions.

    Another encoder has another scale of cosines: calibrate ``min_support`` anew.
    """

    def __init__(
        self,
        encoder: Encoder | None = None,
        max_sentences: int = 3,
        min_support: float | None = None,
        max_candidates: int = 24,
        abstention: str = ABSTENTION,
    ) -> None:
        if max_sentences < 1:
            raise ValueError(f"max_sentences={max_sentences}: must be at least 1")
        if min_support is not None and not 0 <= min_support <= 1:
            raise ValueError(f"min_support={min_support}: must be between 0 and 1")
        if max_candidates < max_sentences:
            raise ValueError(f"max_candidates={max_candidates}: must be at least max_sentences={max_sentences}")
        self.encoder = encoder
        self.max_sentences = max_sentences
        self.min_support = min_support if min_support is not None else MIN_SUPPORT if encoder else MIN_SUPPORT_WITHOUT_ENCODER
        self.max_candidates = max_candidates
        self.abstention = abstention

    def prepare(self, chunks: Sequence[Chunk]) -> None:
        """Nothing to prepare."""

    def keep_only(self, chunks: Iterable[Chunk]) -> int:
        """Nothing is kept."""
        return 0

    def generate(self, query: str, hits: Sequence[Hit]) -> Iterator[Event]:
        """The hits, all of which it reads; each quotation and its citation, best chunk first, or the abstention; a ``UsageEvent`` (no tokens)."""
        yield StageEvent("prompt", tuple(hits), 0.0)
        chosen = self._chosen(query, hits)
        if not chosen:
            yield TextEvent(self.abstention)
            yield UsageEvent(Usage(), abstained=True)
            return
        wanted = content_words(query).keys()
        in_lines = any(" | " in span.of(hit.chunk.text) or _BULLET.match(span.of(hit.chunk.text)) for hit, span, _ in chosen)
        shown_head = ""
        for number, (hit, span, head) in enumerate(chosen, start=1):
            gap = "" if number == 1 else "\n" if in_lines else " "
            quote = span.of(hit.chunk.text)
            shown = " ".join(_displayed(sentence.of(quote), wanted) for sentence in sentence_spans(quote))
            if head and head != shown_head:  # a row says little without the names of its columns
                shown = f"{_displayed(head, wanted)}: {shown}"
            shown_head = head
            yield TextEvent(f"{gap}{shown} [{number}]")
            yield CitationEvent(quotation(number, hit, span))
        yield UsageEvent(Usage())

    def support(self, query: str, hits: Sequence[Hit]) -> float:
        """The support of the best sentence, 0 to 1: the number that ``min_support`` is compared with. Nothing to quote: 0."""
        wanted = content_words(query)
        candidates = _likely(_candidates(hits), wanted, self.max_candidates)
        if not candidates or not query.strip():
            return 0.0
        return min(max(0.0, *_supports(wanted, candidates, self._meanings(query, candidates)[0])), 1.0)

    def _chosen(self, query: str, hits: Sequence[Hit]) -> list[tuple[Hit, Span, str]]:
        """The quotations in the order of the answer, rows with the head of their table; none if no answer is borne out."""
        wanted = content_words(query)
        candidates = _candidates(hits)
        if not candidates or not query.strip():
            return []
        rarity = _rarity(wanted, candidates)
        candidates = _likely(candidates, wanted, self.max_candidates)
        cosines, alike = self._meanings(query, candidates)
        support = _supports(wanted, candidates, cosines)
        if max(support) < self.min_support:
            return []
        around = {
            id(c.hit): _share(rarity, content_words(c.hit.chunk.indexed_text)) for c in {id(c.hit): c for c in candidates}.values()
        }
        meanings: Sequence[float | None] = [None] * len(candidates) if cosines is None else cosines
        scores = [
            _order_score(
                candidate, _share(rarity, candidate.words), around[id(candidate.hit)], _fits(query, wanted, candidate), cosine
            )
            for candidate, cosine in zip(candidates, meanings, strict=True)
        ]
        kept: list[int] = []
        best = max(scores)
        for i in sorted(range(len(candidates)), key=lambda i: -scores[i]):
            if kept and (scores[i] < 0.75 * best or support[i] < self.min_support):
                continue
            if any(_repeats(candidates[i], candidates[j]) or (alike is not None and alike[i, j] > 0.92) for j in kept):
                continue
            kept.append(i)
            if sum(1 + (candidates[j].lead is not None) for j in kept) >= self.max_sentences:
                break
        return _quotations([candidates[i] for i in kept])

    def _meanings(self, query: str, candidates: Sequence[_Candidate]) -> tuple[list[float] | None, NDArray[np.float32] | None]:
        """Cosines to the query, and of the candidates with each other ``(candidates, candidates)``."""
        if self.encoder is None:
            return None, None
        vectors = self.encoder.encode_documents([candidate.read[:ENCODED_CHARS] for candidate in candidates])
        return [float(x) for x in vectors @ self.encoder.encode_queries([query])[0]], vectors @ vectors.T


def _candidates(hits: Sequence[Hit]) -> list[_Candidate]:
    found: list[_Candidate] = []
    seen: set[tuple[str, int, int]] = set()
    for rank, hit in enumerate(hits):
        text = hit.chunk.text
        spans = sentence_spans(text)
        is_heading = [_is_heading(hit.chunk, spans, i) for i in range(len(spans))]
        table_head = next((line for line in reversed(hit.chunk.context.split("\n")) if " | " in line), "")
        caption = ""
        for i, span in enumerate(spans):
            sentence = span.of(text)
            before = spans[i - 1].of(text) if i else ""
            is_row = " | " in sentence
            if not is_row or is_heading[i]:
                table_head = sentence if is_row else ""
            if not is_row:
                caption = sentence if i + 1 < len(spans) and _is_caption(sentence, spans[i + 1].of(text)) else ""
            place = (hit.chunk.doc_id, hit.chunk.span.start + span.start, hit.chunk.span.start + span.end)
            is_line_of_data = is_row and bool(table_head)
            if is_heading[i] or caption == sentence or place in seen or not (is_line_of_data or _can_answer(sentence)):
                continue
            seen.add(place)  # chunks may overlap
            answers_before = i > 0 and (is_heading[i - 1] or before.endswith("?"))
            leans = i > 0 and not answers_before and not is_row and bool(_LEANS_BACK.match(sentence))
            above = " ".join(filter(None, [caption, table_head])) if is_row else ""
            lead_in = above or (before if leans or answers_before else "")
            read = f"{lead_in} {sentence}" if lead_in and len(lead_in) < ENCODED_CHARS // 2 else sentence
            head = table_head if is_row else ""
            found.append(_Candidate(hit, rank, span, spans[i - 1] if leans else None, head, read, content_words(read)))
    return found


def _is_heading(chunk: Chunk, spans: Sequence[Span], i: int) -> bool:
    """A line of its own, short, without a full stop, that introduces prose; or the first row of a table, without digits."""
    text, span = chunk.text, spans[i]
    line = span.of(text)
    if " | " in line and " | " not in chunk.context:  # a context with cells repeats the head of a table that began before
        around = [spans[j].of(text) for j in (i - 1, i + 1) if 0 <= j < len(spans)]
        is_first = i == 0 or " | " not in around[0]
        return is_first and i + 1 < len(spans) and " | " in around[-1] and not re.search(r"\d", line)
    if line.startswith("#"):
        return True
    alone = text[: span.start].rpartition("\n")[2].strip() == "" and text[span.end :].partition("\n")[0].strip() == ""
    if not alone or " | " in line or ": " in line or _TERMINAL.search(line) or _BULLET.match(line) or len(line.split()) > 10:
        return False
    if i + 1 == len(spans):
        return i > 0 and not re.search(r"\d", line)
    following = spans[i + 1].of(text)
    return bool(_TERMINAL.search(following)) or len(following.split()) > 10


def _is_caption(line: str, following: str) -> bool:
    """A short line without a full stop on top of a table: it says what the rows are about and answers nothing itself."""
    return " | " in following and len(line.split()) <= 12 and not _TERMINAL.search(line)


def _can_answer(sentence: str) -> bool:
    bare = _BULLET.sub("", sentence).strip()
    if bare.endswith("?") or _BOILERPLATE.search(bare):
        return False
    words = bare.casefold().split()
    if (
        len(words) >= 20
        and " | " not in bare
        and not _TERMINAL.search(bare)
        and sum(w in STOP_WORDS for w in words) < len(words) / 10
    ):
        return False  # a menu
    has_words = len(words) >= 3 or len(bare) >= 12 and not bare.isascii()  # scripts without blanks
    return has_words or bool(re.search(r":\s*\S|\d", bare))


def _rarity(wanted: Mapping[str, float], candidates: Sequence[_Candidate]) -> dict[str, float]:
    """Weight of each word of the query: how few candidates hold it, times the root of its own weight (numbers, names)."""
    n = len(candidates)
    held = {word: sum(word in candidate.words for candidate in candidates) for word in wanted}
    return {word: math.log(1 + (n - held[word] + 0.5) / (held[word] + 0.5)) * math.sqrt(weight) for word, weight in wanted.items()}


def _share(weights: Mapping[str, float], words: Mapping[str, float]) -> float:
    total = sum(weights.values())
    return sum(weight for word, weight in weights.items() if word in words) / total if total else 0.0


def _likely(candidates: list[_Candidate], wanted: Mapping[str, float], limit: int) -> list[_Candidate]:
    """At most ``limit`` candidates, those with more of the query's words and from better hits first; in their old order."""
    if len(candidates) <= limit:
        return candidates
    order = sorted(range(len(candidates)), key=lambda i: (-_share(wanted, candidates[i].words) + 0.05 * candidates[i].hit_rank, i))
    return [candidates[i] for i in sorted(order[:limit])]


def _supports(wanted: Mapping[str, float], candidates: Sequence[_Candidate], cosines: Sequence[float] | None) -> Sequence[float]:
    """How much each candidate bears out an answer: its meaning and the plain overlap of words, or the overlap alone."""
    overlap = [_share(wanted, candidate.words) for candidate in candidates]
    if cosines is None:
        return overlap
    return [(cosine + 0.3 * share) / 1.3 for cosine, share in zip(cosines, overlap, strict=True)]


def _order_score(candidate: _Candidate, own: float, around: float, fits: bool, cosine: float | None) -> float:
    """``own``, ``around``: weighted shares of the query's words in the sentence and in its chunk."""
    place = 1 / (1 + candidate.hit_rank)
    only_introduces = candidate.read.endswith(":")
    score = own + 0.3 * around + 0.1 * place if cosine is None else cosine + 0.3 * own + 0.15 * around + 0.06 * place
    return score + 0.1 * fits - 0.1 * only_introduces


def _fits(query: str, wanted: Mapping[str, float], candidate: _Candidate) -> bool:
    """Whether the sentence has the kind of thing that is asked for."""
    if _ASKS_NUMBER.search(query):
        return bool(_NUMBER.search(candidate.span.of(candidate.hit.chunk.text)))
    if _ASKS_NAME.search(query):
        return any(weight == 2.0 and word not in wanted for word, weight in candidate.words.items())
    return False


def _repeats(one: _Candidate, other: _Candidate) -> bool:
    if one.head == other.head and not one.lead and not other.lead and _bare(one) == _bare(other):
        return True  # the same sentence in another format, after another heading
    shorter = min(len(one.words), len(other.words))
    return shorter > 0 and len(one.words.keys() & other.words.keys()) / shorter > MAX_SHARED_WORDS


def _bare(candidate: _Candidate) -> str:
    return "".join(filter(str.isalnum, candidate.span.of(candidate.hit.chunk.text).casefold()))


def _quotations(chosen: Sequence[_Candidate]) -> list[tuple[Hit, Span, str]]:
    """Chunks in the order of their best sentence; inside a chunk the document's order; neighbours become one quotation."""
    chunks = list(dict.fromkeys(candidate.hit.chunk.id for candidate in chosen))
    quoted: list[tuple[Hit, Span, str]] = []
    for chunk_id in chunks:
        spans: list[tuple[Span, str]] = []
        own = sorted((c for c in chosen if c.hit.chunk.id == chunk_id), key=lambda c: c.span)
        for candidate in own:
            start = (candidate.lead or candidate.span).start
            text = candidate.hit.chunk.text
            last = spans[-1][0] if spans else Span(0, -1)
            between = text[last.end : start] if spans else "\n"
            if start <= last.end or (not between.strip() and "\n" not in between):
                spans[-1] = (Span(last.start, candidate.span.end), spans[-1][1])
            else:
                spans.append((Span(start, candidate.span.end), candidate.head))
        quoted += [(own[0].hit, span, head) for span, head in spans]
    return quoted


def _displayed(quote: str, wanted: Collection[str]) -> str:
    """The sentence as one line, without what is hidden and without its bullet; cut at clause ends if it is very long.

    A cut keeps the beginning, or starts at the clause that holds the first of the query's words if that comes late.
    """
    line = " ".join(unmarked(visible(quote)).split())
    line = _BULLET.sub("", line)
    if len(line) <= DISPLAY_CHARS:
        return line
    ends = [match.end() for match in _CLAUSE_END.finditer(line)]
    places = [match.start() for match in re.finditer(r"\w+", line) if content_words(match.group()).keys() & wanted]
    start = 0
    if places and places[0] > DISPLAY_CHARS // 2:
        start = max((end for end in ends if end <= places[0]), default=0)
    limit = start + DISPLAY_CHARS
    if limit >= len(line):
        return "\u2026 " + line[start:] if start else line
    stop = max((end for end in ends if start + DISPLAY_CHARS // 2 < end <= limit), default=line.rfind(" ", start + 1, limit))
    stop = stop if stop > start else limit
    return ("\u2026 " if start else "") + line[start:stop].rstrip(" ,;:|\u2014\u2013-\u3001\uff0c") + " \u2026"
