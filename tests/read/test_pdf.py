"""Reading PDF files: order, structure, refusals. The files are written here, letter by letter, so that what is true is known."""

from __future__ import annotations

import ctypes
import io
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pypdfium2 as pdfium
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.core import Element
from rag.errors import EncryptedFile, FileTooLarge, ReadError
from rag.read import ocr
from rag.read.draft import Draft, Limits
from rag.read.pdf import read_pdf
from rag.read.pdf_order import regions, rows
from rag.read.pdf_words import Piece, _words, page_text

FIXTURES = Path(__file__).parents[1] / "fixtures/pdf"
DOCUMENTS = Path(__file__).parents[2] / "../shared/data/documents"
LIMITS = Limits()
WIDTH, HEIGHT = 612.0, 792.0
FONTS = {"regular": "Helvetica", "bold": "Helvetica-Bold", "mono": "Courier"}


class Put(NamedTuple):
    """Text at a place: points from the top left corner to the start of the base line."""

    x: float
    y: float
    text: str
    size: float = 10.0
    font: str = "regular"


def pdf(*pages: list[Put], rotate: int = 0, turn: int = 0, picture: bool = False, info: str = "") -> bytes:
    """A PDF with the given pages, shown turned clockwise by ``rotate``, all text turned by ``turn`` against the clock about the
    middle of the page; ``picture`` lays one grey picture over each page's lower half.
    """
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[turn]
    fonts = "".join(
        f"/{name} << /Type /Font /Subtype /Type1 /BaseFont /{base} /Encoding /WinAnsiEncoding >> " for name, base in FONTS.items()
    )
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    kids = []
    for page in pages:
        parts = []
        for put in page:
            text = put.text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
            x, y = put.x - WIDTH / 2, HEIGHT / 2 - put.y
            place = f"{cos} {sin} {-sin} {cos} {WIDTH / 2 + cos * x - sin * y} {HEIGHT / 2 + sin * x + cos * y}"
            parts.append(f"BT /{put.font} {put.size} Tf {place} Tm ({text}) Tj ET")
        if picture:
            parts.append("q 612 0 0 396 0 0 cm BI /W 1 /H 1 /CS /G /BPC 8 ID 0 EI Q")
        stream = "\n".join(parts)
        kids.append(f"{len(objects) + 1} 0 R")
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {WIDTH} {HEIGHT}] /Rotate {rotate} /Contents {len(objects) + 2} 0 R"
            f" /Resources << /Font << {fonts} >> >> >>"
        )
        objects.append(f"<< /Length {len(stream.encode('cp1252'))} >>\nstream\n{stream}\nendstream")
    objects[1] = f"<< /Type /Pages /Count {len(pages)} /Kids [{' '.join(kids)}] >>"
    objects.append(f"<< {info} >>")
    out = b"%PDF-1.4\n"
    places = []
    for number, body in enumerate(objects, start=1):
        places.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode("cp1252")
    start = len(out)
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n".encode()
    return out + f"<< /Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R >>\nstartxref\n{start}\n%%EOF\n".encode()


def column(x: float, y: float, lines: list[str], step: float = 12.0, **style: float) -> list[Put]:
    return [Put(x, y + number * step, line, **style) for number, line in enumerate(lines)]  # type: ignore[arg-type]


def prose(name: str, num_lines: int) -> list[str]:
    """Lines of about 220 points that say where they belong."""
    return [
        f"{name}{number} the quick brown fox jumps over a lazy dog{'.' if number == num_lines - 1 else ''}"
        for number in range(num_lines)
    ]


def kinds(draft: Draft) -> list[tuple[str, str]]:
    return [(element.kind, element.span.of(draft.text)) for element in draft.elements]


def element_with(draft: Draft, text: str) -> Element:
    return next(element for element in draft.elements if text in element.span.of(draft.text))


def names_in_order(text: str) -> list[str]:
    return re.findall(r"\b[a-z]+\d+(?= the quick)", text)


def expected_names(*runs: tuple[str, int]) -> list[str]:
    return [f"{name}{number}" for name, count in runs for number in range(count)]


def by_row(*columns: list[Put]) -> list[Put]:
    """The columns drawn line by line across the page, as some programs do."""
    return sorted((put for each in columns for put in each), key=lambda put: (put.y, put.x))


