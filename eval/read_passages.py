"""Sets whose questions carry their own passages: MTRAG, CLAP NQ, PubMedQA. Knows their layouts; knows no pipeline.

Where a set marks no sentence of its passages, evidence is what bears out the reference answer there, sentence by sentence, by words
(``rag.citations.support``): at least ``MIN_SUPPORT`` of the content words of an answer's sentence. That is a guess, and the set's remarks say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from rag.citations import support
from rag.core import Document, digest
from rag.errors import ReadError
from rag.eval.question import Answerable, Evidence, Question, Turn
from rag.eval.question_set import QuestionSet
from rag.eval.read_records import bad_place, records_of
from rag.eval.span_set import document_of
from rag.sentences import sentence_spans

MIN_SUPPORT = 0.5
GUESSED = (
    "evidence is guessed from the reference answers: sentences that hold at least half of the words of a sentence of the answer"
)


class _Layout(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class _Said(_Layout):
    speaker: str
    text: str


class _Context(_Layout):
    document_id: str
    text: str


class _Task(_Layout):
    """A line of MTRAG's reference tasks (Katsis et al., MTRAG, TACL 2025)."""

    task_id: str
    contexts: list[_Context]
    input: list[_Said] = Field(min_length=1)
    targets: list[_Said] = []
    answerability: list[str] = []
    question_type: list[str] = Field(default=[], alias="Question Type")


_ANSWERABLE: dict[str, Answerable] = {"ANSWERABLE": "yes", "PARTIAL": "partly", "PARTIALLY": "partly", "UNANSWERABLE": "no"}


def read_mtrag(path: Path) -> QuestionSet:
    """The last turn of each conversation is the question, the turns before it are its history."""
    documents: dict[str, Document] = {}
    questions = []
    for number, task in records_of(path, _Task):
        own = []
        for context in task.contexts:
            if context.text.strip():
                document = document_of(context.document_id, context.text)
                if documents.setdefault(document.id, document).text != document.text:
                    raise bad_place(path, f"line {number}", f"document {context.document_id!r} had another text before")
                own.append(document)
        *before, last = task.input
        answers = tuple(said.text for said in task.targets if said.text.strip())
        answerable = _ANSWERABLE.get(task.answerability[0].upper() if task.answerability else "", "unclear")
        is_answered = answerable in ("yes", "partly")
        questions.append(
            Question(
                id=task.task_id,
                question=last.text.strip(),
                type=(task.question_type or ["unknown"])[0].lower(),
                answers=answers,
                sources=tuple(dict.fromkeys(document.source for document in own)) if is_answered else (),
                evidence=tuple(borne_out(answers[0], own)) if is_answered and answers else (),
                answerable=answerable,
                history=tuple(Turn(role=_role(said.speaker), text=said.text) for said in before if said.text.strip()),
            )
        )
    return QuestionSet(path.stem, tuple(questions), tuple(documents.values()), remarks=(GUESSED,))


def _role(speaker: str) -> Literal["user", "assistant"]:
    return "user" if speaker == "user" else "assistant"


class _Passage(_Layout):
    title: str = ""
    text: str


class _Output(_Layout):
    answer: str | None = None
    selected_sentences: list[str] = []


class _Clap(_Layout):
    """A line of CLAP NQ (Rosenthal et al., CLAPNQ, TACL 2025)."""

    id: str | int
    input: str
    passages: list[_Passage] = Field(min_length=1)
    output: list[_Output] = []


def read_clapnq(path: Path) -> QuestionSet:
    """One document per passage; evidence is the selected sentences."""
    documents: dict[str, Document] = {}
    questions = []
    for _, each in records_of(path, _Clap):
        own = [document_of(f"{passage.title}#{digest(passage.text)[:8]}", passage.text) for passage in each.passages]
        documents.update({document.id: document for document in own})
        answers = tuple(output.answer for output in each.output if output.answer)
        selected = [sentence for output in each.output for sentence in output.selected_sentences] if answers else []
        questions.append(
            Question(
                id=str(each.id),
                question=each.input.strip(),
                answers=answers,
                sources=tuple(document.source for document in own) if answers else (),
                evidence=tuple(_selected(selected, own)),
                answerable="yes" if answers else "no",
            )
        )
    return QuestionSet(path.stem, tuple(questions), tuple(documents.values()))


def _selected(sentences: Iterable[str], documents: Sequence[Document]) -> Iterable[Evidence]:
    for written in dict.fromkeys(sentences):
        sentence = written.rstrip("&").strip()
        holder = next((document for document in documents if sentence in document.text), documents[0])
        start = holder.text.find(sentence)
        place = {"start": start, "end": start + len(sentence)} if start >= 0 else {}
        if sentence:
            yield Evidence(source=holder.source, text=sentence, **place)


class _Abstract(_Layout):
    """A record of PubMedQA's expert-labelled part (Jin et al., PubMedQA, EMNLP 2019)."""

    question: str = Field(alias="QUESTION")
    contexts: list[str] = Field(alias="CONTEXTS", min_length=1)
    long_answer: str = Field(default="", alias="LONG_ANSWER")
    decision: str = Field(default="", alias="final_decision")


_ABSTRACTS = TypeAdapter(dict[str, _Abstract])


def read_pubmedqa(path: Path, value: Any) -> QuestionSet:
    """One document per abstract, a paragraph per section. Answers: the conclusion, then yes, no or maybe."""
    try:
        records = _ABSTRACTS.validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ReadError(path, f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None
    documents, questions = [], []
    for name, each in records.items():
        document = document_of(name, "\n\n".join(section.strip() for section in each.contexts))
        documents.append(document)
        questions.append(
            Question(
                id=name,
                question=each.question.strip(),
                type="yes/no",
                answers=tuple(filter(None, (each.long_answer.strip(), each.decision.strip()))),
                sources=(document.source,),
                evidence=tuple(borne_out(each.long_answer, [document])),
            )
        )
    return QuestionSet(path.stem, tuple(questions), tuple(documents), remarks=(GUESSED,))


def borne_out(answer: str, documents: Sequence[Document]) -> Iterable[Evidence]:
    """For each sentence of ``answer`` the sentences of a document that hold most of its words, if they hold ``MIN_SUPPORT`` of them."""
    found: dict[tuple[str, int, int], Evidence] = {}
    for sentence in sentence_spans(answer):
        supports = [(document, support(sentence.of(answer), document.text)) for document in documents]
        best = max(supports, key=lambda pair: pair[1].share if pair[1] else 0.0, default=None)
        if best and best[1] and best[1].share >= MIN_SUPPORT:
            document, span = best[0], best[1].span
            text = span.of(document.text)
            found[document.id, span.start, span.end] = Evidence(source=document.source, text=text, start=span.start, end=span.end)
    return found.values()
