"""Weights folders as a model hub keeps them: written from a training run, read back as a network. Knows files, no training.

python -m rag.eval.reader.weights RUN eval/reader/weights/reader
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from rag.eval.reader import vocabulary
from rag.eval.reader.network import Network, Shape

FOLDER = Path(__file__).resolve().parent / "weights"
READER = FOLDER / "reader"


def export(run: Path, folder: Path) -> None:
    """Write the weights of the training run ``run`` into ``folder`` in bfloat16, with configuration and tokenizer."""
    from transformers import GenerationConfig

    shape = Shape(**json.loads((run / "progress.json").read_text())["shape"])
    stored = load_file(run / "state.safetensors")
    tensors = {k.removeprefix("weights."): v.to(torch.bfloat16) for k, v in stored.items() if k.startswith("weights.")}
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = vocabulary.save(folder)
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    config = shape.config(**tokens)
    config.dtype = "bfloat16"
    config.save_pretrained(folder)
    GenerationConfig(**tokens, do_sample=False, max_new_tokens=24).save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def read(folder: Path) -> Network:
    """The network in ``folder`` with float32 weights."""
    config = json.loads((folder / "config.json").read_text())
    shape = Shape(
        vocab_size=config["vocab_size"],
        width=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        num_kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        hidden=config["intermediate_size"],
        rope_theta=config["rope_parameters"]["rope_theta"],
        norm_eps=config["rms_norm_eps"],
    )
    network = Network(shape)
    network.load_state_dict({name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()})
    return network.eval()


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