def test_two_columns_under_a_title_read_left_column_first() -> None:
    title = [Put(120, 60, "Ducks and the question of where they sleep", 18, "bold")]
    left, right = column(50, 110, prose("left", 30)), column(320, 110, prose("right", 30))
    for body in (left + right, right + left, by_row(left, right)):
        draft = read_pdf(pdf(title + body), LIMITS)
        assert names_in_order(draft.text) == expected_names(("left", 30), ("right", 30))
        assert kinds(draft)[0] == ("heading", "Ducks and the question of where they sleep")
        assert draft.meta["title"] == "Ducks and the question of where they sleep"


def test_three_columns() -> None:
    lines = {name: [line[:38] for line in prose(name, 25)] for name in "abc"}
    columns = [column(x, 100, lines[name], size=8) for x, name in zip((40, 225, 410), "abc", strict=True)]
    draft = read_pdf(pdf(by_row(*columns)), LIMITS)
    assert names_in_order(draft.text) == expected_names(("a", 25), ("b", 25), ("c", 25))


def test_columns_of_entries_with_hanging_indents() -> None:
    def entries(x: float, name: str) -> list[Put]:
        return [Put(x if number % 12 == 0 else x + 11, 80 + 12 * number, line) for number, line in enumerate(prose(name, 45))]

    draft = read_pdf(pdf(by_row(entries(50, "left"), entries(320, "right"))), LIMITS)
    assert names_in_order(draft.text) == expected_names(("left", 45), ("right", 45))


def test_what_spans_the_columns_cuts_them() -> None:
    upper = by_row(column(50, 80, prose("a", 12)), column(320, 80, prose("b", 12)))
    middle = [Put(60, 260, "Figure 1: A drawing over the whole width of the page, which both columns make room for, says much.")]
    lower = by_row(column(50, 300, prose("c", 12)), column(320, 300, prose("d", 12)))
    draft = read_pdf(pdf(upper + middle + lower), LIMITS)
    order = names_in_order(draft.text)
    assert order == expected_names(("a", 12), ("b", 12), ("c", 12), ("d", 12))
    assert draft.text.index("b11") < draft.text.index("Figure 1") < draft.text.index("c0")
    assert element_with(draft, "Figure 1").kind == "caption"


def test_one_column_stays_one() -> None:
    lines = [
        f"line{number} the quick brown fox jumps over the lazy dog and runs on to the far edge of the page" for number in range(30)
    ]
    indented = [Put(80 if number % 6 == 0 else 60, 80 + 12 * number, line) for number, line in enumerate(lines)]
    assert names_in_order(read_pdf(pdf(indented), LIMITS).text) == expected_names(("line", 30))


def test_structure_of_a_page() -> None:
    page = [
        Put(60, 60, "The life of ducks", 20, "bold"),
        Put(60, 100, "1 Food", 14, "bold"),
        *column(60, 120, ["Ducks eat many things that grow in shallow water, and they find most of", "it with their bills. This ends here."]),
        Put(60, 160, "1.1 Plants", 12, "bold"),
        *column(60, 180, ["Among plants they like duckweed best, which is why it is called so by", "everybody who has ever seen it."]),
        Put(60, 220, "• duckweed"),
        Put(60, 232, "• pondweed, which grows below the surface and is eaten by the diving"),
        Put(70, 244, "kinds only"),
        Put(60, 256, "• seeds"),
        Put(60, 290, "2 Sleep", 14, "bold"),
        *column(60, 310, ["They sleep on water. The table says for how long."]),
        *[Put(x, 340 + 14 * row, cell) for row, cells in enumerate([("Duck", "Hours", "Place"), ("mallard", "10", "pond"), ("teal", "9", "marsh"), ("eider", "7", "sea")]) for x, cell in zip((80, 200, 300), cells, strict=True)],
        Put(60, 410, "Table 1: Sleep of ducks."),
        *[Put(60, 440 + 12 * row, line, 10, "mono") for row, line in enumerate(["def quack():", "    return 1"])],
    ]  # fmt: skip
    draft = read_pdf(pdf(page, info="/Title (Microsoft Word - ducks.doc) /Author (A. Drake)"), LIMITS)
    assert draft.meta == {"num_pages": 1, "title": "The life of ducks", "author": "A. Drake"}
    headings = [(element.span.of(draft.text), element.level) for element in draft.elements if element.kind == "heading"]
    assert headings == [("The life of ducks", 1), ("1 Food", 2), ("1.1 Plants", 3), ("2 Sleep", 2)]
    assert (
        "paragraph",
        "Ducks eat many things that grow in shallow water, and they find most of it with their bills. This ends here.",
    ) in kinds(draft)
    listed = element_with(draft, "pondweed")
    assert listed.kind == "list"
    assert listed.span.of(draft.text).split("\n") == [
        "• duckweed", "• pondweed, which grows below the surface and is eaten by the diving kinds only", "• seeds"]  # fmt: skip
    table = next(element for element in draft.elements if element.kind == "table")
    assert [row.of(draft.text) for row in table.rows] == [
        "Duck | Hours | Place",
        "mallard | 10 | pond",
        "teal | 9 | marsh",
        "eider | 7 | sea",
    ]
    assert table.num_header_rows == 1
    assert element_with(draft, "Table 1").kind == "caption"
    assert element_with(draft, "quack").kind == "code" and "quack():\n" in draft.text


