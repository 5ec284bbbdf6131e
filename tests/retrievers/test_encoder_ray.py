"""An encoder on a real Ray of this machine: the same vectors, whatever dies meanwhile, and errors that say what is wrong."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag.config import Assembly, load
from rag.core import Chunk, Document, Encoder, Span, TokenEncoder
from rag.errors import ConfigError, MissingExtra, ModelError
from rag.pipeline import Rag
from rag.retrievers import encoder_ray
from rag.retrievers.encoder import SentenceTransformersEncoder
from rag.retrievers.encoder_ray import RayEncoder
from rag.retrievers.late import late_vectors_of
from tests.fakes import HashingEncoder
from tests.tiny_encoders import save_encoder

TEXTS = [" ".join(f"w{(row * 7 + word) % 60}" for word in range(1 + row % 23)) for row in range(300)]


class Frail(HashingEncoder):
    """Kills its process at a text that says so, as long as ``folder`` holds a life to take; fails at others."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def encode_documents(self, texts: Sequence[str]) -> Any:
        if "ends here" in texts and (lives := sorted(self.folder.iterdir())):
            lives[0].unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if "no such text" in texts:
            raise ModelError("this text cannot be encoded")
        return super().encode_documents(texts)


class Sleepy(HashingEncoder):
    def encode_documents(self, texts: Sequence[str]) -> Any:
        time.sleep(0.05)
        return super().encode_documents(texts)


class Changed(HashingEncoder):
    """Another model in every process."""

    @property
    def fingerprint(self) -> str:
        return f"made in {os.getpid()}"

    @fingerprint.setter
    def fingerprint(self, value: str) -> None:
        pass


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="needs the extra 'ray'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_ray, "_PIECE_CHARS", 400)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformersEncoder:
    return SentenceTransformersEncoder(str(save_encoder(tmp_path_factory.mktemp("encoder"))), device="cpu", dtype="float32")


def test_vectors_are_those_of_the_encoder(cluster: Any, model: SentenceTransformersEncoder) -> None:
    spread = RayEncoder(model, cpus_per_worker=0.5)
    found = spread.encode_documents(TEXTS)
    np.testing.assert_array_equal(found, spread.reference(TEXTS))
    np.testing.assert_allclose(found, model.encode_documents(TEXTS), atol=2e-6)
    np.testing.assert_array_equal(spread.encode_queries(TEXTS[:3]), model.encode_queries(TEXTS[:3]))
    assert (spread.fingerprint, spread.dim, spread.pooling) == (model.fingerprint, model.dim, model.pooling)
    assert spread.encode_documents([]).shape == (0, model.dim)
    assert isinstance(spread, TokenEncoder)


def test_token_vectors_come_in_order(cluster: Any, model: SentenceTransformersEncoder) -> None:
    spread = RayEncoder(model, workers=2, cpus_per_worker=0.5)
    theirs, ours = (list(encoder.token_vectors(TEXTS, 4)) for encoder in (spread, model))
    assert [block.row for block in theirs] == sorted(block.row for block in theirs)

    def by_row(blocks: Any) -> dict[int, Any]:
        rows = sorted({block.row for block in blocks})
        return {
            row: tuple(np.concatenate([block[part] for block in blocks if block.row == row]) for part in (1, 2)) for row in rows
        }

    expected = by_row(ours)
    for row, (spans, vectors) in by_row(theirs).items():
        np.testing.assert_array_equal(spans, expected[row][0])
        np.testing.assert_allclose(vectors, expected[row][1], atol=2e-5)
    documents = [Document(str(number), str(number), " ".join(TEXTS[number : number + 40])) for number in range(9)]
    chunks = [Chunk.of(document, Span(start, start + 60)) for document in documents for start in range(0, 600, 60)]
    whole = {document.id: document.text for document in documents}
    np.testing.assert_allclose(late_vectors_of(spread, chunks, whole, 4), late_vectors_of(model, chunks, whole, 4), atol=2e-6)


def test_two_readings_at_once_do_not_wait_for_each_other(cluster: Any, model: SentenceTransformersEncoder) -> None:
    spread = RayEncoder(model, workers=1, cpus_per_worker=0.5)
    slow = spread.token_vectors(TEXTS, 4)
    first = next(slow)
    assert len(spread.encode_documents(TEXTS)) == len(TEXTS)
    assert [first.row, *(block.row for block in slow)][-1] == len(TEXTS) - 1


@pytest.mark.parametrize("num_deaths", [1, 2])
def test_what_a_dead_worker_had_is_encoded_by_another(cluster: Any, tmp_path: Path, num_deaths: int) -> None:
    for number in range(num_deaths):
        (tmp_path / str(number)).touch()
    spread = RayEncoder(Frail(tmp_path), workers=2, cpus_per_worker=0.5)
    texts = [*TEXTS[:100], "ends here", *TEXTS[100:]]
    np.testing.assert_array_equal(spread.encode_documents(texts), HashingEncoder().encode_documents(texts))
    assert not list(tmp_path.iterdir())


def test_texts_that_kill_every_worker_are_an_error(cluster: Any, tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / str(number)).touch()
    spread = RayEncoder(Frail(tmp_path), workers=2, cpus_per_worker=0.5)
    with pytest.raises(ModelError, match="workers of Ray died 3 times over the same texts: "):
        spread.encode_documents([*TEXTS, "ends here"])
    assert len(spread.encode_documents(TEXTS)) == len(TEXTS)  # and the others go on


