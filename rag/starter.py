"""The configuration that ``rag init`` writes. Knows only text; a test keeps it loadable and equal to the defaults."""

STARTER = """\
# Ragstone. Every block is `use: WORD` plus that word's options; `rag config schema` lists all of them.
# ${env:NAME} is filled in from the environment.

models:                       # built once, handed to every part that asks for them
  encoder: {use: sentence-transformers, model: embedded}   # or a hub id, or a folder
  token_encoder: {use: token-vectors}                      # a vector per token, of the encoder above; colbert: of a model of its own
  tokenizer: {use: huggingface, model: embedded}
  # lm: {use: openai, base_url: "http://127.0.0.1:8080/v1", model: my-model, api_key: "${env:MY_KEY}"}

chunker: {use: structure}

indexes:                      # any number, by a name of your own
  dense: {use: faiss}
  sparse: {use: bm25}

query: {use: plain}           # conversations: {use: carry}, or {use: rewrite} with models.lm; also hyde, multi-query, decompose, ...
fuse: {use: convex}
rerankers: []                 # a cascade: [{use: cross-encoder, model: ...}, {use: pointwise}]
select: {use: top}
generator: {use: extractive}  # verbatim sentences, no language model; {use: lm} writes with models.lm
"""
