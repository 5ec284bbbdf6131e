"""Files that want to hurt the reader: bombs, entities, lies, damage. Each must fail fast, as one of our errors."""

from __future__ import annotations

import io
import json
import random
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docx
import openpyxl
import pptx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag.errors import EncryptedFile, FileTooLarge, ReadError, UnknownType
from rag.read.delimited import read_csv
from rag.read.draft import Draft, Limits
from rag.read.jats import read_xml
from rag.read.json_text import read_json, read_jsonl
from rag.read.markdown import read_markdown
from rag.read.plain import read_text
from rag.read.sheet import read_xlsx
from rag.read.slides import read_pptx
from rag.read.web import read_html
from rag.read.word import read_docx

Read = Callable[[bytes, Limits], Draft]
TEXTUAL: list[Read] = [read_text, read_markdown, read_html, read_csv, read_json, read_jsonl, read_xml]
ZIPPED: list[Read] = [read_docx, read_pptx, read_xlsx]
FIXTURES = Path(__file__).parents[1] / "fixtures" / "formats"


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    began = time.process_time()  # what this process computed: waiting for a busy machine does not count
    yield
    assert time.process_time() - began < 20


@pytest.fixture
def small() -> Iterator[None]:
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400 * 2**20


def file_of(read: Read) -> bytes:
    makers: dict[Read, Any] = {read_docx: docx.Document, read_pptx: pptx.Presentation, read_xlsx: openpyxl.Workbook}
    document = makers[read]()
    stream = io.BytesIO()
    document.save(stream)
    return stream.getvalue()


def with_entry(container: bytes, name: str, content: bytes) -> bytes:
    stream = io.BytesIO(container)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return stream.getvalue()


def replaced(container: bytes, name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(container)) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, content if entry.filename == name else old.read(entry))
    return stream.getvalue()


BOMB = "<!DOCTYPE r [" + "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "lol"}">' for n in range(12)) + "]><r>&e11;</r>"


@pytest.mark.parametrize("read", TEXTUAL)
@pytest.mark.parametrize("blank", [b"", b" \n\t\r\n ", b"\xef\xbb\xbf", b"\xff\xfe"])
def test_blank_files_have_no_text(read: Read, blank: bytes) -> None:
    with pytest.raises(ReadError):
        read(blank, Limits())


@pytest.mark.parametrize("read", [*ZIPPED])
def test_empty_documents_have_no_text(read: Read) -> None:
    with pytest.raises(ReadError, match="no text"):
        read(file_of(read), Limits())


@pytest.mark.parametrize("read", [read_text, read_markdown, read_html, read_csv, read_json, read_jsonl])
@pytest.mark.parametrize("raw", [b"\x7fELF\x02\0\0\0", bytes(range(1, 32)) * 9, "アヒルは水鳥です。".encode("shift-jis") + b"\x81"])
def test_binary_and_unknown_encodings_are_refused(read: Read, raw: bytes) -> None:
    with pytest.raises(ReadError):
        read(raw, Limits())


@pytest.mark.parametrize("read", TEXTUAL)
def test_text_past_the_limit(read: Read) -> None:
    wraps: dict[Read, bytes] = {read_json: b'"%s"', read_jsonl: b'"%s"', read_xml: b"<a>%s</a>"}
    raw = wraps.get(read, b"%s") % (b"x" * 500)
    assert read(raw, Limits()).text.endswith("xxx")
    with pytest.raises(FileTooLarge):
        read(raw, Limits(max_text_chars=400))


@pytest.mark.parametrize("read", [read_text, read_markdown, read_html, read_csv])
def test_one_line_of_five_megabytes(read: Read) -> None:
    assert len(read(b"quack duck " * 500_000, Limits()).text) > 5_000_000


# zip containers -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("read", ZIPPED)
def test_zip_bombs_name_the_entry(read: Read) -> None:
    file = with_entry(file_of(read), "media/bomb.bin", bytes(30 * 2**20))
    assert len(file) < 2**18
    with pytest.raises(FileTooLarge, match=r"media/bomb\.bin.*over the limit of 200:1"):
        read(file, Limits())
    with pytest.raises(FileTooLarge, match=r"media/bomb\.bin.*more than 1,000,000 bytes"):
        read(file, Limits(max_expanded_bytes=1_000_000, max_expansion_ratio=1e9))
    with pytest.raises(FileTooLarge, match="zip entries pass the limit of 5"):
        read(file, Limits(max_archive_entries=5))


