"""Which files make an encoder what it is. Knows file names and digests; runs no model and loads no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from rag.core import digest

_WEIGHTS = (".safetensors", ".bin")
_SETTINGS = (".json", ".txt", ".model")
_BESIDE_THE_POINT = {"data_config.json", "train_script.txt", "model_args.json", "eval_results.json", "special_tokens_map.json"}
_OTHER_FORMATS = {"onnx", "openvino", "coreml", "tf", ".git"}


def find_folder(model: str) -> Path | None:
    """The folder of ``model``: itself if it is one, else the newest snapshot of that hub id on this machine, else ``None``."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import try_to_load_from_cache

    names = [model] if "/" in model else [model, f"sentence-transformers/{model}"]
    for name in names:
        for file in ("modules.json", "config.json"):
            try:
                found = try_to_load_from_cache(name, file)
            except ValueError:  # a path that does not exist is no hub id either; loading it will say so
                return None
            if isinstance(found, str):
                return Path(found).parent
    return None


def content_name(folder: Path) -> str:
    """Digest over name and SHA-256 of every file that decides a vector: weights, layout, tokeniser, pooling, prompts, limits."""
    parts: list[str] = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        matters = path.suffix in _WEIGHTS + _SETTINGS and path.name not in _BESIDE_THE_POINT
        if matters and path.is_file() and not _OTHER_FORMATS.intersection(inside.parts):
            with path.open("rb") as file:
                parts += [inside.as_posix(), hashlib.file_digest(file, "sha256").hexdigest()]
    return digest("encoder files", *parts)
