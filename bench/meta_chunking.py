"""What the chunkers cost that ask a language model: seconds, tokens through the network, peak memory.

    python bench/meta_chunking.py --corpora ../shared/data/chunking_evaluation/corpora

The model is a random Llama made here (4 layers, width 128, context 2,048) with a byte-level vocabulary of 8,000 trained on the
text, or with an output layer of 128,000; what it says means nothing, what it costs does not depend on that. ``perplexity``
and ``margin`` are the chunkers; ``plain`` is the textbook way to the same log-probabilities: the same windows, one pass each, log-softmax
over all logits of a window. Each case runs in a process of its own. ``mib_above_model`` is the peak of the resident memory while the
text is cut, above what the process held with the whole model loaded and used once. Tokens are counted at the network, padding
included. One thread, and seconds of processor time beside those of the clock, since the machine may be shared; the C library gives
large blocks back at once (``MALLOC_MMAP_THRESHOLD_``), or else the peak would tell of its free lists and not of the tensors.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.record import write_result

CHARACTERS = 25_000
CONTEXT_TOKENS = 2048
SMALL, LARGE = 8_000, 128_000
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(2**22)}
CASES: list[tuple[str, int, int]] = [  # what, vocabulary, characters
    ("perplexity", SMALL, CHARACTERS),
    ("perplexity", SMALL, 4 * CHARACTERS),
    ("perplexity", LARGE, CHARACTERS),
    ("perplexity", LARGE, 4 * CHARACTERS),
    ("plain", SMALL, CHARACTERS),
    ("plain", LARGE, CHARACTERS),
    ("margin pairs", SMALL, CHARACTERS),
    ("margin sequential", SMALL, CHARACTERS),
]


def save_model(folder: Path, text: str, vocabulary: int) -> None:
    """A random Llama with ``vocabulary`` outputs; its tokenizer knows 8,000 of them."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bare.train_from_iterator(
        [text], trainers.BpeTrainer(vocab_size=SMALL, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False)
    )
    PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="<end>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        bos_token_id=None,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def memory_mib(name: str) -> float:
    """``VmRSS`` or ``VmHWM`` (its peak) of this process."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise LookupError(name)


def plain_logprobs(lm: Any, text: str) -> None:
    """The textbook way: all logits of a window at once."""
    import torch

    from rag.lm_nll import windows

    ids = torch.tensor([lm._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]])
    with torch.inference_mode():
        for begin, _, end in windows(ids.shape[1], CONTEXT_TOKENS):
            logprobs = lm._network(ids[:, begin:end]).logits[0, :-1].float().log_softmax(-1)
            logprobs.gather(1, ids[0, begin + 1 : end, None])


def run_case(what: str, folder: Path, text: str) -> dict[str, Any]:
    """Numbers of one case, in this process."""
    from rag.core import Document
    from rag.lm import TransformersLM
    from rag.registry import component
    from rag.tokenizer import WordTokenizer

    lm = TransformersLM(str(folder), device="cpu")
    num_read = 0

    def counting(module: Any, arguments: Any, named: dict[str, Any]) -> None:
        nonlocal num_read
        num_read += (named["input_ids"] if "input_ids" in named else arguments[0]).numel()

    cut: Callable[[str], Any]
    if what == "plain":

        def cut(text: str) -> list[Any]:
            plain_logprobs(lm, text)
            return []
    else:
        word, *mode = what.split()
        chunker = component("chunker", word)(tokenizer=WordTokenizer(), lm=lm, **({"mode": mode[0]} if mode else {}))

        def cut(text: str) -> list[Any]:
            return chunker.chunk(Document("id", "source", text))  # type: ignore[no-any-return]

    cut("The first use loads the model. " * 3)
    lm._network.base_model.register_forward_pre_hook(counting, with_kwargs=True)
    for parameter in lm._network.parameters():
        parameter.sum()  # weights are mapped from the file: all pages are here before the peak is measured
    before = memory_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew
    begun, processor = time.perf_counter(), time.process_time()
    chunks = cut(text)
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - processor
    num_tokens = len(lm._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    return {
        "characters": len(text),
        "text_tokens": num_tokens,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "text_tokens_per_cpu_second": round(num_tokens / cpu_seconds),
        "tokens_read_per_text_token": round(num_read / num_tokens, 3),
        "chunks": len(chunks),
        "model_mib": round(before, 1),
        "mib_above_model": round(memory_mib("VmHWM") - before, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, help="a folder of .md files")
    parser.add_argument("--case", nargs=3, metavar=("WHAT", "MODEL", "TEXT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        what, folder, file = arguments.case
        print(json.dumps(run_case(what, Path(folder), Path(file).read_text(encoding="utf-8"))))
        return
    whole = "\n\n".join(path.read_text(encoding="utf-8") for path in sorted(arguments.corpora.glob("*.md")))
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for vocabulary in (SMALL, LARGE):
            save_model(Path(temporary) / str(vocabulary), whole[: 4 * CHARACTERS], vocabulary)
        for what, vocabulary, characters in CASES:
            text = Path(temporary) / "text.md"
            text.write_text(whole[:characters], encoding="utf-8")
            command = [sys.executable, __file__, "--case", what, str(Path(temporary) / str(vocabulary)), str(text)]
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **ENVIRONMENT})
            name = f"{what}, vocabulary {vocabulary}, {characters} characters"
            results[name] = json.loads(run.stdout.splitlines()[-1])
            print(f"{name:50} {results[name]}", flush=True)
    full_mib = {
        f"vocabulary {vocabulary}": round(
            results[f"perplexity, vocabulary {SMALL}, {CHARACTERS} characters"]["text_tokens"] * vocabulary / 2**18
        )
        for vocabulary in (SMALL, LARGE)
    }
    write_result(
        "meta_chunking",
        {"context_tokens": CONTEXT_TOKENS, "environment": ENVIRONMENT, "cases": results, "mib_of_all_logits_of_the_text": full_mib},
    )


if __name__ == "__main__":
    main()