@pytest.mark.parametrize("read", ZIPPED)
def test_declared_sizes_are_not_believed(read: Read) -> None:
    """A size of 10 bytes is written over the real one, in both headers."""
    file = bytearray(with_entry(file_of(read), "lie.bin", bytes(3 * 2**20)))
    size = struct.pack("<I", 3 * 2**20)
    assert file.count(size) == 2
    with pytest.raises(ReadError, match=r"lie\.bin"):
        read(bytes(file.replace(size, struct.pack("<I", 10))), Limits())


@pytest.mark.parametrize("read", ZIPPED)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_in_any_part_are_refused(read: Read, encoding: str) -> None:
    mains: dict[Read, str] = {read_docx: "word/document.xml", read_pptx: "ppt/presentation.xml", read_xlsx: "xl/workbook.xml"}
    main = mains[read]
    xml = f'<?xml version="1.0" encoding="{encoding}"?>{BOMB}'
    for name in (main, "docProps/core.xml", "[Content_Types].xml"):
        with pytest.raises(ReadError, match="document type"):
            read(replaced(file_of(read), name, xml.encode(encoding)), Limits())


def test_a_declaration_behind_blanks_and_one_in_a_picture() -> None:
    document = docx.Document()
    document.add_paragraph("seen")
    stream = io.BytesIO()
    document.save(stream)
    svg = b'<?xml version="1.0"?><!DOCTYPE svg PUBLIC "x" "y"><svg/>'
    assert read_docx(with_entry(stream.getvalue(), "word/media/image1.svg", svg), Limits()).text == "seen"
    blanks = bytes(random.Random(7).choices(b" \t\n", k=2 * 2**20))
    with pytest.raises(ReadError, match="document type"):
        read_docx(with_entry(stream.getvalue(), "word/sheet.bin", blanks + BOMB.encode()), Limits())
    with pytest.raises(ReadError, match="never use"):
        read_docx(with_entry(stream.getvalue(), "word/x.xml", f" {BOMB}".encode("utf-16-le")), Limits())


@pytest.mark.parametrize("read", ZIPPED)
def test_old_and_encrypted_office_files(read: Read) -> None:
    ole = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(600)
    with pytest.raises(UnknownType, match=r"save it as \.(docx|pptx|xlsx)"):
        read(ole, Limits())
    with pytest.raises(EncryptedFile):
        read(ole + "EncryptedPackage".encode("utf-16-le"), Limits())
    raw = bytearray(file_of(read))
    raw[raw.rindex(b"PK\x01\x02") + 8] |= 1  # the flag of encryption in the central directory
    with pytest.raises(EncryptedFile):
        read(bytes(raw), Limits())


