"""How fast texts become vectors: our encoders against ``SentenceTransformer.encode`` with its defaults, same texts, same weights.

    python bench/encode.py --data FOLDER_OF_MARKDOWN

Texts have 8 to 256 tokens, about 120 on average. The embedded model has its trained weights; the other architectures have the widths of the named
model, three layers and random weights, which take the same time. All variants of a case run in one process and take turns; wall and processor
seconds (of all threads, waiting included) are medians over the turns. On a busy machine the processor seconds say more.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.record import of_processor, write_result
from rag.embedded import resolve
from rag.quiet import quiet_loading
from rag.retrievers.colbert import ColBERTEncoder
from rag.retrievers.encoder import SentenceTransformersEncoder
from rag.retrievers.encoder_linear import choose_linear
from rag.retrievers.encoder_ragged import RaggedModel
from rag.retrievers.encoder_tokens import plain_hidden, token_blocks, wording_of
from rag.retrievers.sparse_encoder import SentenceTransformersSparseEncoder

Run = Callable[[], Sequence[NDArray[np.float32]]]
"""One text's vector, or its token vectors, after the other."""

LAYERS = 3
WIDE = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "max_position_embeddings": 520}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "distilbert-base": ("DistilBert", {"n_layers": LAYERS}),
    "modernbert-base": ("ModernBert", {"num_hidden_layers": LAYERS}),
    "mpnet-base": ("MPNet", {**WIDE, "num_hidden_layers": LAYERS}),
    "xlm-roberta-base": ("XLMRoberta", {**WIDE, "num_hidden_layers": LAYERS}),
    "qwen3-embedding-0.6b": (
        "Qwen3",
        {"hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072,
         "num_hidden_layers": LAYERS},
    ),
}  # fmt: skip


def mixed_texts(folder: Path, num: int, seed: int = 0) -> list[str]:
    """Pieces of 4 to 200 words, about 80 on average, end to end through the corpora from a random place."""
    words = "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))).split()
    rng = random.Random(seed)
    start = rng.randrange(len(words) // 2)
    texts: list[str] = []
    for _ in range(num):
        length = round(rng.triangular(4, 200, 40))
        texts.append(" ".join(words[start : start + length]))
        start = (start + length) % (len(words) - 250)
    return texts


def measure(runs: dict[str, Run], num_rounds: int) -> dict[str, Any]:
    """Medians per variant, how many times as long the first one takes, and the smallest cosine to its vectors."""
    wanted = next(iter(runs.values()))()
    figures: dict[str, dict[str, float]] = {}
    for name, run in runs.items():
        pairs = zip(run(), wanted, strict=True)  # also the warm-up
        figures[name] = {"min_cosine": min(_cosine(found, expected) for found, expected in pairs)}
    walls: dict[str, list[float]] = {name: [] for name in runs}
    processors: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(num_rounds):
        for name in list(runs) if number % 2 == 0 else list(runs)[::-1]:
            wall, processor = time.perf_counter(), time.process_time()
            runs[name]()
            walls[name].append(time.perf_counter() - wall)
            processors[name].append(time.process_time() - processor)
    first = next(iter(runs))
    for name, some in figures.items():
        wall, processor = statistics.median(walls[name]), statistics.median(processors[name])
        some |= {"wall_seconds": wall, "processor_seconds": processor}
        some["times_faster_by_wall"] = statistics.median(walls[first]) / wall
        some["times_faster_by_processor"] = statistics.median(processors[first]) / processor
    return {name: {key: round(value, 6) for key, value in some.items()} for name, some in figures.items()}


def _cosine(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Smallest over the rows, for one vector too."""
    one, other = np.atleast_2d(found).astype(np.float64), np.atleast_2d(expected).astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(1) / np.maximum(lengths, 1e-30)).min())


def dense(model: str, texts: list[str]) -> tuple[dict[str, Run], str]:
    """The library, and ours in both precisions, with what ours says about its way."""
    exact = SentenceTransformersEncoder(model, device="cpu", dtype="float32")
    native = SentenceTransformersEncoder(model, device="cpu")
    runs: dict[str, Run] = {
        "SentenceTransformer.encode": lambda: exact.reference(texts),
        "ours, float32": lambda: exact.encode_documents(texts),
        "ours, default": lambda: native.encode_documents(texts),
    }
    return runs, native.how


def any_model(texts: list[str]) -> dict[str, Run]:
    """The embedded model on the way of all other architectures."""
    from sentence_transformers import SentenceTransformer

    def ragged(dtype: str) -> RaggedModel:
        with quiet_loading():
            return RaggedModel(SentenceTransformer(resolve("embedded"), device="cpu"), [choose_linear(dtype).kind], 4096)

    exact, native = ragged("float32"), ragged("auto")
    return {
        "ours as for any model, float32": lambda: exact.encode(texts, "document", None),
        "ours as for any model, default": lambda: native.encode(texts, "document", None),
    }


def random_model(kind: str, settings: dict[str, Any], folder: Path) -> str:
    """A model of that architecture with random weights and the embedded model's words."""
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    tokenizer = transformers.AutoTokenizer.from_pretrained(resolve("embedded"))
    ends = {name: tokenizer.cls_token_id for name in ("bos_token_id", "cls_token_id")}
    ends |= {name: tokenizer.sep_token_id for name in ("eos_token_id", "sep_token_id")}
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **ends, **settings
    )
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder / "network")
    tokenizer.save_pretrained(folder / "network")
    first = Transformer(str(folder / "network"), max_seq_length=256)
    pooling = Pooling(first.get_embedding_dimension(), pooling_mode="lasttoken" if kind == "Qwen3" else "mean")
    SentenceTransformer(modules=[first, pooling], device="cpu").save_pretrained(str(folder / "model"))
    return str(folder / "model")


