"""Which reader reads a file: by suffix, checked against the first bytes. Knows no format beyond its magic number.

The table holds strings, so no parser loads here. Every reader is a function ``(data: bytes, limits: Limits) -> Draft``.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from rag.errors import EncryptedFile, ReadError, UnknownType


class Reader(NamedTuple):
    """One line of the table. ``target`` is ``module:function``, called in another process."""

    media_type: str
    target: str


_OFFICE = "application/vnd.openxmlformats-officedocument"

READERS: Mapping[str, Reader] = {
    ".txt": Reader("text/plain", "rag.read.plain:read_text"),
    ".text": Reader("text/plain", "rag.read.plain:read_text"),
    ".log": Reader("text/plain", "rag.read.plain:read_text"),
    ".rst": Reader("text/x-rst", "rag.read.plain:read_text"),
    ".md": Reader("text/markdown", "rag.read.markdown:read_markdown"),
    ".markdown": Reader("text/markdown", "rag.read.markdown:read_markdown"),
    ".html": Reader("text/html", "rag.read.web:read_html"),
    ".htm": Reader("text/html", "rag.read.web:read_html"),
    ".xhtml": Reader("application/xhtml+xml", "rag.read.web:read_html"),
    ".pdf": Reader("application/pdf", "rag.read.pdf:read_pdf"),
    ".docx": Reader(f"{_OFFICE}.wordprocessingml.document", "rag.read.word:read_docx"),
    ".pptx": Reader(f"{_OFFICE}.presentationml.presentation", "rag.read.slides:read_pptx"),
    ".xlsx": Reader(f"{_OFFICE}.spreadsheetml.sheet", "rag.read.sheet:read_xlsx"),
    ".xlsm": Reader("application/vnd.ms-excel.sheet.macroEnabled.12", "rag.read.sheet:read_xlsx"),
    ".csv": Reader("text/csv", "rag.read.delimited:read_csv"),
    ".tsv": Reader("text/tab-separated-values", "rag.read.delimited:read_csv"),
    ".json": Reader("application/json", "rag.read.json_text:read_json"),
    ".jsonl": Reader("application/x-ndjson", "rag.read.json_text:read_jsonl"),
    ".ndjson": Reader("application/x-ndjson", "rag.read.json_text:read_jsonl"),
    ".nxml": Reader("application/xml", "rag.read.jats:read_xml"),
    ".xml": Reader("application/xml", "rag.read.jats:read_xml"),
    ".png": Reader("image/png", "rag.read.ocr:read_image"),
    ".jpg": Reader("image/jpeg", "rag.read.ocr:read_image"),
    ".jpeg": Reader("image/jpeg", "rag.read.ocr:read_image"),
    ".tif": Reader("image/tiff", "rag.read.ocr:read_image"),
    ".tiff": Reader("image/tiff", "rag.read.ocr:read_image"),
}

OLD_OFFICE: Mapping[str, str] = {".doc": ".docx", ".xls": ".xlsx", ".ppt": ".pptx"}

_BY_MAGIC = {b"%PDF-": ".pdf", b"\x89PNG\r\n\x1a\n": ".png", b"\xff\xd8\xff": ".jpg", b"II*\0": ".tif", b"MM\0*": ".tif"}
_BY_FOLDER = {"word/": ".docx", "ppt/": ".pptx", "xl/": ".xlsx"}  # inside an Office zip
_HAS_MAGIC = frozenset([*_BY_MAGIC.values(), *_BY_FOLDER.values(), ".xlsm", ".jpeg", ".tiff"])
_NAMES = {".pdf": "a PDF", ".docx": "a Word document", ".pptx": "PowerPoint slides", ".xlsx": "an Excel workbook", ".xlsm": "an Excel workbook",
          ".png": "a PNG image", ".jpg": "a JPEG image", ".tif": "a TIFF image"}  # fmt: skip
_OTHER_MAGIC = {
    b"GIF8": "a GIF image", b"RIFF": "a RIFF container (WebP, WAV or AVI)", b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive", b"\xfd7zXZ\0": "an xz archive", b"\x28\xb5\x2f\xfd": "a zstd archive", b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive", b"\x7fELF": "a program", b"\xcf\xfa\xed\xfe": "a program", b"SQLite format 3\0": "a SQLite database",
    b"{\\rtf": "an RTF document (save it as .docx)", b"%!PS": "PostScript (save it as .pdf)", b"ID3": "MP3 sound",
}  # fmt: skip
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,14}")  # `.2024` and `. Smith letter` are parts of a name
_HEAD_BYTES = 8192
_MAX_DIRECTORY_BYTES = 2**20


def suffix_of(path: Path | str) -> str:
    """The suffix in lower case, or ``""`` where the last dot only punctuates a name."""
    suffix = Path(path).suffix
    return suffix.lower() if _SUFFIX.fullmatch(suffix) else ""


def reader_for(path: Path | str, data: bytes, readers: Mapping[str, Reader] = READERS) -> Reader:
    """The reader of the file ``path`` that holds ``data`` (all of it: the directory of a zip stands at its end).

    A format that its first bytes betray is read as what it is, whatever its suffix says. Raises ``UnknownType`` when
    nothing reads it, ``EncryptedFile`` for an Office file with a password and ``ReadError`` when the suffix is wrong.
    """
    suffix = suffix_of(path)
    said = readers.get(suffix)
    if said is not None and said != READERS.get(suffix):  # a word that was added or replaced answers for itself
        return said
    found = _sniffed(data)
    if not found and suffix == ".pdf" and b"%PDF-" in data[:1024]:  # readers of PDF allow for junk before it
        found = suffix
    if found in readers:
        return readers[found]
    if data.startswith(_OLE) and "EncryptedPackage".encode("utf-16-le") in data:
        raise EncryptedFile(path, "is locked with a password: save it without one")
    if said is None:
        return _guess(path, suffix, data, readers)
    if suffix in _HAS_MAGIC or (data and _content(data) != "text"):
        raise ReadError(path, f"says {suffix} but holds {describe(data)}")
    return said


def may_read(path: Path | str, readers: Mapping[str, Reader] = READERS) -> bool | None:
    """Whether files of this name are read; ``None`` if only their content can tell (a name without a suffix)."""
    suffix = suffix_of(path)
    return None if not suffix else suffix in readers


def describe(data: bytes) -> str:
    """A few words that say what ``data`` looks like."""
    if not data:
        return "nothing (0 bytes)"
    found = _sniffed(data)
    if found:
        return _NAMES[found]
    if data.startswith(b"PK\x03\x04"):
        return "a zip archive of another kind" if _zip_names(data) else "a zip archive that is damaged or cut short"
    if data.startswith(_OLE):
        return "an old Office file (.doc, .xls or .ppt: save it as .docx, .xlsx or .pptx)"
    for magic, name in _OTHER_MAGIC.items():
        if data.startswith(magic):
            return name
    if _content(data) != "text":
        return "binary data"
    return "HTML" if _is_html(data) else "plain text"


def _guess(path: Path | str, suffix: str, data: bytes, readers: Mapping[str, Reader]) -> Reader:
    """The reader of a file whose suffix is unknown and whose magic number is not one of ours."""
    if suffix in OLD_OFFICE:
        raise UnknownType(path, f"{suffix} is an old Office format that nothing here reads: save it as {OLD_OFFICE[suffix]}")
    if not suffix and data and _content(data) == "text":
        return readers[".html" if _is_html(data) else ".txt"]
    kind = f"{suffix} files" if suffix else "files without a suffix"
    raise UnknownType(path, f"nothing here reads {kind} (this one holds {describe(data)}); read are {' '.join(sorted(readers))}")


def _sniffed(data: bytes) -> str:
    """The suffix that the magic number stands for, or ``""``."""
    for magic, suffix in _BY_MAGIC.items():
        if data.startswith(magic):
            return suffix
    if data.startswith(b"PK\x03\x04"):
        names = _zip_names(data)
        if "xl/vbaProject.bin" in names:
            return ".xlsm"
        if "[Content_Types].xml" in names and "xl/workbook.bin" not in names:
            for folder, suffix in _BY_FOLDER.items():
                if any(name.startswith(folder) for name in names):
                    return suffix
    return ""


def _zip_names(data: bytes) -> set[str]:
    """The names in the directory of a zip (its first MiB): enough to tell its kind, cheap whatever it claims to hold."""
    end = data.rfind(b"PK\x05\x06", max(0, len(data) - 66_000))
    if end < 0 or len(data) < end + 22:
        return set()
    length, start = struct.unpack_from("<II", data, end + 12)
    directory = data[start : start + min(length, _MAX_DIRECTORY_BYTES)]
    names, at = set(), 0
    while directory[at : at + 4] == b"PK\x01\x02" and at + 46 <= len(directory):
        name_length, extra_length, comment_length = struct.unpack_from("<HHH", directory, at + 28)
        names.add(directory[at + 46 : at + 46 + name_length].decode("utf-8", "replace"))
        at += 46 + name_length + extra_length + comment_length
    return names


def _content(data: bytes) -> str:
    """``text`` or ``binary``, from the head of the file."""
    head = data[:_HEAD_BYTES]
    if head.startswith(
        (_OLE, b"PK\x03\x04", *_BY_MAGIC, *(magic for magic in _OTHER_MAGIC if not magic.isascii() or b"\0" in magic))
    ):
        return "binary"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16 or UTF-32 with a byte order mark
        return "text"
    num_even, num_odd = head[::2].count(0), head[1::2].count(0)
    if max(num_even, num_odd) > len(head) // 8 and min(num_even, num_odd) == 0:  # UTF-16 without one: half of each pair is 0
        return "text"
    return "binary" if num_even + num_odd else "text"


def _is_html(data: bytes) -> bool:
    return data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype html", b"<html"))
