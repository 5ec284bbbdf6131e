"""Exact prefixes that are worth keeping, as a tree over segments of ids (RAGCache, arXiv 2404.12457). Knows no tensor and no store.

A node is one segment behind exactly the segments above it, so what it holds fits only there, and needs no repair. A node cannot be
used without those above it: leaves go first, the one of least benefit per byte (see ``eviction``), and nothing that a request uses.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rag.kvcache.eviction import Policy, Ranking

Segment = tuple[int, ...]


@dataclass(eq=False)
class Node:
    """A segment in its place. ``handle``: whatever the caller keeps of its keys and values; ``seconds``: what it took to compute."""

    ids: Segment
    parent: Node | None
    num_bytes: int = 0
    seconds: float = 0.0
    handle: Any = None
    hits: int = 0
    references: int = 0
    children: dict[Segment, Node] = field(default_factory=dict)


class Match:
    """The longest known beginning of a request, kept until it is closed. ``nodes`` in order, none for a request nobody knows."""

    def __init__(self, tree: PrefixTree, nodes: tuple[Node, ...]) -> None:
        self._tree, self.nodes = tree, nodes
        self._closed = False

    @property
    def num_tokens(self) -> int:
        """Tokens it covers."""
        return sum(len(node.ids) for node in self.nodes)

    def close(self) -> None:
        """Gives the nodes back; a second time does nothing."""
        if not self._closed:
            self._closed = True
            self._tree._release(self.nodes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class PrefixTree:
    """At most ``num_bytes`` of handles. ``let_go``: told every handle that is evicted, outside of the lock. Thread safe."""

    def __init__(self, num_bytes: int, let_go: Callable[[Any], None] = lambda handle: None, eviction: Policy = "benefit") -> None:
        if num_bytes < 0:
            raise ValueError(f"num_bytes is {num_bytes}; a budget cannot be negative")
        self.num_bytes, self.used_bytes = num_bytes, 0
        self._let_go = let_go
        self._root = Node((), None)
        self._ranking = Ranking(eviction)
        self._nodes: dict[str, Node] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._nodes)

    def match(self, segments: Sequence[Sequence[int]]) -> Match:
        """The nodes of the longest beginning of ``segments``, each pinned and counted as a hit."""
        with self._lock:
            nodes = self._path(segments)
            for node in nodes:
                node.references += 1
                node.hits += 1
                self._touch(node)
            return Match(self, tuple(nodes))

    def insert(self, segments: Sequence[Sequence[int]], num_bytes: int, seconds: float, handle: Any = None) -> bool:
        """Adds the last of ``segments`` behind the others; whether it is there now. One that is there already stays as it is.

        Raises ``ValueError`` for no segment, an empty one, or a negative size or time. ``False``: one before it is not here, or others are
        worth more.
        """
        if not segments or not all(segments):
            raise ValueError("a path needs at least one segment, and every segment a token")
        if num_bytes < 0 or seconds < 0:
            raise ValueError(f"num_bytes={num_bytes} and seconds={seconds} cannot be negative")
        gone: list[Any] = []
        try:
            with self._lock:
                nodes = self._path(segments)
                if len(nodes) == len(segments):
                    return True
                if len(nodes) < len(segments) - 1:
                    return False
                parent = nodes[-1] if nodes else self._root
                node = Node(tuple(segments[-1]), parent, num_bytes, seconds, handle, hits=1)
                parent.references += 1  # so that it is not evicted to make room for its own child
                try:
                    if not self._make_room(node, gone):
                        return False
                finally:
                    parent.references -= 1
                parent.children[node.ids] = node
                self._nodes[_name(node)] = node
                self.used_bytes += num_bytes
                self._touch(node)
                return True
        finally:
            for each in gone:
                self._let_go(each)

    def _path(self, segments: Sequence[Sequence[int]]) -> list[Node]:
        nodes, here = [], self._root
        for segment in segments:
            found = here.children.get(tuple(segment))
            if found is None:
                break
            nodes.append(found)
            here = found
        return nodes

    def _make_room(self, newcomer: Node, gone: list[Any]) -> bool:
        if newcomer.num_bytes > self.num_bytes:
            return False
        while self.used_bytes + newcomer.num_bytes > self.num_bytes:
            name = self._ranking.lowest(lambda name: not self._nodes[name].children and not self._nodes[name].references)
            value = self._ranking.value(newcomer.hits, newcomer.seconds, max(newcomer.num_bytes, 1))
            if name is None or self._ranking.loses(value, name):
                return False
            node = self._nodes.pop(name)
            self._ranking.evict(name)
            self.used_bytes -= node.num_bytes
            assert node.parent is not None
            del node.parent.children[node.ids]
            gone.append(node.handle)
        return True

    def _touch(self, node: Node) -> None:
        self._ranking.touch(_name(node), node.hits, node.seconds, max(node.num_bytes, 1))

    def _release(self, nodes: Sequence[Node]) -> None:
        with self._lock:
            for node in nodes:
                node.references -= 1


def _name(node: Node) -> str:
    return str(id(node))