def late_interaction(texts: list[str], folder: Path) -> tuple[dict[str, Run], str]:
    """Token vectors of documents: the embedded network under a random projection to 128 dimensions."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    names = {"module_input_name": "token_embeddings"}
    projection = Dense(384, 128, bias=False, activation_function=torch.nn.Identity(), **names)
    modules = [Transformer(resolve("embedded"), max_seq_length=256), projection, MultiVectorMask(), Normalize(**names)]
    MultiVectorEncoder(modules=modules, device="cpu").save_pretrained(str(folder))
    library = MultiVectorEncoder(str(folder), device="cpu")
    exact, native = ColBERTEncoder(str(folder), "cpu"), ColBERTEncoder(str(folder), "cpu", "bfloat16")
    runs: dict[str, Run] = {
        "MultiVectorEncoder.encode_document": lambda: library.encode_document(
            texts, convert_to_numpy=True, show_progress_bar=False
        ),
        "ours, float32": lambda: exact.encode_documents(texts),
        "ours, bfloat16": lambda: native.encode_documents(texts),
    }
    return runs, native.how


def sparse(texts: list[str], folder: Path) -> tuple[dict[str, Run], str]:
    """Weights of words: a masked language model of BERT's width and vocabulary, three layers and random weights, under SPLADE's pooling."""
    import transformers
    from sentence_transformers import SparseEncoder

    tokenizer = transformers.AutoTokenizer.from_pretrained(resolve("embedded"))
    config = transformers.BertConfig(vocab_size=len(tokenizer), **{**WIDE, "num_hidden_layers": LAYERS})
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.model_max_length = 256
    tokenizer.save_pretrained(folder)
    with quiet_loading():
        library = SparseEncoder(str(folder), device="cpu")
    ours = SentenceTransformersSparseEncoder(str(folder), device="cpu")

    def rows() -> list[NDArray[np.float32]]:
        found = ours.encode_documents(texts)
        whole = np.zeros((len(texts), len(tokenizer)), np.float32)
        whole[np.repeat(np.arange(len(texts)), np.diff(found.starts)), found.term_ids] = found.weights
        return list(whole)

    runs: dict[str, Run] = {
        "SparseEncoder.encode_document": lambda: [
            row.numpy() for row in library.encode_document(texts, convert_to_sparse_tensor=False, show_progress_bar=False)
        ],
        "ours, float32": rows,
    }
    return runs, ours.how


def late_windows(texts: list[str]) -> tuple[dict[str, Run], str]:
    """Token vectors of whole documents in overlapping windows, for late chunking: padded, and ours."""
    documents = [" ".join(texts[first : first + 8]) for first in range(0, len(texts), 8)]
    exact, native = SentenceTransformersEncoder(device="cpu", dtype="float32"), SentenceTransformersEncoder(device="cpu")
    model = exact._full_model()
    wording = wording_of(model.tokenizer, 256)
    runs: dict[str, Run] = {
        "padded": lambda: [block.vectors for block in token_blocks(documents, wording, lambda ids: plain_hidden(model, ids), 32)],
        "ours, float32": lambda: [block.vectors for block in exact.token_vectors(documents, 32)],
        "ours, default": lambda: [block.vectors for block in native.token_vectors(documents, 32)],
    }
    return runs, native.how


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of .md files")
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    texts = mixed_texts(arguments.data, arguments.texts)
    few = texts[: arguments.texts // 2]
    embedded = SentenceTransformersEncoder(device="cpu")
    lengths = [min(embedded.count_tokens(text), embedded.max_tokens) for text in texts]
    load_before, cases = os.getloadavg(), dict[str, Any]()

    def case(name: str, runs: dict[str, Run], how: str) -> None:
        cases[name] = {"how": how, "variants": measure(runs, arguments.rounds)}
        report = {
            "threads": torch.get_num_threads(),
            "load_average": {"before": load_before, "after": os.getloadavg()},
            "texts": {"embedded and late": len(texts), "others": len(few)},
            "tokens": {"mean": round(float(np.mean(lengths)), 1), "max": max(lengths)},
            "rounds": arguments.rounds,
            "layers_of_random_models": LAYERS,
            "cases": cases,
        }
        write_result(of_processor("encode"), report)  # after every case: a run that is cut short keeps what it has
        for variant, some in cases[name]["variants"].items():
            times = f"{some['times_faster_by_wall']:.2f} x wall, {some['times_faster_by_processor']:.2f} x processor"
            print(f"{name:22s} {variant:36s} {some['wall_seconds']:7.2f} s, {times}, cosine {some['min_cosine']:.6f}", flush=True)

    runs, how = dense("embedded", texts)
    case("embedded", {**runs, **any_model(texts)}, how)
    case("late chunking windows", *late_windows(texts))
    with tempfile.TemporaryDirectory() as folder:
        case("late interaction", *late_interaction(texts, Path(folder) / "late"))
        case("sparse", *sparse(few, Path(folder) / "sparse"))
        for name, (kind, settings) in ARCHITECTURES.items():
            with quiet_loading():
                model = random_model(kind, settings, Path(folder) / name)
            case(name, *dense(model, few))


if __name__ == "__main__":
    main()