def test_what_a_worker_raises_is_raised_here(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="^this text cannot be encoded$"):
        RayEncoder(Frail(tmp_path), workers=1, cpus_per_worker=0.5).encode_documents([*TEXTS, "no such text"])


def test_a_worker_with_another_model_is_refused(cluster: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"a worker's model is not the one here \(made in .*needs the same files under the name of .*Changed"
    ):
        RayEncoder(Changed(), workers=1, cpus_per_worker=0.5).encode_documents(TEXTS)


def test_a_cluster_without_room(cluster: Any) -> None:
    with pytest.raises(ConfigError, match="no worker could start within 1 seconds; the cluster has .* free of 2 CPUs, 0 GPUs"):
        RayEncoder(HashingEncoder(), gpus_per_worker=1, workers=1, start_seconds=1).encode_documents(TEXTS)


def test_an_index_filled_through_ray_is_opened_without(cluster: Any, tmp_path: Path, model: SentenceTransformersEncoder) -> None:
    (tmp_path / "docs").mkdir()
    for number in range(40):
        (tmp_path / "docs" / f"{number}.txt").write_text(" ".join(TEXTS[number * 7 : number * 7 + 7]))
    plain = {"use": "sentence-transformers", "model": model.model, "dtype": "float32"}
    base = {"indexes": {"dense": {"use": "faiss"}}, "chunker": {"use": "recursive", "max_tokens": 20}}
    models = {"tokenizer": {"use": "words"}}
    through_ray = {"use": "ray", "document_encoder": plain, "workers": 2, "cpus_per_worker": 0.5}
    with Rag.open(tmp_path / "a", {**base, "models": {**models, "encoder": through_ray}}) as rag:
        assert rag.ingest(tmp_path / "docs").num_chunks_added > 100
    with Rag.open(tmp_path / "b", {**base, "models": {**models, "encoder": plain}}) as rag:
        rag.ingest(tmp_path / "docs")
        expected = rag.search("w3 w4 w5", 10)
    with Rag.open(tmp_path / "a", {**base, "models": {**models, "encoder": plain}}) as rag:
        assert rag.ingest(tmp_path / "docs").num_chunks_added == 0
        found = rag.search("w3 w4 w5", 10)
    assert [hit.chunk.id for hit in found] == [hit.chunk.id for hit in expected]
    np.testing.assert_allclose([hit.score for hit in found], [hit.score for hit in expected], atol=1e-5)


def test_a_machine_leaves_and_another_joins() -> None:
    ray = pytest.importorskip("ray", reason="needs the extra 'ray'")
    from ray.cluster_utils import Cluster

    ray.shutdown()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    first, _ = machines.add_node(num_cpus=1), machines.add_node(num_cpus=1)
    ray.init(address=machines.address, log_to_driver=False, logging_level="ERROR")
    spread = RayEncoder(Sleepy())
    expected = HashingEncoder().encode_documents(TEXTS)
    try:
        np.testing.assert_array_equal(spread.encode_documents(TEXTS), expected)
        with ThreadPoolExecutor(1) as thread:
            while_it_leaves = thread.submit(spread.encode_documents, TEXTS)
            machines.remove_node(first)
            np.testing.assert_array_equal(while_it_leaves.result(), expected)
        machines.add_node(num_cpus=1)
        deadline = time.monotonic() + 60
        while len(spread._workers._ready) < 2 and time.monotonic() < deadline:
            np.testing.assert_array_equal(spread.encode_documents(TEXTS), expected)
        assert len(spread._workers._ready) == 2
    finally:
        ray.shutdown()
        machines.shutdown()


def test_no_cluster_at_the_address() -> None:
    ray = pytest.importorskip("ray", reason="needs the extra 'ray'")
    if ray.is_initialized():
        ray.shutdown()
    with pytest.raises(ConfigError, match="address 'auto': no Ray cluster answers there"):
        RayEncoder(HashingEncoder(), address="auto").encode_documents(TEXTS)


def test_options_and_the_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="workers must be at least 1, not 0"):
        RayEncoder(HashingEncoder(), workers=0)
    with pytest.raises(ConfigError, match="cpus_per_worker=0"):
        RayEncoder(HashingEncoder(), cpus_per_worker=0)
    with pytest.raises(ConfigError, match="gives no token vectors"):
        _ = RayEncoder(HashingEncoder()).pooling
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'ragstone\[ray\]'"):
        RayEncoder(HashingEncoder()).encode_documents(TEXTS)
    few = RayEncoder(HashingEncoder()).encode_documents(TEXTS[:5])  # no work for a cluster
    np.testing.assert_array_equal(few, HashingEncoder().encode_documents(TEXTS[:5]))
    block = {"use": "ray", "document_encoder": {"use": "sentence-transformers"}}
    encoder: Encoder = Assembly(load({"models": {"encoder": block}})).model("encoder")
    assert repr(encoder) == "RayEncoder(SentenceTransformersEncoder('embedded'), 'local')"  # nothing is loaded or started


def test_pieces_hold_every_text_once() -> None:
    order, pieces = encoder_ray._pieces([*TEXTS, "x" * 5000, ""])
    assert [row for piece in pieces for row in piece] == order and sorted(order) == list(range(302))
    assert pieces[0] == [300] and all(pieces)
