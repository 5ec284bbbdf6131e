"""Documents encoded by copies of an encoder on the machines of a Ray cluster. Knows Ray's actors; knows no model and no index.

Encoding is nearly all of an ingest; reading, cutting and the one writer of an index stay where the ingest runs. Texts go out in pieces, the
longest texts first, to whichever worker is free, and every result goes back to its row. A piece is encoded as the same encoder would
encode it here (``RayEncoder.reference``); pieces are other batches than the whole, so a vector may differ from an encoding in one
go by rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rag.core import Encoder, TokenBlock, TokenEncoder, tell
from rag.errors import ConfigError, MissingExtra, ModelError, RagError

_PIECE_CHARS = 32_000  # some 8,000 tokens: two full packs of the default encoder
_PIECES_HERE = 4  # what answers a question (sentences of its hits, say) or a small change is no work for a cluster
_PIECES_A_WORKER = 2  # one that is encoded and one that is there when it is done
_HELD = 4  # pieces per worker that are under way or wait for one before them
_RETRIES = 2


class RayEncoder:
    """``document_encoder`` for everything; its documents are encoded by as many copies of it as there are ``workers``.

    ``address``: ``local`` starts Ray on this machine for as long as this process runs, ``auto`` finds the cluster that this machine is a
    node of, ``ray://host:10001`` or ``host:6379`` names one; a Ray that this program has connected to already is used as it is. Each worker
    takes ``cpus_per_worker`` and ``gpus_per_worker`` of the cluster; ``workers`` of ``None`` are as many as the cluster has room for when the first
    text comes. Workers join whenever the cluster has room for them; if there is none
    within ``start_seconds``, that is an error. What a worker had that died goes to another one, twice; then that is an error too.

    Every machine needs Ragstone and the model under the same name. A worker whose model is not this one, by ``fingerprint``, is refused.
    Queries are encoded here, and so are a few texts (up to four pieces): no answer waits for a cluster, or needs Ray at all. What is stored is what ``document_encoder`` would store, ``fingerprint`` included: an index that was
    filled by a cluster is opened anywhere without Ray. Raises ``MissingExtra`` without Ray, ``ConfigError`` for a cluster that is not
    there or has no room or another model, ``ModelError`` if workers keep dying, each when there are documents enough.
    """

    def __init__(
        self,
        document_encoder: Encoder,
        address: str = "local",
        workers: int | None = None,
        cpus_per_worker: float = 1.0,
        gpus_per_worker: float = 0.0,
        start_seconds: float = 120.0,
    ) -> None:
        if workers is not None and workers < 1:
            raise ConfigError(f"workers must be at least 1, not {workers}")
        if not (cpus_per_worker > 0 and gpus_per_worker >= 0 and start_seconds > 0):
            raise ConfigError(
                f"cpus_per_worker={cpus_per_worker}, start_seconds={start_seconds} must be above 0 and gpus_per_worker={gpus_per_worker} not below"
            )
        self.document_encoder = document_encoder
        self._address, self._num_workers, self._start_seconds = address, workers, start_seconds
        self._resources = {"num_cpus": cpus_per_worker, "num_gpus": gpus_per_worker}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.document_encoder!r}, {self._address!r})"

    @property
    def dim(self) -> int:
        return self.document_encoder.dim

    @property
    def fingerprint(self) -> str:
        return self.document_encoder.fingerprint

    @property
    def pooling(self) -> str:
        """How ``document_encoder`` makes one vector of many. Raises ``ConfigError`` if it gives no token vectors."""
        return self._token_encoder().pooling

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self.document_encoder.encode_queries(texts)

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        order, pieces = _pieces(texts)
        if len(pieces) <= _PIECES_HERE:
            return self.document_encoder.encode_documents(texts)
        return self._gathered(order, self._workers.each("encode_documents", ([texts[row] for row in rows] for rows in pieces)))

    def reference(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``encode_documents`` without Ray: the same pieces, one after the other, in this process."""
        order, pieces = _pieces(texts)
        return self._gathered(order, (self.document_encoder.encode_documents([texts[row] for row in rows]) for rows in pieces))

    def _gathered(self, order: Sequence[int], parts: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
        """The rows of ``parts``, of which the i-th belongs to text ``order[i]``."""
        if not order:
            return np.empty((0, self.dim), np.float32)
        kept = []
        for part in parts:
            kept.append(part)
            tell(len(part))
        found = np.concatenate(kept)
        vectors = np.empty_like(found)
        vectors[np.asarray(order)] = found
        return vectors

    def token_vectors(
        self, texts: Sequence[str], overlap_tokens: int, task: Literal["query", "document"] = "document"
    ) -> Iterator[TokenBlock]:
        """Those of ``document_encoder``, text by text in order; of questions here. Raises ``ConfigError`` if it has none."""
        encoder = self._token_encoder()
        pieces = [[texts[row] for row in rows] for rows in _in_order(range(len(texts)), texts)]
        if task == "query" or len(pieces) <= _PIECES_HERE:
            yield from encoder.token_vectors(texts, overlap_tokens, task)
            return
        first = 0
        for piece, blocks in zip(pieces, self._workers.each("token_blocks", pieces, overlap_tokens), strict=True):
            yield from (TokenBlock(first + row, spans, vectors) for row, spans, vectors in blocks)
            first += len(piece)

    def _token_encoder(self) -> TokenEncoder:
        if not isinstance(self.document_encoder, TokenEncoder):
            raise ConfigError(f"the document encoder {self.document_encoder!r} gives no token vectors")
        return self.document_encoder

    @cached_property
    def _workers(self) -> _Workers:
        return _Workers(self.document_encoder, self._address, self._num_workers, self._resources, self._start_seconds)


def _pieces(texts: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """Row numbers from the longest text to the shortest, and the same in pieces: texts of a length pack well, and the last pieces are the quickest."""
    order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
    return order, _in_order(order, texts)


def _in_order(rows: Sequence[int], texts: Sequence[str]) -> list[list[int]]:
    """``rows`` in consecutive pieces of ``_PIECE_CHARS`` characters at the most, but at least one text each."""
    pieces: list[list[int]] = []
    num_chars = 0
    for row in rows:
        if not pieces or num_chars + len(texts[row]) > _PIECE_CHARS:
            pieces.append([])
            num_chars = 0
        pieces[-1].append(row)
        num_chars += len(texts[row])
    return pieces


class _Copy:
    """What runs in a worker: an encoder that has loaded nothing yet."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def fingerprint(self) -> str:
        return self._encoder.fingerprint

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._encoder.encode_documents(texts)

    def token_blocks(self, texts: Sequence[str], overlap_tokens: int) -> list[TokenBlock]:
        assert isinstance(self._encoder, TokenEncoder)
        return list(self._encoder.token_vectors(texts, overlap_tokens))


class _Workers:
    """The actors of one encoder: those that have shown the right model, and those that are still to come."""

    def __init__(
        self, encoder: Encoder, address: str, num_workers: int | None, resources: dict[str, float], start_seconds: float
    ) -> None:
        self._ray = ray = _connected(address)
        self._encoder, self._start_seconds = encoder, start_seconds
        if num_workers is None:
            room = ray.cluster_resources()
            wanted = {"CPU": resources["num_cpus"], "GPU": resources["num_gpus"]}
            num_workers = max(1, min(int(room.get(name, 0) / number) for name, number in wanted.items() if number))
        self._actor = ray.remote(_Copy).options(**resources)
        self._ready: list[Any] = []
        self._coming: dict[Any, Any] = {}
        self._num_dead_at_start = 0
        for _ in range(num_workers):
            self._start_one()

    def _start_one(self) -> None:
        try:
            worker = self._actor.remote(self._encoder)
        except TypeError as error:
            raise ConfigError(f"the encoder {self._encoder!r} cannot be sent to Ray's workers: {error}") from None
        self._coming[worker.fingerprint.remote()] = worker

    def each(self, method: str, pieces: Iterable[list[str]], *arguments: Any) -> Iterator[Any]:
        """``method`` of some worker for each piece, in order of the pieces."""
        todo = ((number, piece, 0) for number, piece in enumerate(pieces))  # number, piece, how often its worker was lost
        again: list[tuple[int, list[str], int]] = []
        running: dict[Any, tuple[Any, int, list[str], int]] = {}
        done: dict[int, Any] = {}
        next_out = 0
        while True:
            while (worker := self._free_one(running)) is not None:
                is_held_up = len(running) + len(done) >= _HELD * len(self._ready)  # somebody reads slowly
                job = again.pop() if again else None if is_held_up else next(todo, None)
                if job is None:
                    break
                running[getattr(worker, method).remote(job[1], *arguments)] = worker, *job
            if worker is not None and not running:
                return
            reference = self._finished(list(running))
            if reference is not None:
                worker, number, piece, num_losses = running.pop(reference)
                try:
                    done[number] = self._result(reference)
                except _Lost as lost:
                    if num_losses == _RETRIES:
                        raise ModelError(f"workers of Ray died {num_losses + 1} times over the same texts: {lost}") from None
                    self._replace(worker)
                    again.append((number, piece, num_losses + 1))
            while next_out in done:
                yield done.pop(next_out)
                next_out += 1

    def _free_one(self, running: Mapping[Any, tuple[Any, int, list[str], int]]) -> Any:
        """The worker with the fewest pieces, if it has fewer than it may have."""
        load = [0] * len(self._ready)
        for worker, *_ in running.values():
            if worker in self._ready:
                load[self._ready.index(worker)] += 1
        least = min(range(len(load)), key=load.__getitem__, default=None)
        return None if least is None or load[least] >= _PIECES_A_WORKER else self._ready[least]

    def _finished(self, running: list[Any]) -> Any:
        """Waits until one of ``running`` is done, and returns it, or until a worker has joined, and returns ``None``."""
        timeout = None if running or self._ready else self._start_seconds
        finished, _ = self._ray.wait([*running, *self._coming], num_returns=1, timeout=timeout)
        if not finished:
            raise ConfigError(
                f"no worker could start within {self._start_seconds:g} seconds; the cluster has {_said(self._ray.available_resources())} "
                f"free of {_said(self._ray.cluster_resources())}"
            )
        (reference,) = finished
        if (worker := self._coming.pop(reference, None)) is None:
            return reference
        try:
            theirs = self._result(reference)
        except _Lost as lost:
            self._num_dead_at_start += 1
            if self._num_dead_at_start > _RETRIES:
                raise ModelError(f"workers of Ray died {self._num_dead_at_start} times before their first text: {lost}") from None
            self._replace(worker)
            return None
        if theirs != self._encoder.fingerprint:
            raise ConfigError(
                f"a worker's model is not the one here ({theirs[:12]}, not {self._encoder.fingerprint[:12]}): every machine of the cluster "
                f"needs the same files under the name of {self._encoder!r}"
            )
        self._ready.append(worker)
        return None

    def _replace(self, worker: Any) -> None:
        """Another worker for one that was lost; it joins when the cluster has room for it."""
        if worker in self._ready:
            self._ready.remove(worker)
            self._start_one()
        elif not self._ready and not self._coming:
            self._start_one()
        self._ray.kill(worker)

    def _result(self, reference: Any) -> Any:
        """Raises a worker's own ``RagError`` or ``ValueError`` as if it had happened here, ``_Lost`` if the worker or its machine is gone."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, (RagError, ValueError)):
                raise error.cause from None
            raise
        except errors.RayError as error:
            raise _Lost(" ".join(str(error).split())[:300]) from None


class _Lost(Exception):
    """A worker, its machine or its result is gone."""


def _connected(address: str) -> Any:
    """The module ``ray``, connected. Raises ``MissingExtra``, ``ConfigError`` if there is no cluster at the address."""
    try:
        import ray
    except ImportError:
        raise MissingExtra("ray", "ray", "the encoder 'ray'") from None
    if ray.is_initialized():
        return ray
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a Ray that is started here reports to nobody
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="ERROR",
            **({"include_dashboard": False} if address == "local" else {}),
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"address {address!r}: no Ray cluster answers there ({' '.join(str(error).split())[:300]})") from None
    return ray


def _said(resources: dict[str, float]) -> str:
    return ", ".join(f"{resources.get(name, 0):g} {name}s" for name in ("CPU", "GPU"))
