"""A ``TextBuilder`` that refuses to grow past the limit and to end empty. Knows no file format."""

from __future__ import annotations

from typing import Any

from rag.core import Span
from rag.errors import FileTooLarge, ReadError
from rag.read.draft import SEPARATOR, Draft, Limits, TextBuilder

NO_TEXT = "the file has no text"
_TITLE_AMONG = 5


class BoundedBuilder(TextBuilder):
    """Collects elements until ``limits.max_text_chars`` is passed, then raises ``rag.errors.FileTooLarge``.

    The check comes before the text is kept, so a small file that unfolds into a huge text costs one element of it.
    """

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.limits = limits

    def _append(self, text: str) -> Span:
        if self._length + len(SEPARATOR) + len(text) > self.limits.max_text_chars:
            raise FileTooLarge("", f"the text passes {self.limits.max_text_chars:,} characters")
        return super()._append(text)

    def finish(self, meta: dict[str, Any] | None = None) -> Draft:
        """The draft, without empty values in ``meta``. Raises ``rag.errors.ReadError`` if no text was added.

        A file that does not state its title takes the first heading of level 1 among its first elements.
        """
        if not len(self):
            raise ReadError("", NO_TEXT)
        draft = self.draft({key: value for key, value in (meta or {}).items() if value not in (None, "", [], ())})
        for element in draft.elements[:_TITLE_AMONG]:
            if element.kind == "heading" and element.level == 1:
                draft.meta.setdefault("title", element.span.of(draft.text))
        return draft


def check_page_count(num_pages: int, limits: Limits, what: str) -> None:
    """Raises ``rag.errors.FileTooLarge`` if there are more pages (slides, sheets: ``what``) than allowed."""
    if num_pages > limits.max_pages:
        raise FileTooLarge("", f"{num_pages:,} {what} pass the limit of {limits.max_pages:,}")