def test_elements_know_page_and_place() -> None:
    pages = [[Put(72, 100, f"The paragraph of page number {number} stands here.", 12)] for number in (1, 2)]
    draft = read_pdf(pdf(*pages), LIMITS)
    assert [element.page for element in draft.elements] == [1, 2]
    box = draft.elements[0].bbox
    assert box is not None
    left, top, right, bottom = box
    assert left == pytest.approx(72, abs=2) and top < 100 < bottom + 0.01 and bottom - top == pytest.approx(12, abs=1)
    assert right == pytest.approx(72 + 12 * 0.5 * len("The paragraph of page number 1 stands here."), rel=0.15)
    for element in draft.elements:
        assert draft.text[slice(*element.span)].startswith("The paragraph")


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_boxes_are_those_of_the_page_as_shown(rotate: int, turn: int) -> None:
    """What a reader of the turned page sees is found by drawing it."""
    page = [Put(100, 300, "A sentence that is turned together with its page."), Put(100, 312, "And one more below it.")]
    data = pdf(page, rotate=rotate, turn=turn)
    draft = read_pdf(data, LIMITS)
    assert draft.text.startswith("A sentence that is turned together with its page.")
    assert draft.text.endswith("And one more below it.")
    pixels = pdfium.PdfDocument(data)[0].render().to_numpy()[:, :, 0]
    dark_rows, dark_columns = (pixels < 128).any(1).nonzero()[0], (pixels < 128).any(0).nonzero()[0]
    boxes = [element.bbox for element in draft.elements if element.bbox]
    seen = dark_columns.min(), dark_rows.min(), dark_columns.max(), dark_rows.max()
    told = [pick(box[edge] for box in boxes) for edge, pick in enumerate((min, min, max, max))]
    assert told == pytest.approx(seen, abs=4)


def test_hyphens_at_line_ends() -> None:
    lines = [
        "This is one exam-", "ple of a word that goes on, and Bryan Mc-", "Cann is a name that does. A well-known thing is well-",
        "known here too, but a state is inde-", "pendent of it.",
    ]  # fmt: skip
    text = read_pdf(pdf(column(60, 100, lines)), LIMITS).text
    assert (
        text
        == "This is one example of a word that goes on, and Bryan Mc-Cann is a name that does. A well-known thing is well-known here too, but a state is independent of it."
    )


def test_a_sentence_goes_on_in_the_next_column_and_on_the_next_page() -> None:
    left = [*prose("left", 20)[:-1], "left19 the quick brown fox jumps over a lazy"]
    right = ["dog and then the sentence ends.", *prose("right", 19)]
    first = (
        column(50, 100, left) + column(320, 100, right[:-1]) + [Put(320, 340, "right19 the quick brown fox jumps over the lit-")]
    )
    second = column(50, 100, ["tle dog. A new sentence is on page two."])
    draft = read_pdf(pdf(first, second), LIMITS)
    assert "jumps over a lazy dog and then the sentence ends." in draft.text
    assert "right19 the quick brown fox jumps over the little dog.\n\nA new sentence" in draft.text
    assert element_with(draft, "little dog.").page == 1 and element_with(draft, "A new sentence").page == 2


def with_furniture(number: int, num_lines: int = 12) -> list[Put]:
    head = [Put(60, 40, "Annual report on ducks", 9), Put(500, 40, str(number + 6), 9)]
    words = ["zero", "one", "two", "three", "four"][number]
    body = column(60, 100, [f"Page {words} has a line number {line} which is unlike the others." for line in range(num_lines)])
    return [*head, *body, Put(280, 760, f"- {number + 6} -", 9)]


