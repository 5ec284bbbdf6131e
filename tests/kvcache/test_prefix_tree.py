from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.kvcache.prefix_tree import Match, PrefixTree

A, B, C, D = (1,), (2, 3), (4, 5, 6), (7,)


def covered(tree: PrefixTree, *segments: tuple[int, ...]) -> int:
    with tree.match(segments) as match:
        return len(match.nodes)


def test_the_longest_exact_prefix_and_nothing_else() -> None:
    tree = PrefixTree(100)
    assert tree.insert([A], 10, 1.0, "a") and tree.insert([A, B], 10, 1.0, "ab") and tree.insert([A, B, C], 10, 1.0, "abc")
    assert tree.insert([B], 10, 1.0, "b")
    with tree.match([A, B, D]) as match:
        assert [node.handle for node in match.nodes] == ["a", "ab"] and match.num_tokens == 3
    assert covered(tree, B, A) == 1, "another order is another prefix"
    assert covered(tree, (1, 2, 3)) == 0, "the same tokens cut elsewhere are another path"
    assert covered(tree, C) == covered(tree) == 0
    assert not tree.insert([C, D], 10, 1.0), "nothing can stand behind what is not there"
    assert tree.insert([A], 99, 9.0, "other") and tree.used_bytes == 40


def test_leaves_go_first_and_the_least_worth_of_them() -> None:
    gone: list[str] = []
    tree = PrefixTree(30, gone.append)
    tree.insert([A], 10, 0.001, "a")
    tree.insert([A, B], 10, 5.0, "ab")
    tree.insert([C], 10, 1.0, "c")
    assert tree.insert([D], 10, 2.0, "d") and gone == ["c"], "a is worth less but carries ab"
    assert not tree.insert([C], 10, 1.0, "c"), "worth less than every leaf"
    assert tree.insert([B], 30, 1000.0, "b") and gone == ["c", "d", "ab", "a"] and tree.used_bytes == 30
    assert not tree.insert([C], 31, 1e9, "c")


def test_what_a_request_uses_stays() -> None:
    gone: list[str] = []
    tree = PrefixTree(20, gone.append)
    tree.insert([A], 10, 1.0, "a")
    tree.insert([A, B], 10, 1.0, "ab")
    match = tree.match([A, B])
    assert not tree.insert([C], 10, 1e6, "c") and gone == []
    match.close()
    match.close()
    assert tree.insert([C], 10, 1e6, "c") and gone == ["ab"]
    assert tree.insert([A, C], 10, 1e9, "ac") and gone == ["ab", "c"], "a parent is not evicted for its child"


def test_bad_input() -> None:
    for segments, num_bytes, seconds in (([], 1, 1.0), ([()], 1, 1.0), ([A, ()], 1, 1.0), ([A], -1, 1.0), ([A], 1, -1.0)):
        with pytest.raises(ValueError, match=r"segment|negative"):
            PrefixTree(10).insert(segments, num_bytes, seconds)
    with pytest.raises(ValueError, match="negative"):
        PrefixTree(-1)


PATHS = st.lists(st.sampled_from([A, B, C]), min_size=1, max_size=4)


@given(st.lists(st.tuples(st.sampled_from(["insert", "match", "hold", "release"]), PATHS, st.integers(0, 9)), max_size=60))
@settings(max_examples=150, deadline=None)
def test_against_a_dictionary_of_paths(steps: list[tuple[str, list[tuple[int, ...]], int]]) -> None:
    present: dict[tuple[tuple[int, ...], ...], int] = {}
    held: list[Match] = []

    def gone(path: tuple[tuple[int, ...], ...]) -> None:
        del present[path]  # fails if it goes twice

    tree = PrefixTree(25, gone)
    for what, path, number in steps:
        whole = tuple(path)
        if what == "insert":
            before = whole in present
            if tree.insert(path, number, float(number % 3), whole) and not before:
                present[whole] = number
        elif what == "release" and held:
            held.pop().close()
        else:
            match = tree.match(path)
            longest = max((n for n in range(len(path) + 1) if all(whole[: k + 1] in present for k in range(n))), default=0)
            assert len(match.nodes) == longest
            if what == "hold":
                held.append(match)
            else:
                match.close()
        assert tree.used_bytes == sum(present.values()) <= 25 and len(tree) == len(present)
        assert all(path[:-1] in present for path in present if len(path) > 1), "a node lost its parent"
        for match in held:
            assert all(node.handle in present for node in match.nodes), "what is held went"


def test_threads() -> None:
    tree = PrefixTree(25)
    wrong: list[str] = []

    def work() -> None:
        try:
            for turn in range(400):
                path = [A, B, C, D][turn % 3 :][: turn % 4 + 1]
                for end in range(1, len(path) + 1):
                    tree.insert(path[:end], 5, 1.0)
                with tree.match(path):
                    pass
        except Exception as error:  # noqa: BLE001 - reported below
            wrong.append(repr(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and tree.used_bytes <= 25
