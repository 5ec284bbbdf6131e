"""Everything that can go wrong on purpose. Knows no component.

RagError
 +- ConfigError       a key, a word or a value of a configuration is not allowed (also a ValueError)
 |   +- NoVectors     ... because an index of that kind compares no vectors
 +- MissingExtra      an optional package is needed; the message is the pip command that brings it (also an ImportError)
 +- ReadError         a file could not be read; ``reason`` is one line
 |   +- UnknownType   ... because nothing here reads that kind of file
 |   +- EncryptedFile ... because it asks for a password
 |   +- FileTooLarge  ... because it passes a limit (size, pages, decompression, time, memory)
 +- IndexNotFound     there is no index at that path
 +- IndexLocked       another process is writing to the index
 +- IndexMismatch     the index was made with other models or a newer format
 +- DamagedIndex      a file of the index is missing, cut short or altered; ``path`` names it
 +- ServerError       the server that holds an index did not answer, or refused
 +- ModelError        a language model or its server did not answer
 +- BudgetExceeded    a language model was not asked, because its budget of calls, tokens or seconds is used up
"""

from __future__ import annotations

from pathlib import Path


class RagError(Exception):
    """Base of all errors that this package raises for reasons a user can mend."""


class ConfigError(RagError, ValueError):
    """A key, a word or a value of a configuration is not allowed."""


class NoVectors(ConfigError):
    """This kind of index compares no vectors. ``use`` is its word."""

    def __init__(self, use: str) -> None:
        super().__init__(f"an index of `use: {use}` keeps no vectors; name one that does, such as `use: faiss` or `use: warp`")
        self.use = use


class MissingExtra(RagError, ImportError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str, wanted_by: str) -> None:
        super().__init__(f"{wanted_by} needs the package {package!r}: pip install 'ragstone[{extra}]'")


class ReadError(RagError):
    """A file could not be read. ``path`` names it, ``reason`` says why in one line."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class UnknownType(ReadError):
    """No reader for this kind of file."""


class EncryptedFile(ReadError):
    """The file asks for a password."""


class FileTooLarge(ReadError):
    """The file passes a limit of size, pages, decompression, time or memory."""


class IndexNotFound(RagError):
    """There is no index at that path."""


class IndexLocked(RagError):
    """Another process is writing to the index."""


class IndexMismatch(RagError):
    """The index was made with other models, other settings or a newer format."""


class DamagedIndex(RagError):
    """A file of the index is missing, cut short or altered."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason} (`rag index verify --repair` rebuilds it from the catalog)"


class ServerError(RagError):
    """The server that holds an index did not answer, or refused."""


class ModelError(RagError):
    """A language model or its server did not answer."""


class BudgetExceeded(RagError):
    """The budget of a language model is used up. ``limit_name`` says which (``max_calls``, ``max_tokens``, ``max_seconds``)."""

    def __init__(self, limit_name: str, spent: float, limit: float) -> None:
        super().__init__(limit_name, spent, limit)
        self.limit_name, self.spent, self.limit = limit_name, spent, limit

    def __str__(self) -> str:
        return f"the budget of the language model is used up: {self.limit_name}={self.limit:g}, spent {self.spent:g}"