def test_running_heads_and_page_numbers_go_from_three_pages_on() -> None:
    three = read_pdf(pdf(*[with_furniture(number) for number in range(3)]), LIMITS).text
    assert "Annual report" not in three and "- 7 -" not in three
    assert len(re.findall(r"Page \w+ has a line", three)) == 36
    two = read_pdf(pdf(*[with_furniture(number) for number in range(2)]), LIMITS).text
    assert two.count("Annual report on ducks") == 2


def test_the_head_of_a_table_that_goes_on_is_no_furniture() -> None:
    pages = [
        [Put(x, 60 + 14 * row, cell) for row in range(10) for x, cell in zip((80, 250, 400), ("Duck", "Pond", "Day") if row == 0 else (f"duck {page}{row}", f"pond {row}{page}", f"{row + page}"), strict=True)]
        for page in range(4)
    ]  # fmt: skip
    assert read_pdf(pdf(*pages), LIMITS).text.count("Duck | Pond | Day") == 4


@pytest.mark.parametrize(
    ("data", "error", "reason"),
    [
        (b"", ReadError, "not a PDF"),
        (b"hello, this is no PDF at all", ReadError, "not a PDF"),
        (pdf([Put(60, 60, "x")])[:40], ReadError, "damaged"),
        ((FIXTURES / "senate-expenditures.pdf").read_bytes()[:3000], ReadError, "damaged"),
        ((FIXTURES / "encrypted.pdf").read_bytes(), EncryptedFile, "password"),
    ],
)
def test_refusals_have_one_line(data: bytes, error: type[ReadError], reason: str) -> None:
    with pytest.raises(error, match=reason) as caught:
        read_pdf(data, LIMITS)
    assert type(caught.value) is error
    assert "\n" not in caught.value.reason and caught.value.path == ""


def test_limits() -> None:
    data = pdf([Put(60, 60, "one")], [Put(60, 60, "two")])
    with pytest.raises(FileTooLarge, match="2 pages, more than the limit of 1"):
        read_pdf(data, Limits(max_pages=1))
    with pytest.raises(FileTooLarge, match="characters"):
        read_pdf(data, Limits(max_text_chars=4))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_cut_or_altered_file_is_read_or_refused(share: float) -> None:
    whole = (FIXTURES / "scotus-transcript-p1.pdf").read_bytes()
    cut = int(len(whole) * share)
    for data in (whole[:cut], whole[:cut] + bytes(500) + whole[cut + 500 :]):
        try:
            assert isinstance(read_pdf(data, LIMITS), Draft)
        except ReadError as error:
            assert "damaged" in error.reason


def test_scans_need_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr, "is_available", lambda: False)
    with pytest.raises(ReadError, match=r"pip install 'ragstone\[ocr\]'"):
        read_pdf(pdf([], picture=True), LIMITS)
    with pytest.raises(ReadError, match=r"pip install 'ragstone\[ocr\]'"):
        ocr.read_image(b"", LIMITS)
    some = read_pdf(pdf([Put(60, 60, "This page has a sentence beside its picture.")], [], picture=True), LIMITS)
    assert some.meta["pages_without_text"] == [2] and "sentence beside" in some.text
    assert read_pdf(pdf([]), LIMITS).text == ""  # blank, not a scan


def test_scanned_columns_are_read_in_order() -> None:
    pytest.importorskip("rapidocr")
    pytest.importorskip("onnxruntime")
    image = pytest.importorskip("PIL.Image")
    left = [
        "Mallards are the ducks",
        "that most people know",
        "since they live in parks",
        "and eat what is thrown",
        "into the water there",
    ]
    right = [
        "Eiders live on the sea",
        "and dive for mussels",
        "which they swallow whole",
        "and crush in the gizzard",
        "before they digest them",
    ]
    pixels = (
        pdfium.PdfDocument(pdf(column(40, 60, left, 20, size=14) + column(320, 60, right, 20, size=14)))[0]
        .render(scale=2)
        .to_numpy()
    )
    buffer = io.BytesIO()
    image.fromarray(pixels[:400, :, :3]).save(buffer, "PNG", dpi=(144, 144))
    draft = ocr.read_image(buffer.getvalue(), LIMITS)
    text = " ".join(draft.text.split())
    assert text.index("Mallards") < text.index("into the water") < text.index("Eiders") < text.index("digest them")
    box = draft.elements[0].bbox
    assert box is not None and box[0] == pytest.approx(40, abs=8) and box[1] == pytest.approx(48, abs=8)
    with pytest.raises(ReadError, match="not a readable picture"):
        ocr.read_image(b"no picture", LIMITS)