@pytest.mark.parametrize("read", ZIPPED)
def test_cut_short_or_not_a_container(read: Read) -> None:
    file = file_of(read)
    for raw in (b"", b"PK\x03\x04", b"plain text", file[: len(file) // 2], file[:-30], file[500:]):
        with pytest.raises(ReadError):
            read(raw, Limits())
    other = file_of(ZIPPED[(ZIPPED.index(read) + 1) % 3])
    with pytest.raises(ReadError):
        read(other, Limits())


FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize(
    ("read", "name"),
    [(read_docx, "docx_lists.docx"), (read_pptx, "powerpoint_sample.pptx"), (read_xlsx, "xlsx_06_edge_cases_.xlsx")],
)
@FUZZ
@given(st.data())
def test_damaged_parts_never_raise_anything_else(read: Read, name: str, data: st.DataObject) -> None:
    """One XML part loses a piece or has a piece repeated, changed or moved: broken XML, and valid XML that means nonsense."""
    original = (FIXTURES / name).read_bytes()
    with zipfile.ZipFile(io.BytesIO(original)) as archive:
        part = data.draw(st.sampled_from([entry for entry in archive.namelist() if entry.endswith((".xml", ".rels"))]))
        xml = archive.read(part)
    cuts = [0, *(place for place, byte in enumerate(xml) if byte in b'<>" '), len(xml)]
    first, last = sorted(data.draw(st.tuples(st.sampled_from(cuts), st.sampled_from(cuts))))
    middle = data.draw(st.sampled_from([b"", b"-1", b"99999999999", b"\xff", b"x", xml[first:last] * 2]))
    try:
        draft = read(replaced(original, part, xml[:first] + middle + xml[last:]), Limits())
    except ReadError as error:
        assert error.reason
    else:
        assert draft.text


@pytest.mark.parametrize("read", TEXTUAL)
@FUZZ
@given(
    raw=st.one_of(
        st.binary(max_size=200), st.text(alphabet='<>/&;!-[]{}":,|\n #*`~=.1aé\0\v\x85\u2028', max_size=300).map(str.encode)
    )
)
def test_random_bytes_never_raise_anything_else(read: Read, raw: bytes) -> None:
    try:
        draft = read(raw, Limits())
    except ReadError as error:
        assert error.reason
    else:
        assert draft.text.strip()


# markup -------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-32"])
def test_billion_laughs(encoding: str) -> None:
    with pytest.raises(ReadError, match="entities"):
        read_xml(BOMB.encode(encoding), Limits())


def test_external_entities_and_odd_encodings(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("SECRET")
    for xml in (
        f'<!DOCTYPE r [<!ENTITY x SYSTEM "{secret.as_uri()}">]><r>a&x;</r>',
        f'<!DOCTYPE r [<!ENTITY % x SYSTEM "{secret.as_uri()}"> %x;]><r>a</r>',
        '<?xml version="1.0" encoding="utf-7"?>+ADwAIQ-DOCTYPE r>',
    ):
        with pytest.raises(ReadError):
            read_xml(xml.encode(), Limits())
    seen = read_xml(
        f'<r xmlns:xi="http://www.w3.org/2001/XInclude">a<xi:include href="{secret.as_uri()}" parse="text"/></r>'.encode(), Limits()
    )
    assert seen.text == "a"
    assert read_html(f'<p>a<iframe src="{secret.as_uri()}"></iframe>'.encode(), Limits()).text == "a"


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "html",
    [
        "<table>" + "<tr><td colspan=1000 rowspan=65534>a</td><td>b</td></tr>" * 2000 + "</table>",
        "<table><tr>" + "<td colspan=99999999>a</td>" * 5000 + "</tr></table>",
        "<div>" * 20_000 + "deep" + "</div>" * 20_000,
        "<ul><li>x" * 3_000,
        "<table><tr><td>x" * 600,
        "<p>" + "<b>x" * 20_000,
    ],
)
def test_html_that_unfolds(html: str) -> None:
    try:
        draft = read_html(html.encode(), Limits(max_text_chars=10_000_000))
    except ReadError as error:
        assert error.reason
    else:
        assert len(draft.text) <= 10_000_000


@pytest.mark.parametrize("raw", [b"[" * 100_000, b'{"a":' * 5_000 + b"1" + b"}" * 5_000, b"1" * 50_000, b'{"a": 1,}', b'"\xff"\0'])
def test_json_that_cannot_be_read(raw: bytes) -> None:
    for read in (read_json, read_jsonl):
        with pytest.raises(ReadError):
            read(raw, Limits())


def test_jsonl_names_the_line() -> None:
    with pytest.raises(ReadError, match="line 3: not valid JSON"):
        read_jsonl(b'{"text": "a"}\n\n{"text": \n', Limits())


@pytest.mark.usefixtures("small")
def test_wide_csv_and_wide_json() -> None:
    with pytest.raises(FileTooLarge):
        read_csv(b"," * 500_000 + b"a", Limits(max_text_chars=1_000_000))
    rows = [{f"k{n}": 1} for n in range(3000)]
    assert len(read_json(json.dumps(rows).encode(), Limits()).text) < 100_000


def test_sheet_with_a_cell_far_away() -> None:
    sheet = b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData><row r="%d"><c r="A%d"><v>1</v></c></row></sheetData></worksheet>'
    near = replaced(file_of(read_xlsx), "xl/worksheets/sheet1.xml", sheet % (1_048_576, 1_048_576))
    assert read_xlsx(near, Limits()).elements[-1].source == "Sheet!A1048576"
    with pytest.raises(ReadError, match="rows past"):
        read_xlsx(replaced(file_of(read_xlsx), "xl/worksheets/sheet1.xml", sheet % (2_000_000_000, 2_000_000_000)), Limits())
