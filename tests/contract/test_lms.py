"""What every language model must do, whatever its word."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rag import registry
from rag.core import LM, Completion, Message, Prompt
from rag.lm import TransformersLM
from rag.lm_cached import CachedLM
from rag.lm_metered import MeteredLM
from rag.lm_openai import OpenAILM
from tests.tiny_models import save_llama
from tests.toy_server import toy_server

BUILT: dict[str, Callable[[str, str, Path], LM]] = {
    "transformers": lambda model, url, folder: TransformersLM(model, device="cpu"),
    "openai": lambda model, url, folder: OpenAILM("toy", url, parallel=2),
    "cached": lambda model, url, folder: CachedLM(TransformersLM(model, device="cpu"), folder),
    "metered": lambda model, url, folder: MeteredLM(OpenAILM("toy", url)),
}
PROMPTS: list[Prompt] = [
    "The tower is",
    [Message("system", "Be brief."), Message("user", "Where is the answer? It is in the first source.")],
    [Message("system", "Be brief."), Message("user", "Ducks, geese and swans live by the water.")],
    "The tower is",
]
CHOICES = ("yes", "no")
TEXTS = ["The river flows through the city.", "", "Ducks"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_llama(tmp_path_factory.mktemp("llama")))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with toy_server() as server:
        yield server.url


@pytest.fixture(params=BUILT)
def lm(request: pytest.FixtureRequest, model: str, url: str, tmp_path: Path) -> LM:
    return BUILT[request.param](model, url, tmp_path)


def test_every_word_is_tested() -> None:
    assert set(BUILT) == set(registry.TABLE["lm"])


def test_completions_are_those_of_each_prompt_alone(lm: LM) -> None:
    found = lm.complete(PROMPTS, max_tokens=6)
    assert found == [lm.complete([prompt], max_tokens=6)[0] for prompt in PROMPTS] and lm.complete([]) == []
    assert all(0 <= each.completion_tokens <= 6 and each.prompt_tokens > 0 for each in found)
    assert all(each.finish in ("stop", "length") for each in found)


def test_a_text_ends_before_a_stop_string(lm: LM) -> None:
    whole = lm.complete(PROMPTS[:1], max_tokens=12)[0].text
    clean = max(whole.split("\ufffd"), key=len)
    stop = clean[len(clean) // 2 :][:2]
    assert stop
    cut = lm.complete(PROMPTS[:1], stop=["never to be found", stop], max_tokens=12)[0]
    assert cut.text == whole[: whole.index(stop)] and cut.finish == "stop"


def test_a_stream_is_the_completion_in_pieces(lm: LM) -> None:
    for _ in range(2):  # the second time a cache answers
        for prompt in PROMPTS[:2]:
            *pieces, last = lm.stream(prompt, max_tokens=6)
            assert isinstance(last, Completion) and last == lm.complete([prompt], max_tokens=6)[0]
            assert all(isinstance(piece, str) and piece for piece in pieces) and "".join(map(str, pieces)) == last.text


def test_scores_are_log_probabilities_of_each_prompt_alone(lm: LM) -> None:
    rows = lm.score(PROMPTS, CHOICES)
    assert len(rows) == len(PROMPTS) and lm.score([], CHOICES) == []
    for prompt, row in zip(PROMPTS, rows, strict=True):
        assert len(row) == 2 and sum(map(math.exp, row)) <= 1 + 1e-5
        assert row == pytest.approx(lm.score([prompt], CHOICES)[0], abs=1e-4)


def test_log_probabilities_have_places(lm: LM) -> None:
    assert lm.logprobs([]) == []
    for text, found in zip(TEXTS, lm.logprobs(TEXTS), strict=True):
        assert len(found.spans) == len(found.logprobs)
        assert all(0 <= a.start <= b.start and b.end <= len(text) for a, b in zip(found.spans, found.spans[1:], strict=False))
        assert all(math.isnan(value) for value in found.logprobs[:1]) and all(value <= 1e-6 for value in found.logprobs[1:])


def test_continuations_are_scored_one_for_each_prompt(lm: LM) -> None:
    texts = [" in the city", " yes", " no", " in the city"]
    found = lm.continuation_logprobs(PROMPTS, texts)
    assert all(math.isfinite(value) and value < 0 for value in found) and found[0] == pytest.approx(found[3], abs=1e-4)
    for prompt, text, value in zip(PROMPTS, texts, found, strict=True):
        assert lm.continuation_logprobs([prompt], [text]) == pytest.approx([value], abs=1e-4)
    assert lm.continuation_logprobs([], []) == [] and lm.continuation_logprobs(PROMPTS[:1], [""]) == [0.0]
    with pytest.raises(ValueError, match="2 continuations for 1 prompts"):
        lm.continuation_logprobs(PROMPTS[:1], ["a", "b"])


def test_bad_questions_are_refused(lm: LM) -> None:
    with pytest.raises(ValueError, match="max_tokens=0"):
        lm.complete(["x"], max_tokens=0)
    with pytest.raises(ValueError, match="choices="):
        lm.score(["x"], ["yes", " "])
    with pytest.raises(ValueError, match="stop=''"):
        lm.complete(["x"], stop=[""])


def test_a_model_has_a_name_and_measures_prompts(lm: LM) -> None:
    assert lm.fingerprint and lm.fingerprint == lm.fingerprint
    assert lm.context_tokens is None or lm.context_tokens > 1
    assert 0 < lm.count_tokens("Ducks") < lm.count_tokens([Message("user", "Ducks, geese and swans live by the water.")])
