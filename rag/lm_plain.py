"""How messages are written for a model that has no chat template, or is asked where none applies. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rag.core import Message

PLAIN_ROLES: Mapping[str, str] = {"system": "System", "user": "User", "assistant": "Assistant"}
PLAIN_STOP = "\nUser:"
"""What ends the answer: the model begins to speak for the user."""


def plain_text(messages: Sequence[Message]) -> str:
    """The turns with their roles, then the role that is to answer.

    >>> plain_text([Message("user", "Where?")])
    'User: Where?\\n\\nAssistant:'
    """
    return "\n\n".join(f"{PLAIN_ROLES[role]}: {content}" for role, content in messages) + "\n\nAssistant:"


def spaced(continuation: str) -> str:
    """``continuation`` as it would stand after ``plain_text``: with a blank before it, unless it brings one."""
    return continuation if not continuation or continuation[0].isspace() else f" {continuation}"
