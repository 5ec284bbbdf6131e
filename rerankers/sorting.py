"""Finds the best of a list when all one can do is to ask for the best of a few. Knows numbers and a question; no model, no text.

``best(group)`` names the best item of a group of two or more; it must be a pure function of the group. Items are 0, 1, ... in
the order in which they came. All functions return the k best, best first, then the rest in the order in which it came.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Best = Callable[[Sequence[int]], int]


def heap_top(num_items: int, k: int, num_children: int, best: Best) -> list[int]:
    """Selection by a heap in which every node has ``num_children`` children; a group is a node and its children.

    With two children and groups of two: pairwise heapsort (Qin et al., 2023). With more and whole groups: setwise heapsort
    (Zhuang et al., SIGIR 2024).
    """
    heap = list(range(num_items))

    def sift(top: int, size: int) -> None:
        while children := range(num_children * top + 1, min(num_children * (top + 1) + 1, size)):
            winner = best([heap[top], *(heap[child] for child in children)])
            if winner == heap[top]:
                return
            place = next(child for child in children if heap[child] == winner)
            heap[top], heap[place] = heap[place], heap[top]
            top = place

    for parent in reversed(range((num_items - 2) // num_children + 1)):
        sift(parent, num_items)
    chosen: list[int] = []
    for size in range(num_items, 0, -1):
        chosen.append(heap[0])
        if len(chosen) == k:
            break
        heap[0] = heap[size - 1]
        sift(0, size - 1)
    return _then_the_rest(chosen, num_items)


def bubble_top(num_items: int, k: int, group_size: int, best: Best) -> list[int]:
    """``k`` passes from the back to the front; each carries the best of what is left forward, groups share one item.

    A pass over ``m`` items asks ``ceil((m - 1) / (group_size - 1))`` times. Groups of two: the sliding window of pairwise ranking
    (Qin et al., 2023); larger ones: setwise bubble sort (Zhuang et al., SIGIR 2024).
    """
    order = list(range(num_items))
    for front in range(min(k, num_items - 1)):
        end = num_items
        while end - front > 1:
            start = max(front, end - group_size)
            place = order.index(best(order[start:end]))
            order.insert(start, order.pop(place))  # the others keep their order
            end = start + 1
    return _then_the_rest(order[:k], num_items)


def insertion_top(num_items: int, k: int, num_children: int, best: Best) -> list[int]:
    """Trusts the order that came: sorts the first ``k`` by a heap, then lets groups of the others challenge the last of them.

    A challenger that wins takes its place by binary search, and the last one falls out. ``ceil((n - k) / num_children)`` groups if no
    challenger wins. After the idea of setwise insertion (Podolak et al., SIGIR 2025).
    """
    top = heap_top(min(k, num_items), k, num_children, best)
    waiting = list(range(len(top), num_items))
    while waiting:
        group = [top[-1], *waiting[:num_children]]
        winner = best(group)
        if winner == top[-1]:
            del waiting[:num_children]
            continue
        waiting.remove(winner)
        low, high = 0, len(top) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if best([top[middle], winner]) == winner else (middle + 1, high)
        top.insert(low, winner)
        top.pop()
    return _then_the_rest(top, num_items)


def _then_the_rest(chosen: Sequence[int], num_items: int) -> list[int]:
    taken = set(chosen)
    return [*chosen, *(item for item in range(num_items) if item not in taken)]
