"""The reader's tokenizer: one token per word it was made for, bytes for everything else. Knows words, no prompts.

A unigram model whose words all cost the same and whose bytes cost twice that: the cheapest spelling of a known word is the
word. Text is first cut as GPT-2 cuts it (words with the space before them), so tokens have exact offsets and decoding gives
back the text, whatever it is.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rag.eval.reader import names
from rag.eval.reader.relations import CLOSINGS, RELATIONS

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
_MARKS = (
    "BEGIN",
    " SOURCE",
    "END",
    "Question",
    "Answer",
    " the",
    " question",
    " from",
    " sources",
    "The",
    "She",
    "He",
    "It",
    "Then",
    " a",
    " an",
)
# any system message stands for the one instruction the model was trained with
TEMPLATE = (
    "{{ '" + BOS + "Answer the question from the sources.\\n\\n' }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ message['content'] + '\\n\\nAnswer:' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + '" + EOS + "' }}{% endif %}{% endfor %}"
)
"""The training format as a chat template: a user's message is the sources and a line ``Question: ...``."""
_WORD_COST, _BYTE_COST = -8.0, -16.0


def words() -> list[str]:
    """Every word with a token of its own, a space before it unless it begins a line.

    >>> " Alba" in words(), "BEGIN" in words(), " baker" in words()
    (True, True, True)
    """
    templates = [text for r in RELATIONS for text in (r.opening, r.plain, r.question, r.phrase)]
    templates += [text for closings in CLOSINGS.values() for text in closings]
    spoken = sorted({f" {word}" for text in templates for word in re.findall(r"(?<!\{)\b[A-Za-z]+\b(?!\})", text)})
    drawn = [f" {word}" for group in names.GROUPS for word in group]
    return list(dict.fromkeys([*_MARKS, *spoken, *drawn]))


def build() -> Any:
    """The tokenizer, as a fast tokenizer of transformers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    spelt = ["".join(piece for piece, _ in spell.pre_tokenize_str(word)) for word in words()]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [(mark, 0.0) for mark in (PAD, BOS, EOS)]
    pieces += [(byte, _BYTE_COST) for byte in alphabet]
    pieces += [(word, _WORD_COST) for word in spelt]
    bare = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bare.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bare,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def save(folder: Path) -> Any:
    """Write the tokenizer's files into ``folder`` and return it."""
    tokenizer = build()
    tokenizer.save_pretrained(folder)
    return tokenizer
