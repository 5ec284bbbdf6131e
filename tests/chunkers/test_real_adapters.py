"""The classes of wtpsplit and fastcoref themselves, with tiny random weights saved to a folder. Runs where the packages are installed.

What such weights say means nothing; that a folder loads, and that every answer is spans of the text, does not depend on it.
"""

from __future__ import annotations

import string
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from rag.chunkers.coref import CorefChunker
from rag.chunkers.fixed import FixedChunker
from rag.chunkers.sentence import SentenceChunker
from rag.core import Document
from rag.coref import FastcorefResolver
from rag.splitter import SatSplitter
from rag.tokenizer import WordTokenizer

TEXT = "so we met on monday  then we left\nand\r\n\n went home. Dr. Müller said she saw 漢字 there; then she slept. " * 4
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 514,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}


@pytest.fixture
def sat_folder(tmp_path: Path) -> Path:
    """A Segment-any-Text model: XLM-RoBERTa with one output a token, and a tokenizer of single letters."""
    wtpsplit = pytest.importorskip("wtpsplit.models")
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast
    from wtpsplit.configs import SubwordXLMConfig

    pieces = ["<s>", "<pad>", "</s>", "<unk>", "\u2581", *string.ascii_letters, *string.punctuation]
    bare = Tokenizer(models.Unigram([(piece, -float(number)) for number, piece in enumerate(pieces)], unk_id=3))
    bare.pre_tokenizer = pre_tokenizers.Metaspace()
    bare.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=bare, unk_token="<unk>", **names).save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = SubwordXLMConfig(vocab_size=len(pieces), num_labels=1, **SIZES)
    wtpsplit.SubwordXLMForTokenClassification(config).save_pretrained(tmp_path)
    return tmp_path


def test_sat_by_folder_gives_spans_of_the_text(sat_folder: Path) -> None:
    counts = []
    for threshold in (0.01, 0.5, 0.99):
        splitter = SatSplitter(str(sat_folder), threshold=threshold)
        spans = splitter.spans(TEXT)
        assert [span.of(TEXT).strip() for span in spans] == [span.of(TEXT) for span in spans]
        assert all(before.end <= after.start for before, after in pairwise(spans))
        covered = {place for span in spans for place in range(span.start, span.end)}
        assert not "".join(character for place, character in enumerate(TEXT) if place not in covered).strip(), "text is lost"
        counts.append(len(spans))
        chunks = SentenceChunker(WordTokenizer(), max_tokens=20, splitter=splitter).chunk(Document("id", "source", TEXT))
        assert [chunk.span.of(TEXT) for chunk in chunks] == [chunk.text for chunk in chunks]
    assert counts[0] > counts[2] > 1, "the threshold reaches the model"


@pytest.fixture
def coref_folder(tmp_path: Path) -> Path:
    """An F-coref model over RoBERTa, and a byte-level tokenizer."""
    modeling = pytest.importorskip("fastcoref.coref_models.modeling_fcoref")
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import RobertaConfig, RobertaTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {piece: number for number, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *alphabet])}
    bare = Tokenizer(models.BPE(words, []))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bare.decoder = decoders.ByteLevel()
    RobertaTokenizerFast(tokenizer_object=bare, add_prefix_space=True).save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = RobertaConfig(vocab_size=len(words), **SIZES)
    config.coref_head = {
        "max_span_length": 30, "top_lambda": 0.25, "ffnn_size": 16, "dropout_prob": 0.0, "max_segment_len": 512,
    }  # fmt: skip
    if not hasattr(modeling.FCorefModel, "all_tied_weights_keys"):
        modeling.FCorefModel.all_tied_weights_keys = {}
    model = modeling.FCorefModel(config)
    with torch.no_grad():
        model.mention_start_classifier.bias.fill_(1.0)  # random weights see mentions everywhere, so there are clusters
    model.save_pretrained(tmp_path)
    return tmp_path


def test_fastcoref_by_folder_gives_spans_of_the_text(coref_folder: Path) -> None:
    resolver = FastcorefResolver(str(coref_folder))
    clusters = resolver.clusters(TEXT)
    assert clusters, "random weights found no cluster: the test looks at nothing"
    for cluster in clusters:
        assert len(cluster) > 1
        for span in cluster:
            assert 0 <= span.start < span.end <= len(TEXT) and span.of(TEXT) == span.of(TEXT).strip()
    assert resolver.clusters(TEXT) == clusters
    chunks = CorefChunker(WordTokenizer(), resolver, FixedChunker(WordTokenizer(), max_tokens=20)).chunk(
        Document("id", "source", TEXT)
    )
    assert [chunk.span.of(TEXT) for chunk in chunks] == [chunk.text for chunk in chunks]
