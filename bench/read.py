"""Reading files: how near the text comes to the reference texts, and how fast, beside pdfium's plain text, pypdf and pdfplumber.

    python bench/read.py --data ../shared/data/documents

PDF: normalised Levenshtein similarity after the same folding of every text (NFKC, hyphens at line ends taken back, leader dots and
blanks folded, table bars out; markdown marks out of the reference only; the running heads of the book out of every text). Papers
without a reference: the share of pdfium's 12-word sequences (its order follows the page's own stream, which is right in these files)
that the reader's text has too; running heads and feet, which only ragstone takes out, and footnotes, behind which it joins the two
halves of a paragraph, count as differences. Other formats: the share of the reference's words that come in the same order (longest common
subsequence). Speed: pages a second, bytes to text, readers taking turns.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import re
import statistics
import sys
import unicodedata
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import pdfplumber
import pypdf
import pypdfium2
from rapidfuzz.distance import LCSseq, Levenshtein

from bench.record import alternating, write_result
from rag.read.draft import Limits
from rag.read.media import READERS
from rag.read.pdf import read_pdf

LIMITS = Limits()
AIMS = {"pdf_median_similarity": 0.97, "two_column_similarity": 0.96, "speed_to_pdfium": 1 / 3}
SEQUENCE_WORDS = 12
SPEED_FILES = (
    "py-pdf/GeoTopo-komprimiert.pdf",
    "acl_anthology/2020.acl-main.447.pdf",
    "acl_anthology/2023.eacl-main.121.pdf",
    "pdfplumber/federal-register-2020-17221.pdf",
    "pdfplumber/WARN-Report-for-7-1-2015-to-03-25-2016.pdf",
)
SEQUENCE_FILES = SPEED_FILES[1:4]
FORMATS = ("docx", "pptx", "xlsx", "html", "md", "csv", "jats")
# the book's running heads (`7 1.2. METRISCHE RÄUME`), a line of their own in every text that has them
BOOK_HEAD = re.compile(r"^\s*(\d+\s+)?\d\.\d\.\s+[A-ZÄÖÜ -]+(\s+\d+)?\s*$", re.MULTILINE)


def ours(data: bytes) -> str:
    return read_pdf(data, LIMITS).text


def plain_pdfium(data: bytes) -> str:
    document = pypdfium2.PdfDocument(data)
    parts = []
    for page in document:
        text_page = page.get_textpage()
        parts.append(text_page.get_text_range())
        text_page.close()
        page.close()
    document.close()
    return "\n".join(parts)


def with_pypdf(data: bytes) -> str:
    return "\n".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(data)).pages)


def with_pdfplumber(data: bytes) -> str:
    with pdfplumber.open(io.BytesIO(data)) as document:
        return "\n".join(page.extract_text() or "" for page in document.pages)


READERS_OF_PDF: dict[str, Callable[[bytes], str]] = {
    "ragstone": ours,
    "pdfium": plain_pdfium,
    "pypdf": with_pypdf,
    "pdfplumber": with_pdfplumber,
}


def folded(text: str) -> str:
    text = text.replace("\ufffe", "").replace("\r\n", "\n")
    text = BOOK_HEAD.sub("", text)
    text = re.sub(r"[-\xad]\s*\n(?=[a-zäöüß])", "", unicodedata.normalize("NFKC", text))
    text = re.sub(r"(\s?\.){4,}|\s\.\.\.(?=\s)", " ", text).replace("|", " ")
    return " ".join(text.split())


def without_marks(markdown: str) -> str:
    text = re.sub(r"<!--.*?-->", "", markdown, flags=re.DOTALL)
    text = re.sub(r"^(#+ |```.*$|\s*- |\|[-| :]+\|\s*$)", "", text, flags=re.MULTILINE)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = text.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")
    return re.sub(r"[*_`\\]", "", text)


def columns_of(layout: str) -> str:
    """The reference of multicolumn.pdf, drawn with blanks, as running text: the heading, the left column, the right column."""
    lines = layout.split("\n")
    start = next(number for number, line in enumerate(lines) if line.startswith("Abstract"))
    starts = [match.start(1) for line in lines[start:] if (match := re.search(r"\S {4,}(\S)", line))]
    gutter = statistics.mode(starts)
    left, right = ([line[part].strip() for line in lines[start:]] for part in (slice(0, gutter), slice(gutter, None)))
    # the page number stands in the gap below the columns
    return "\n".join([*lines[:start], *(line for line in left if line != "1"), *right])


def pairs(data: Path) -> list[tuple[str, bytes, str]]:
    """Name, PDF and reference text of everything that has one."""
    found = []
    for path in sorted((data / "docling/pdf").glob("*.pdf")):
        reference = (path.parent / "groundtruth" / f"{path.stem}.md").read_text(encoding="utf-8")
        found.append((path.name, path.read_bytes(), without_marks(reference)))
    book = (data / "py-pdf/groundtruth/GeoTopo-book.txt").read_text(encoding="utf-8").replace("[IMAGE]", "")
    found.append(("GeoTopo-komprimiert.pdf", (data / SPEED_FILES[0]).read_bytes(), book))
    layout = (data / "py-pdf/groundtruth/multicolumn-lorem-ipsum.layout.txt").read_text(encoding="utf-8")
    first = pypdf.PdfWriter()
    first.append(data / "py-pdf/multicolumn.pdf", pages=(0, 1))
    buffer = io.BytesIO()
    first.write(buffer)
    found.append(("multicolumn.pdf (page 1)", buffer.getvalue(), columns_of(layout)))
    return found


def similarities(data: Path) -> list[dict[str, Any]]:
    rows = []
    for name, file, reference in pairs(data):
        row: dict[str, Any] = {"file": name, "reference_chars": len(folded(reference))}
        for reader, read in READERS_OF_PDF.items():
            row[reader] = round(Levenshtein.normalized_similarity(folded(read(file)), folded(reference)), 4)
        rows.append(row)
    return rows


def sequences(text: str) -> list[tuple[str, ...]]:
    # hyphens (pdfium drops them at line ends) and accents (TeX draws them apart) are no question of order
    letters = unicodedata.normalize("NFKD", re.sub(r"(?<=\w)[-‐](?=\w)", "", folded(text))).lower()
    words = re.findall(r"[^\W\d_]+", re.sub(r"[\u0300-\u036f´ˇ¨ˆ˜]", "", letters))
    return [tuple(words[at : at + SEQUENCE_WORDS]) for at in range(len(words) - SEQUENCE_WORDS + 1)]


def agreements(data: Path) -> list[dict[str, Any]]:
    rows = []
    for name in SEQUENCE_FILES:
        file = (data / name).read_bytes()
        stream = sequences(plain_pdfium(file))
        row: dict[str, Any] = {"file": name.rpartition("/")[2], "sequences": len(stream)}
        for reader, read in READERS_OF_PDF.items():
            known = set(sequences(read(file)))
            row[reader] = round(sum(each in known for each in stream) / len(stream), 4)
        rows.append(row)
    return rows


def speeds(data: Path, rounds: int) -> list[dict[str, Any]]:
    rows = []
    for name in SPEED_FILES:
        file = (data / name).read_bytes()
        num_pages = len(pypdfium2.PdfDocument(file))
        runs: dict[str, Callable[[], Any]] = {key: partial(read, file) for key, read in READERS_OF_PDF.items()}
        fast = alternating({key: runs[key] for key in ("ragstone", "pdfium")}, rounds)
        slow = alternating({key: runs[key] for key in ("pypdf", "pdfplumber")}, 1)
        row: dict[str, Any] = {"file": name.rpartition("/")[2], "pages": num_pages}
        row |= {key: round(num_pages / seconds, 1) for key, seconds in {**fast, **slow}.items()}
        rows.append({**row, "ragstone_to_pdfium": round(fast["pdfium"] / fast["ragstone"], 3)})
    return rows


def other_formats(data: Path) -> list[dict[str, Any]]:
    rows = []
    for folder in FORMATS:
        for path in sorted(path for path in (data / "docling" / folder).iterdir() if path.is_file()):
            reference_path = path.parent / "groundtruth" / f"{path.name}.md"
            if path.suffix not in READERS or not reference_path.exists():
                continue
            module, _, function = READERS[path.suffix].target.partition(":")
            read = getattr(importlib.import_module(module), function)
            words = re.findall(r"\w+", read(path.read_bytes(), LIMITS).text.lower())
            reference = re.findall(r"\w+", without_marks(reference_path.read_text(encoding="utf-8")).lower())
            share = LCSseq.similarity(reference, words) / max(len(reference), 1)
            rows.append({"file": path.name, "reference_words": len(reference), "words": len(words), "in_order": round(share, 4)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data/documents")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    similar = similarities(arguments.data)
    speed = speeds(arguments.data, arguments.rounds)
    formats = other_formats(arguments.data)
    names = list(READERS_OF_PDF)
    result = {
        "aims": AIMS,
        "reached": {
            "pdf_median_similarity": {name: round(statistics.median(row[name] for row in similar), 4) for name in names},
            "two_column_similarity": {name: similar[-1][name] for name in names},
            "speed_to_pdfium": round(statistics.median(row["ragstone_to_pdfium"] for row in speed), 3),
            "other_formats_median": statistics.median(row["in_order"] for row in formats),
        },
        "load_average_at_end": round(os.getloadavg()[0], 1),
        "pdf_similarity": similar,
        "pdf_12_word_sequences_of_stream_order": agreements(arguments.data),
        "pdf_pages_per_second": speed,
        "other_formats": formats,
    }
    path = write_result(
        "read", result, ("pypdfium2", "pypdf", "pdfplumber", "rapidfuzz", "python-docx", "python-pptx", "openpyxl", "lxml")
    )
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