@pytest.mark.parametrize("name", ["senate-expenditures.pdf", "scotus-transcript-p1.pdf"])
def test_no_letter_is_lost_or_doubled(name: str) -> None:
    data = (FIXTURES / name).read_bytes()
    raw = pdfium.PdfDocument(data)[0].get_textpage().get_text_range()
    ours = read_pdf(data, LIMITS).text.replace(" | ", " ")
    assert Counter(re.findall(r"\w", ours)) == Counter(re.findall(r"\w", raw))


def test_a_turned_table() -> None:
    draft = read_pdf((FIXTURES / "senate-expenditures.pdf").read_bytes(), LIMITS)
    table = next(element for element in draft.elements if element.kind == "table")
    cells = [[cell.strip() for cell in row.of(draft.text).split("|")] for row in table.rows]
    row = next(row for row in cells if "DHAW20190026" in row)
    assert row == [
        "DHAW20190026",
        "05/03/2019",
        "CITIBANK - TRAVEL CBA CARD",
        "04/16/2019",
        "04/17/2019",
        "STAFF TRANSPORTATION",
        "521.00",
    ]


def test_words_have_the_boxes_of_their_characters() -> None:
    """The fast way (first and last character of a word) against the slow one (every character)."""
    for name in ("senate-expenditures.pdf", "scotus-transcript-p1.pdf"):
        page = pdfium.PdfDocument((FIXTURES / name).read_bytes())[0]
        text_page = page.get_textpage()
        text = text_page.get_text_range()
        spans = [match.span() for match in re.finditer(r"\S+", text)]
        raw = ctypes.cast(text_page.raw, ctypes.c_void_p).value
        assert raw is not None
        words = _words(text, spans, raw, (0.0, 792.0, 612.0, 792.0))
        for number, (start, end) in enumerate(spans):
            low, high = {0: (0, 2), 90: (1, 3)}[words.styles[number].angle]
            boxes = [text_page.get_charbox(index, loose=True) for index in range(start, end)]
            edges = min(box[low] for box in boxes), max(box[high] for box in boxes)
            assert (words.left[number], words.right[number]) == pytest.approx(edges, abs=0.6)


BOXES = st.tuples(
    st.integers(0, 500), st.integers(0, 700), st.integers(5, 300), st.sampled_from([6, 10, 12, 30]), st.text("ab .1", min_size=1)
)


@settings(max_examples=150, deadline=None)
@given(st.lists(BOXES, max_size=60))
def test_every_piece_is_read_once(drawn: list[tuple[int, int, int, int, str]]) -> None:
    pieces = [Piece(text, x, y, x + width, y + size, size, order=order) for order, (x, y, width, size, text) in enumerate(drawn)]
    ordered = [piece for region in regions(pieces) for row in rows(region) for piece in row.pieces]
    assert sorted(map(id, ordered)) == sorted(map(id, pieces))


def test_right_to_left_text_reads_in_logical_order() -> None:
    path = DOCUMENTS / "docling/pdf/right_to_left_01.pdf"
    if not path.exists():
        pytest.skip("shared documents are not here")
    draft = read_pdf(path.read_bytes(), LIMITS)
    assert draft.meta["title"] == "تحسين الإنتاجية وحل المشكلات من خلال البرمجة بلغة R و Python"
    assert "يمكن أن يؤدي أيضًا إلى اتخاذ قرارات أكثر دقة بناءً على استنتاجات قائمة على البيانات." in draft.text


def test_accents_drawn_apart_come_together() -> None:
    path = DOCUMENTS / "acl_anthology/2023.eacl-main.121.pdf"
    if not path.exists():
        pytest.skip("shared documents are not here")
    text = read_pdf(path.read_bytes(), LIMITS).text
    assert "Wojciech Kryściński" in text and "Ondřej Bojar" in text and "Miloš Stanojević" in text


def test_page_text_of_an_empty_page() -> None:
    assert page_text(pdfium.PdfDocument(pdf([]))[0]).groups == []
