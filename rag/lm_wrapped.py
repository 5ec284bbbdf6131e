"""What every wrapper of a language model passes through to the model inside. Knows the protocol; asks the model nothing."""

from __future__ import annotations

from typing import Any

from rag.core import LM, OpenModel, Prompt
from rag.errors import ModelError


class WrappedLM:
    """``inner`` with its identity and its parts; a wrapper adds the methods that ask something."""

    def __init__(self, inner: LM) -> None:
        self.inner = inner

    @property
    def fingerprint(self) -> str:
        """That of the inner model: a wrapper changes no answer."""
        return self.inner.fingerprint

    @property
    def context_tokens(self) -> int | None:
        """That of the inner model."""
        return self.inner.context_tokens

    def count_tokens(self, prompt: Prompt) -> int:
        """Asks the inner model; costs nothing."""
        return self.inner.count_tokens(prompt)

    def opened(self) -> OpenModel:
        """The parts of the inner model; what is done with them passes the wrapper by. Raises ``ModelError`` if it runs elsewhere."""
        return opened(self.inner)


def opened(lm: Any) -> OpenModel:
    """The parts of a model inside a wrapper. Raises ``ModelError`` if it runs elsewhere."""
    if not hasattr(lm, "opened"):
        raise ModelError(
            f"{lm!r} does not run in this process: its keys and values are out of reach (`use: transformers` is in reach)"
        )
    parts: OpenModel = lm.opened()
    return parts
