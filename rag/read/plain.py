"""Plain text: bytes to characters, blank lines to paragraphs. Knows no markup."""

from __future__ import annotations

from rag.errors import FileTooLarge, ReadError
from rag.read.bounded import NO_TEXT, BoundedBuilder
from rag.read.draft import Draft, Limits, canonical
from rag.read.xml_safe import bom_encoding

_MAX_CONTROL_SHARE = 0.1
_CONTROL = bytes(sorted({*range(32)} - {*b"\t\n\r\f\v\x1b"})) + b"\x7f"


def decode_bytes(raw: bytes, limits: Limits) -> tuple[str, str]:
    """Characters of a text file as they stand there, and the name of its encoding.

    A byte order mark decides; without one it is UTF-8 if it can be, else Windows-1252. Raises ``rag.errors.ReadError`` if
    the bytes are no text, and ``FileTooLarge`` past ``limits.max_text_chars``.
    """
    encoding = bom_encoding(raw)
    if encoding is None:
        if b"\0" in raw:
            raise ReadError("", "a binary file: it contains NUL bytes")
        if len(raw) - len(raw.translate(None, _CONTROL)) > _MAX_CONTROL_SHARE * len(raw):
            raise ReadError("", "a binary file: more than a tenth of it are control characters")
    text, encoding = _decode(raw, encoding)
    if len(text) > limits.max_text_chars:
        raise FileTooLarge("", f"{len(text):,} characters pass the limit of {limits.max_text_chars:,}")
    if not text or text.isspace():
        raise ReadError("", NO_TEXT)
    return text, encoding


def decode_text(raw: bytes, limits: Limits) -> tuple[str, str]:
    """The same in canonical form: one kind of line break, nothing unprintable."""
    text, encoding = decode_bytes(raw, limits)
    return canonical(text), encoding


def _decode(raw: bytes, encoding: str | None) -> tuple[str, str]:
    if encoding is not None:
        try:
            return raw.decode(encoding), encoding.removesuffix("-sig")
        except UnicodeDecodeError as error:
            raise ReadError(
                "", f"not valid {encoding}, which its byte order mark promises: {error.reason} at byte {error.start}"
            ) from error
    try:
        return raw.decode("utf-8"), "utf-8"
    except UnicodeDecodeError as error:
        place = error.start
    try:
        return raw.decode("cp1252"), "cp1252"
    except UnicodeDecodeError as error:
        raise ReadError("", f"neither UTF-8 (byte {place}) nor Windows-1252 (byte {error.start}): save it as UTF-8") from error


def read_text(data: bytes, limits: Limits) -> Draft:
    """Paragraphs are what stands between blank lines; lines inside them stay. One pass, linear in the length of the file."""
    text, encoding = decode_text(data, limits)
    builder = BoundedBuilder(limits)
    lines: list[str] = []
    first = 1
    for number, line in enumerate(text.split("\n"), start=1):
        if line and not line.isspace():
            if not lines:
                first = number
            lines.append(line.rstrip())
        elif lines:
            builder.add("\n".join(lines), source=f"line {first}")
            lines = []
    builder.add("\n".join(lines), source=f"line {first}")
    return builder.finish(encoding_meta(encoding))


def encoding_meta(encoding: str) -> dict[str, str]:
    """``{"encoding": ...}`` for a file that is not UTF-8."""
    return {} if encoding == "utf-8" else {"encoding": encoding}
