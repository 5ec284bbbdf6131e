"""XML from strangers: parsed without entities, without a DTD and without the network. Knows no vocabulary.

The bytes are decoded here, the prolog is checked on the decoded text, and lxml parses that same text: an odd encoding
cannot show the check one document and the parser another.
"""

from __future__ import annotations

import codecs
import re

from lxml import etree

from rag.errors import ReadError

_DECLARATION = re.compile(r"\A\s*<\?xml\b[^>]{0,200}\?>")
_DECLARED_ENCODING = re.compile(rb"""\A\s*<\?xml\b[^>]{0,200}?\bencoding\s*=\s*["']([A-Za-z][\w.-]{0,40})["']""")
_DOCTYPE = re.compile(r"<!DOCTYPE\b")
_ENTITY = re.compile(r"<!ENTITY\b")
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark begins the same way
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_UNMARKED = ((b"<\0", "utf-16-le"), (b"\0<", "utf-16-be"))
_ALLOWED = re.compile(r"utf-?8|utf-?16(-?[lb]e)?|us-ascii|ascii|(iso-?8859-?|latin-?|windows-?125|cp125)\d{1,2}", re.IGNORECASE)


def bom_encoding(raw: bytes) -> str | None:
    """The Python codec that the byte order mark of ``raw`` names, or ``None`` without a mark."""
    return next((encoding for mark, encoding in _BYTE_ORDER_MARKS if raw.startswith(mark)), None)


def is_ambiguous(raw: bytes) -> bool:
    """Whether bytes look like UTF-16 but neither a mark nor ``<`` at the start says so: some parsers guess, others do not."""
    return b"\0" in raw[:4] and bom_encoding(raw) is None and not any(raw.startswith(start) for start, _ in _UNMARKED)


def decode_xml(raw: bytes) -> str:
    """The characters of an XML file, its declaration cut off. Raises ``rag.errors.ReadError`` for an unknown encoding."""
    encoding = bom_encoding(raw) or next((name for start, name in _UNMARKED if raw.startswith(start)), None)
    if encoding is None:
        declared = _DECLARED_ENCODING.match(raw)
        encoding = declared[1].decode("ascii") if declared else "utf-8"
        if not _ALLOWED.fullmatch(encoding):
            raise ReadError("", f"XML in the encoding {encoding!r}; allowed: UTF-8, UTF-16, ASCII, ISO-8859-x, Windows-125x")
        if encoding.lower().replace("-", "").startswith("utf16"):
            encoding = "utf-8"  # the declaration was just read as ASCII, so it is wrong
    try:
        return _DECLARATION.sub("", raw.decode(encoding), count=1)
    except (UnicodeDecodeError, LookupError) as error:
        raise ReadError("", f"not valid XML: {error}") from error


def has_doctype(text: str) -> bool:
    """Whether there is a document type declaration anywhere in decoded XML (also inside CDATA: rather refuse)."""
    return _DOCTYPE.search(text) is not None


def parse_xml(raw: bytes) -> etree._Element:
    """The root element. Depth and text nodes stay within libxml2's own bounds (256 levels, 10 MB).

    Raises ``rag.errors.ReadError`` if the XML is broken or its document type declares entities.
    """
    text = decode_xml(raw)
    if has_doctype(text) and _ENTITY.search(text):
        raise ReadError("", "the XML declares entities, which are never expanded here")
    parser = etree.XMLParser(
        resolve_entities=False, load_dtd=False, no_network=True, huge_tree=False, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(text.encode("utf-8"), parser)
    except (etree.XMLSyntaxError, UnicodeEncodeError, ValueError) as error:
        raise ReadError("", f"not valid XML: {error}") from error
    if root is None:
        raise ReadError("", "not valid XML: it has no element")
    return root


def local_name(element: etree._Element) -> str:
    """The tag without its namespace; ``""`` for an unexpanded entity reference or another thing that has no tag."""
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""
