"""Copies of one encoder as actors of Ray: started, counted, replaced when they die, given pieces of work. Knows nothing of what they do."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rag.core import Encoder
from rag.errors import ConfigError, MissingExtra, ModelError, RagError

_PIECES_A_WORKER = 2  # one that is worked on and one that is there when it is done
_HELD = 4  # pieces per worker that are under way or wait for one before them
_RETRIES = 2


class Workers:
    """Actors of the class ``copy``, made of ``encoder``: those that have shown its ``fingerprint``, and those that are still to come.

    The other arguments and what is raised: see ``RayEncoder``. ``resources``: of one worker, ``num_cpus`` and ``num_gpus``.
    """

    def __init__(
        self,
        copy: type[Any],
        encoder: Encoder,
        address: str,
        num_workers: int | None,
        resources: dict[str, float],
        start_seconds: float,
    ) -> None:
        self._ray = ray = _connected(address)
        self._encoder, self._start_seconds = encoder, start_seconds
        if num_workers is None:
            room = ray.cluster_resources()
            wanted = {"CPU": resources["num_cpus"], "GPU": resources["num_gpus"]}
            num_workers = max(1, min(int(room.get(name, 0) / number) for name, number in wanted.items() if number))
        self._actor = ray.remote(copy).options(**resources)
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
