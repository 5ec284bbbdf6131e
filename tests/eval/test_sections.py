"""Chunks against sections: hand-computed cases, and the command on a file."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from rag.cli import app
from rag.core import Chunk, Document, Span
from rag.eval.contenders import Contender
from rag.eval.sections import evaluate_sections, kept, sections
from rag.read.draft import TextBuilder

WORDS = {"models": {"tokenizer": {"use": "words"}}}


def laid_out(source: str = "ducks") -> Document:
    builder = TextBuilder()
    for heading, text in (("Food", "Ducks eat weed."), ("Nests", "They nest near water.")):
        builder.add(heading, "heading", level=1)
        builder.add(text, "paragraph")
    return builder.draft().document(source)


def cut(document: Document, *places: int) -> list[Chunk]:
    bounds = [0, *places, len(document.text)]
    return [Chunk.of(document, Span(*ends)) for ends in itertools.pairwise(bounds)]


def test_sections_count_headings_over_solid_characters() -> None:
    document = laid_out()
    numbers = sections(document)
    assert len(numbers) == len("".join(document.text.split()))
    assert np.array_equal(numbers, np.sort(numbers))
    assert numbers.tolist().count(1) == len("FoodDuckseatweed.")
    assert numbers.tolist().count(2) == len("NestsTheynestnearwater.")


def test_cuts_at_the_headings_are_perfect_and_others_are_not() -> None:
    document = laid_out()
    place = document.text.index("Nests")
    perfect = kept(document, cut(document, place))
    assert perfect.nmi == pytest.approx(1.0)
    assert (perfect.purity, perfect.num_chunks, perfect.runs_per_cluster) == (1.0, 2, 1.0)
    whole = kept(document, cut(document))
    assert (whole.nmi, whole.num_chunks) == (0.0, 1)
    assert whole.purity == pytest.approx(23 / 40)
    late = kept(document, cut(document, document.text.index("They")))
    # five of the 23 solid characters of the second section ("Nests") lie in the first chunk
    joint = np.array([[17, 5], [0, 18]]) / 40

    def entropy(shares: list[float]) -> float:
        return -sum(share * math.log(share) for share in shares if share)

    rows, columns = entropy([22 / 40, 18 / 40]), entropy([17 / 40, 23 / 40])
    assert late.nmi == pytest.approx(2 * (rows + columns - entropy(joint.ravel().tolist())) / (rows + columns))
    assert late.purity == pytest.approx(35 / 40)


def test_chunks_of_one_cluster_count_as_one_group_in_several_runs() -> None:
    document = laid_out()
    one, two, three = cut(document, document.text.index("Ducks"), document.text.index("Nests"))
    scattered = [Chunk.of(document, chunk.span, meta={"cluster": number}) for chunk, number in ((one, 0), (two, 1), (three, 0))]
    found = kept(document, scattered)
    assert (found.num_chunks, found.runs_per_cluster) == (2, 1.5)
    assert kept(document, scattered, together=False).num_chunks == 3


def test_documents_without_sections_are_left_out_by_name() -> None:
    plain = Document("plain", "plain.txt", "No heading at all.")
    report = evaluate_sections([laid_out(), plain], [Contender("structure", {"use": "structure"})], WORDS)
    assert (dict(report.num_sections), list(report.left_out)) == ({"ducks": 2}, ["plain.txt"])
    with pytest.raises(ValueError, match="none of 1 documents has two sections"):
        evaluate_sections([plain], [Contender("structure", {"use": "structure"})], WORDS)


def test_the_command_reads_files_and_writes_json(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "ducks.md").write_text("# Food\n\nDucks eat weed.\n\n# Nests\n\nThey nest near water.\n")
    (tmp_path / "docs" / "empty.md").write_text("")
    (tmp_path / "rag.yaml").write_text(json.dumps(WORDS))
    (tmp_path / "rows.yaml").write_text("by section: {use: structure, min_tokens: 0}\nwhole: {use: recursive}\n")
    out = tmp_path / "out.json"
    arguments = ["--chunkers", str(tmp_path / "rows.yaml"), "--config", str(tmp_path / "rag.yaml"), "--json", str(out)]
    done = CliRunner().invoke(app, ["eval", "sections", str(tmp_path / "docs"), *arguments])
    assert done.exit_code == 0, done.output
    scores = json.loads(out.read_text())["scores"]
    (source,) = scores["whole"]
    assert scores["by section"][source]["nmi"] == pytest.approx(1.0)
    assert scores["whole"][source]["nmi"] == 0.0
    assert "by section" in done.output


def test_the_command_refuses_bad_paths_before_it_measures(tmp_path: Path) -> None:
    (tmp_path / "ducks.md").write_text("# Food\n\nDucks eat weed.\n\n# Nests\n\nThey nest near water.\n")
    for arguments, message in (
        (["nosuch"], "nosuch: there is no such file or folder"),
        ([str(tmp_path), "--json", str(tmp_path / "no" / "out.json")], "there is no such folder for the JSON file"),
    ):
        done = CliRunner().invoke(app, ["eval", "sections", *arguments])
        assert done.exit_code != 0
        assert message in str(done.exception) + done.output
