"""Chunkers compared by the real pipeline on tiny sets, with words for tokens; tables, JSON, plot and command."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rag.chunkers.recursive import RecursiveChunker
from rag.config import Assembly, Block
from rag.core import Document, Span
from rag.errors import ConfigError, MissingExtra
from rag.eval.chunking import evaluate_chunking
from rag.eval.chunking_plot import check_plot, draw
from rag.eval.chunking_report import ChunkingReport, at_budget, at_k
from rag.eval.contenders import Contender, contenders_of, with_baseline
from rag.eval.overlap import intervals, overlap, precision_omega
from rag.eval.span_set import SpanQuestion, SpanSet
from rag.eval.spans import read_spans
from rag.retrievers.bm25 import BM25Index
from rag.tokenizer import WordTokenizer
from tests.fakes import HashingEncoder

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures" / "spans"
WORDS: dict[str, Any] = {"models": {"tokenizer": {"use": "words"}}, "indexes": {"sparse": {"use": "bm25"}}}
SMALL = Contender("small", {"use": "recursive", "max_tokens": 12})
LARGE = Contender("structure", {"use": "structure"})


def evaluated(name: str = "corpora_layout", *contenders: Contender, **options: Any) -> ChunkingReport:
    given: dict[str, Any] = {"config": WORDS, "k": 2, "budgets": (10, 40, 5000), "num_resamples": 200, **options}
    return evaluate_chunking(read_spans(FIXTURES / name), contenders or (LARGE, SMALL), **given)


def test_a_report_holds_what_was_measured() -> None:
    report = evaluated()
    assert (report.num_documents, report.num_questions, report.baseline, report.within) == (3, 7, "structure", "all")
    assert list(report.rows) == ["structure", "small"] and report.budgets == [10, 40, 5000]
    small, large = report.rows["small"], report.rows["structure"]
    assert small.ranking == "sparse" and small.num_chunks > large.num_chunks and small.mean_tokens < large.mean_tokens
    for row in (small, large):
        for unit in ("tokens", "characters"):
            for measure, values in row.per_question[unit].items():
                assert len(values) == 7 and all(0.0 <= value <= 1.0 for value in values)
                assert row.scores[unit][measure].mean == pytest.approx(sum(values) / 7)
    assert large.scores["tokens"][at_budget("recall", 5000)].mean > 0.9
    assert small.scores["tokens"]["precision-omega"].mean > large.scores["tokens"]["precision-omega"].mean
    assert report.ceilings[5000] == 1.0 > report.ceilings[10]
    assert large.scores["tokens"][at_budget("recall", 10)].mean <= report.ceilings[10]
    assert large.segmented is None


def test_the_measures_are_those_of_the_hits_that_the_pipeline_returns(tmp_path: Path) -> None:
    from rag.pipeline import Rag

    spans = read_spans(FIXTURES / "corpora_layout")
    documents = {document.source: document for document in spans.documents}
    row = evaluated("corpora_layout", SMALL).rows["small"]
    with Rag.open(tmp_path / "index", {**WORDS, "chunker": dict(SMALL.chunker)}) as rag:
        rag.ingest_documents(spans.documents)
        for number, question in enumerate(spans.questions):
            hits = rag.search(question.query, 2)
            own = [
                (hit.chunk.span.start, hit.chunk.span.end) for hit in hits if hit.chunk.doc_id == Document.id_of(question.source)
            ]
            foreign = [(10**6, 10**6 + len(hit.chunk.span)) for hit in hits if hit.chunk.doc_id != Document.id_of(question.source)]
            expected = overlap(intervals(question.spans), intervals([*own, *foreign]))
            values = row.per_question["characters"]
            assert [values[at_k(name, 2)][number] for name in ("recall", "precision", "iou")] == pytest.approx(expected)
            every = [chunk.span for chunk in RecursiveChunker(WordTokenizer(), 12).chunk(documents[question.source])]
            assert values["precision-omega"][number] == pytest.approx(precision_omega(intervals(question.spans), intervals(every)))


def test_equal_passages_are_told_apart() -> None:
    """Two equal sentences, and the second is asked for: whatever returns the first one alone has found nothing."""
    text = "Mud is good.\n\nNothing here.\n\nMud is good."
    chunker = {"use": "recursive", "max_tokens": 4, "min_tokens": 0}
    recalls = []
    for start in (0, text.rindex("Mud")):
        question = SpanQuestion("is mud good", "ponds", (Span(start, start + 12),))
        spans = SpanSet("twins", (Document(Document.id_of("ponds"), "ponds", text),), (question,))
        report = evaluate_chunking(spans, [], config={**WORDS, "chunker": chunker}, k=1, budgets=[4], num_resamples=10)
        recalls.append(report.rows["recursive"].per_question["tokens"]["recall@1"][0])
    assert sorted(recalls) == [0.0, 1.0]


def test_the_context_of_a_chunk_takes_its_share_of_a_budget() -> None:
    """The answer is tokens 11 to 14 of the only chunk; a title of 7 tokens before it leaves no room for them in 14."""
    text = "one two three four five six seven eight nine ten carp eat weed here and more"
    question = SpanQuestion("what do carp eat", "d", (Span(text.index("carp"), text.index(" and")),))
    rows = {}
    for title in ("", "A rather long title of a text"):
        spans = SpanSet("s", (Document(Document.id_of("d"), "d", text, (), {"title": title} if title else {}),), (question,))
        report = evaluate_chunking(spans, [LARGE], config=WORDS, k=1, budgets=[14, 21], num_resamples=10)
        rows[title] = report.rows["structure"]
    plain, titled = rows.values()
    assert (plain.mean_context_tokens, titled.mean_context_tokens) == (0, 7)
    assert (plain.returned_tokens, titled.returned_tokens) == (16, 23)
    assert [row.per_question["tokens"]["recall@14 tokens"] for row in (plain, titled)] == [[1.0], [0.0]]
    assert titled.per_question["tokens"]["recall@21 tokens"] == [1.0]


def test_lists_that_end_early_are_counted_unless_there_is_nothing_more_to_find() -> None:
    report = evaluated(config={**WORDS, "search": {"candidates": 2}})
    assert report.depth == 2
    assert report.rows["small"].num_short[5000] == 7 > report.rows["small"].num_short[10]
    assert "small: lists from 2 chunks per index end early for some questions (" in "\n".join(report.remarks())
    lines = Contender("lines", {"use": "recursive", "max_tokens": 20, "min_tokens": 0})
    everything: dict[str, Any] = {"config": {"models": WORDS["models"]}, "components": {"encoder": HashingEncoder()}}
    for within in ("all", "document"):
        report = evaluated("meetings_layout", lines, within=within, **everything)
        assert report.rows["lines"].num_short == {10: 0, 40: 0, 5000: 0} and report.remarks() == []
        assert report.rows["lines"].scores["tokens"]["recall@5000 tokens"].mean == 1.0


def test_the_question_s_own_document_alone_can_be_searched() -> None:
    spans = read_spans(FIXTURES / "corpora_layout")
    lure = Document(Document.id_of("lure"), "lure", "How many carp live in the largest pond? " * 3)
    lured = SpanSet("lured", (*spans.documents, lure), spans.questions[:1])
    options: dict[str, Any] = {"config": WORDS, "k": 1, "budgets": [40], "num_resamples": 10}
    together = evaluate_chunking(lured, [LARGE], **options).rows["structure"]
    alone = evaluate_chunking(lured, [LARGE], within="document", **options).rows["structure"]
    assert (together.scores["tokens"]["recall@1"].mean, alone.scores["tokens"]["recall@1"].mean) == (0.0, 1.0)


def test_each_chunker_cuts_once_and_models_are_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cut: list[str] = []
    chunk = RecursiveChunker.chunk

    def counted(self: RecursiveChunker, document: Document) -> Any:
        cut.append(document.source)
        return chunk(self, document)

    monkeypatch.setattr(RecursiveChunker, "chunk", counted)
    encoder = HashingEncoder()
    config = {"models": {"tokenizer": {"use": "words"}}}
    report = evaluated("corpora_layout", SMALL, config=config, components={"encoder": encoder})
    assert sorted(cut) == ["clocks.md", "ponds.md", "unasked.md"]
    assert {row.ranking for row in report.rows.values()} == {"fused"}, "the default hybrid"
    assert encoder.num_texts_encoded == sum(row.num_chunks for row in report.rows.values()), "every chunk is encoded once"


def test_an_index_option_can_belong_to_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[float] = []
    init = BM25Index.__init__

    def watched(self: BM25Index, *arguments: Any, **options: Any) -> None:
        made.append(options.get("k1", -1.0))
        init(self, *arguments, **options)

    watched.__signature__ = inspect.signature(init)  # type: ignore[attr-defined]  # the options are read from it
    monkeypatch.setattr(BM25Index, "__init__", watched)
    other = Contender("flat", {"use": "structure"}, {"sparse": {"use": "bm25", "k1": 0.5}})
    report = evaluated("corpora_layout", other)
    assert list(report.rows) == ["structure", "flat"], "with index options of its own it is not the configured one"
    assert made == [-1.0, 0.5]
    assert report.rows["flat"].indexes == {"sparse": {"use": "bm25", "k1": 0.5}}


def test_models_of_the_configuration_are_built_once_for_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    make = Assembly._make

    def watched(self: Assembly, kind: str, key: str, block: Block) -> Any:
        made.append(key)
        return make(self, kind, key, block)

    monkeypatch.setattr(Assembly, "_make", watched)
    assert len(evaluated().rows) == 2
    assert made.count("models.tokenizer") == 1 and made.count("chunker") == 2


def test_a_generator_that_needs_a_model_is_not_built() -> None:
    assert evaluated(config={**WORDS, "generator": {"use": "lm"}}).num_questions == 7, "though no lm is configured"


def test_index_blocks_replace_those_of_the_same_name() -> None:
    late = Contender("late", {"use": "fixed"}, {"dense": {"use": "faiss", "pooling": "late"}})
    assert late.configured({})["indexes"] == {"dense": {"use": "faiss", "pooling": "late"}, "sparse": {"use": "bm25"}}
    assert set(late.configured(WORDS)["indexes"]) == {"sparse", "dense"}
    assert Contender("plain", {"use": "fixed"}).configured(WORDS)["indexes"] == WORDS["indexes"]


def test_the_configured_chunker_joins_as_baseline() -> None:
    fixed = {"use": "fixed", "max_tokens": 30}
    report = evaluated("corpora_layout", SMALL, config={**WORDS, "chunker": fixed})
    assert report.baseline == "fixed" and list(report.rows) == ["fixed", "small"]
    assert {(each.name, each.baseline) for each in report.comparisons} == {("small", "fixed")}
    name, contenders = with_baseline([Contender("mine", fixed), SMALL], {"chunker": fixed})
    assert (name, len(contenders)) == ("mine", 2), "it is the same block under another name"
    name, contenders = with_baseline([Contender("structure", fixed)], {})
    assert [each.name for each in contenders] == ["structure (configured)", "structure"] and name == "structure (configured)"


def many_questions(num_questions: int = 40) -> SpanSet:
    """One paragraph of 30 words, one question for its last word each: small chunks win at small budgets, clearly."""
    paragraphs = [" ".join(f"w{number}x{place}" for place in range(30)) for number in range(num_questions)]
    text = "\n\n".join(paragraphs)
    questions = []
    for number in range(num_questions):
        answer = f"w{number}x29"
        questions.append(SpanQuestion(answer, "many", (Span(text.index(answer), text.index(answer) + len(answer)),)))
    return SpanSet("many", (Document(Document.id_of("many"), "many", text),), tuple(questions))


def test_wins_and_losses_are_marked_only_where_the_interval_excludes_zero() -> None:
    large, tiny = Contender("large", {"use": "fixed", "max_tokens": 30}), Contender("tiny", {"use": "fixed", "max_tokens": 10})
    same = Contender("same", {"use": "recursive", "max_tokens": 30})
    config = {**WORDS, "chunker": dict(large.chunker)}
    report = evaluate_chunking(many_questions(), [tiny, same], config=config, k=1, budgets=[10], num_resamples=500)
    verdicts = {(each.name, each.measure): each.verdict for each in report.comparisons}
    assert verdicts["tiny", "recall@10 tokens"] == "better" and verdicts["tiny", "precision@1"] == "better"
    assert {verdict for (name, _), verdict in verdicts.items() if name == "same"} == {"inside the noise"}
    backwards = evaluate_chunking(
        many_questions(), [large], config={**WORDS, "chunker": dict(tiny.chunker)}, k=1, budgets=[10], num_resamples=500
    )
    assert {each.verdict for each in backwards.comparisons if each.measure == "recall@10 tokens"} == {"worse"}
    shown = printed(report)
    assert "100.0 (100.0 to 100.0) win |" in shown and "loss |" not in shown
    assert "0.0 (0.0 to 0.0) loss |" in printed(backwards)


def printed(report: ChunkingReport) -> str:
    console = Console(width=240, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(report.heading(), soft_wrap=True)
    for table in report.tables():
        console.print(table)
    return console.export_text()


def test_topics_are_scored_where_they_are_marked() -> None:
    lines = Contender("lines", {"use": "recursive", "max_tokens": 20, "min_tokens": 0})
    whole = Contender("whole", {"use": "recursive", "max_tokens": 5000})
    report = evaluated("meetings_layout", lines, whole)
    found, none = report.rows["lines"].segmented, report.rows["whole"].segmented
    assert found is not None and none is not None
    assert (found.num_documents, found.mean_marked) == (2, 1.5) and found.mean_cuts > 2 > none.mean_cuts == 0
    assert found.f1 > none.f1 == 0.0
    assert none.even == {"f1": 0.0, "pk": none.pk, "window_diff": none.window_diff}, "no cut is no cut, at equal distances too"
    assert "Agreement with marked topics" in printed(report) and "Agreement" not in printed(evaluated())


def test_json_holds_every_question_s_values_on_demand() -> None:
    report = evaluated()
    plain = json.loads(report.json())
    assert "per_question" not in plain["rows"]["small"]
    assert set(plain["comparisons"][0]) == {"measure", "name", "baseline", "mean", "low", "high", "p", "num_queries", "verdict"}
    whole = json.loads(report.json(per_question=True))
    values = whole["rows"]["small"]["per_question"]["characters"]["recall@2"]
    assert len(values) == 7 and sum(values) / 7 == pytest.approx(plain["rows"]["small"]["scores"]["characters"]["recall@2"]["mean"])
    assert report.rows["small"].per_question, "the report itself keeps them"


def test_one_seed_makes_one_report() -> None:
    def scores(seed: int) -> Any:
        rows = evaluated(seed=seed).as_dict(per_question=True)["rows"]
        return {name: (row["scores"], row["per_question"]) for name, row in rows.items()}

    assert scores(1) == scores(1) != scores(2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k is 0"),
        ({"budgets": [5, 0]}, "a budget is 0"),
        ({"budgets": []}, "there are no budgets"),
        ({"within": "page"}, "within is 'page'; allowed: all, document"),
        ({"components": {"chunker": object()}}, "components hold a chunker"),
    ],
)
def test_bad_calls_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluated(**options)


def test_a_chunker_that_cannot_be_built_is_refused_before_anything_is_measured() -> None:
    heard: list[str] = []
    for block, message in (
        ({"use": "recursiv"}, "chunker 'bad': chunker.use: unknown chunker 'recursiv' \\(did you mean 'recursive'"),
        ({"use": "fixed", "max_tokns": 3}, "chunker 'bad': chunker \\(fixed\\): max_tokns: unknown key"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluated("corpora_layout", SMALL, Contender("bad", block), on_progress=heard.append)
    assert heard == []


def test_a_span_without_a_token_is_refused() -> None:
    spans = SpanSet("s", (Document(Document.id_of("d"), "d", "carp pond"),), (SpanQuestion("what?", "d", (Span(1, 3),)),))
    with pytest.raises(ValueError, match="no token starts in the spans of the question 'what\\?'"):
        evaluate_chunking(spans, [SMALL], config=WORDS)
    with pytest.raises(ValueError, match="set 's' has no questions"):
        evaluate_chunking(SpanSet("s", spans.documents, ()), [SMALL], config=WORDS)


def test_contenders_from_words_and_from_yaml(tmp_path: Path) -> None:
    assert contenders_of("structure,fixed") == [Contender("structure", {"use": "structure"}), Contender("fixed", {"use": "fixed"})]
    path = tmp_path / "rows.yaml"
    path.write_text(
        "small: {use: recursive, max_tokens: 50}\nlate: {chunker: {use: fixed}, indexes: {dense: {use: faiss, pooling: late}}}\n",
        encoding="utf-8",
    )
    assert contenders_of(str(path)) == [
        Contender("small", {"use": "recursive", "max_tokens": 50}),
        Contender("late", {"use": "fixed"}, {"dense": {"use": "faiss", "pooling": "late"}}),
    ]
    for text, message in (
        ("- fixed", "must map names to chunker blocks"),
        ("a: fixed", "a: expected a block with `use:`"),
        ("a: {chunker: {use: fixed}, use: fixed}", "a: expected a block"),
        ("a: {chunker: {use: fixed}, index: {}}", "a: unknown key 'index'; allowed: chunker, indexes"),
        ("a: {chunker: fixed}", "a: chunker is a block"),
        ("a: {", "is not YAML"),
        ("{}", "no chunkers to compare"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=message):
            contenders_of(str(path))
    with pytest.raises(ConfigError, match="cannot read the chunkers in .*none.yaml"):
        contenders_of(str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match="'fixed' is named twice"):
        contenders_of("fixed,fixed")
    with pytest.raises(ConfigError, match="no chunkers to compare"):
        contenders_of(" , ")


def test_a_plot_is_drawn_by_its_suffix(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = evaluated("meetings_layout", LARGE, SMALL, Contender("twin", {"use": "recursive"}))
    draw(report, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    draw(report, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text(encoding="utf-8")
    assert "<svg" in drawn and "<dc:date>" not in drawn
    assert "structure = twin" in drawn, "chunkers that found the same share a line"
    for bad, error in (("plot.gif", "allowed: .png, .svg, .pdf"), ("plot", "no suffix of a picture")):
        with pytest.raises(ValueError, match=error):
            check_plot(tmp_path / bad)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        check_plot(tmp_path / "nowhere" / "plot.png")


def test_without_matplotlib_the_pip_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"--plot needs the package 'matplotlib': pip install 'ragstone\[report\]'"):
        check_plot(Path("plot.png"))


def command(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "COLUMNS": "80"}
    whole = [sys.executable, "-m", "rag", "eval", "chunking", *arguments]
    return subprocess.run(whole, check=False, cwd=home, env=environment, capture_output=True, text=True, timeout=120)


def test_the_command_prints_tables_and_writes_json_and_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "words.yaml").write_text(json.dumps(WORDS), encoding="utf-8")
    done = command(
        tmp_path, str(FIXTURES / "corpora_layout"), "--chunkers", "fixed,structure", "--budgets", "40,20", "--k", "3", "--config", "words.yaml",
        "--json", "out.json", "--plot", "out.svg",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["1 of 2: structure", "2 of 2: fixed"]
    assert "| structure |" in done.stdout and "recall@3 %" in done.stdout, "narrow terminals do not wrap the table"
    assert "20 tokens |" in done.stdout and "corpora_layout: 7 questions, 3 documents" in done.stdout
    whole = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert whole["budgets"] == [20, 40] and len(whole["rows"]["fixed"]["per_question"]["tokens"]["recall@3"]) == 7
    assert (tmp_path / "out.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["."], "error: '.' holds neither of these: questions_df.csv"),
        (["SET", "--chunkers", "recursiv"], "unknown chunker 'recursiv' (did you mean 'recursive'?)"),
        (["SET", "--budgets", "100,many"], "error: budgets are whole numbers between commas, not '100,many'"),
        (["SET", "--within", "page"], "error: within is 'page'; allowed: all, document"),
        (["SET", "--plot", "plot.gif"], "error: plot 'plot.gif' has no suffix of a picture; allowed: .png, .svg, .pdf"),
        (["SET", "--json", "nowhere/out.json"], "error: nowhere: there is no such folder for the JSON file"),
    ],
)
def test_misuse_of_the_command_is_one_clear_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = command(tmp_path, *(argument.replace("SET", str(FIXTURES / "corpora_layout")) for argument in arguments))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert message in done.stderr
