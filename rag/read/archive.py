"""The zip container of DOCX, PPTX and XLSX: what may be inside, how large, and how parts name each other.

Knows nothing of what the parts say. Everything is checked before any other library sees the file.
"""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
import zlib
from typing import NamedTuple

from lxml import etree

from rag.errors import EncryptedFile, FileTooLarge, ReadError, UnknownType
from rag.read.draft import Limits
from rag.read.xml_safe import decode_xml, has_doctype, is_ambiguous, local_name, parse_xml

_OLE = bytes.fromhex("d0cf11e0a1b11ae1")
_ENCRYPTED_STREAM = "EncryptedPackage".encode("utf-16-le")
_RATIO_COUNTS_FROM = 2**20  # bytes: a small part of blanks may compress 1000:1 and harm nobody
_READ_BYTES = 2**20
_BEGINS_LIKE_XML = re.compile(rb"(\xef\xbb\xbf)?\s*(<|\Z)")  # blanks may fill the whole first piece
_DOCTYPE_BYTES = b"<!DOCTYPE"
_XML_NAME = re.compile(r"\.(xml|rels|vml)$", re.IGNORECASE)
_EMBEDDED_NAME = re.compile(r"\.(svg|x?html?|mht)$", re.IGNORECASE)  # pictures and pages that nobody parses here


class Relation(NamedTuple):
    """What a relationship id of a part points at: last word of its type, and the full name of the target part."""

    kind: str
    target: str


class Container:
    """A checked zip file. ``mend`` is said to who hands in the pre-2007 format (``save it as .docx``).

    Raises ``rag.errors.UnknownType`` (an old binary Office file), ``EncryptedFile``, ``FileTooLarge`` (``Limits``: entries,
    expanded bytes, ratio; the entry is named) or ``ReadError`` (no zip, damaged, a DTD in a part).
    """

    def __init__(self, raw: bytes, limits: Limits, mend: str) -> None:
        if raw.startswith(_OLE):
            if _ENCRYPTED_STREAM in raw:
                raise EncryptedFile("", "the file asks for a password")
            raise UnknownType("", f"a binary Office file from before 2007: {mend}")
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(raw))
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
            raise ReadError("", f"not a readable zip container: {error}") from error
        self._check_declared(limits)
        self._check_real(limits)
        self._by_lower_name = {name.lower(): name for name in self._zip.namelist()}

    def _check_declared(self, limits: Limits) -> None:
        entries = self._zip.infolist()
        if len(entries) > limits.max_archive_entries:
            raise FileTooLarge("", f"{len(entries):,} zip entries pass the limit of {limits.max_archive_entries:,}")
        total = 0
        for entry in entries:
            if entry.flag_bits & 1:
                raise EncryptedFile("", f"the zip entry {entry.filename!r} asks for a password")
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ReadError("", f"the zip entry {entry.filename!r} uses a compression that Office files never use")
            total += entry.file_size
            _check_sizes(entry, entry.file_size, total, limits)

    def _check_real(self, limits: Limits) -> None:
        """Decompresses each entry once in small pieces: sizes in a zip are claims."""
        total = 0
        for entry in self._zip.infolist():
            size, tail, is_xml = 0, b"", None
            try:
                with self._zip.open(entry) as stream:
                    while piece := stream.read(_READ_BYTES):
                        size += len(piece)
                        total += len(piece)
                        _check_sizes(entry, size, total, limits)
                        if is_xml is None:
                            is_xml = _is_parsed(entry.filename, piece)
                            self._check_wide(entry, piece)
                        if is_xml and _DOCTYPE_BYTES in tail + piece:
                            raise ReadError("", f"the zip entry {entry.filename!r} has a document type declaration")
                        tail = piece[-len(_DOCTYPE_BYTES) :]
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
                raise ReadError("", f"the zip entry {entry.filename!r} is damaged: {error}") from error

    def _check_wide(self, entry: zipfile.ZipInfo, piece: bytes) -> None:
        """UTF-16 hides a declaration from the search over bytes, so such a part is decoded as a whole."""
        if b"\0" not in piece[:4] or not _XML_NAME.search(entry.filename):
            return
        if is_ambiguous(piece):  # parsers disagree on how to read it
            raise ReadError("", f"the zip entry {entry.filename!r} is in an encoding that Office files never use")
        if has_doctype(decode_xml(self._zip.read(entry))):
            raise ReadError("", f"the zip entry {entry.filename!r} has a document type declaration")

    def names(self) -> list[str]:
        """Names of all parts, in file order."""
        return self._zip.namelist()

    def read(self, name: str) -> bytes | None:
        """The bytes of a part (names compare without case), or ``None`` if there is no such part."""
        found = self._by_lower_name.get(name.lstrip("/").lower())
        return None if found is None else self._zip.read(found)

    def xml(self, name: str) -> etree._Element | None:
        """The root element of a part, or ``None`` if there is no such part. Raises ``rag.errors.ReadError`` if it is broken."""
        raw = self.read(name)
        return None if raw is None else parse_xml(raw)

    def relations(self, name: str) -> dict[str, Relation]:
        """Relationship id -> target, for the part ``name`` (``""``: the package). Links out of the file are left out."""
        folder, _, file = name.rpartition("/")
        root = self.xml(posixpath.join(folder, "_rels", f"{file}.rels"))
        found: dict[str, Relation] = {}
        for node in () if root is None else root:
            target = node.get("Target")
            if local_name(node) == "Relationship" and target and node.get("TargetMode") != "External":
                path = posixpath.normpath(posixpath.join("/" + folder, target)).lstrip("/")
                found[node.get("Id") or ""] = Relation((node.get("Type") or "").rpartition("/")[2], path)
        return found

    def main_part(self, otherwise: str) -> str:
        """Name of the part that the package calls its document."""
        kinds = [relation.target for relation in self.relations("").values() if relation.kind == "officeDocument"]
        return kinds[0] if kinds else otherwise

    def properties(self) -> dict[str, str]:
        """Title, author and dates that the package states about itself (``docProps/core.xml``)."""
        root = self.xml("docProps/core.xml")
        words = {"title": "title", "creator": "author", "created": "date", "modified": "modified", "subject": "subject"}
        nodes = [] if root is None else [node for node in root if local_name(node) in words]
        stated = {words[local_name(node)]: (node.text or "").strip() for node in nodes}
        return {key: value for key, value in stated.items() if value}


def _is_parsed(name: str, piece: bytes) -> bool:
    """Whether a part is XML that some library may parse."""
    return _XML_NAME.search(name) is not None or (_EMBEDDED_NAME.search(name) is None and _BEGINS_LIKE_XML.match(piece) is not None)


def _check_sizes(entry: zipfile.ZipInfo, size: int, total: int, limits: Limits) -> None:
    if size > _RATIO_COUNTS_FROM and size > limits.max_expansion_ratio * max(1, entry.compress_size):
        ratio = size / max(1, entry.compress_size)
        raise FileTooLarge(
            "", f"the zip entry {entry.filename!r} expands {ratio:,.0f}:1, over the limit of {limits.max_expansion_ratio:g}:1"
        )
    if total > limits.max_expanded_bytes:
        raise FileTooLarge("", f"the zip entries up to {entry.filename!r} expand to more than {limits.max_expanded_bytes:,} bytes")
