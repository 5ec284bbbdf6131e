"""What all tests of the key-value cache share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def no_engine_is_left() -> Iterator[None]:
    """An engine sets aside a gigabyte that it mostly never touches: a system that counts what was asked for lets no process with too many of them fork."""
    yield
    gc.collect()
