"""Has a language model order a window of passages at a time. Knows the windows and two ways to read an order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

from rag.core import LM, Hit
from rag.rerankers.asking import LETTERS, Asking, Task
from rag.rerankers.lm_reranker import LMReranker, by_place
from rag.rerankers.permutation import KINDS, read_permutation
from rag.rerankers.report import Reranked, RerankReport, at_least, one_of

Read = Literal["first-label", "text"]


class ListwiseReranker(LMReranker):
    """Orders the first ``rank_end`` hits by windows of ``window`` passages, ``stride`` apart, from the back to the front.

    Sun et al., "Is ChatGPT Good at Search?" (EMNLP 2023); Pradeep et al., RankZephyr (2023). ``read``: ``first-label`` orders a window by
    the probability that an answer begins with each passage's letter, one token instead of a whole list (Reddy et al., FIRST, EMNLP
    2024), at most 26 passages; ``text`` has the model write ``[2] > [1] > ...`` and mends what it writes (``rag.rerankers.permutation``). Hits
    after ``rank_end`` follow in the order in which they came.
    """

    stage: ClassVar[str] = "listwise"

    def __init__(
        self,
        lm: LM,
        window: int = 20,
        stride: int = 10,
        rank_end: int = 100,
        read: Read = "first-label",
        max_passage_tokens: int = 300,
        batch_size: int = 16,
    ) -> None:
        super().__init__(lm, max_passage_tokens, batch_size)
        one_of(get_args(Read), read=read)
        at_least(2, window=window)
        at_least(1, stride=stride, rank_end=rank_end)
        if stride >= window:
            raise ValueError(f"stride={stride}: must be less than window={window}, or nothing passes from window to window")
        if read == "first-label" and window > len(LETTERS):
            raise ValueError(f"window={window}: read='first-label' names passages by letters, at most {len(LETTERS)}")
        self.window = window
        self.stride = stride
        self.rank_end = rank_end
        self.read = read

    def rerank_with_report(self, query: str, hits: Sequence[Hit]) -> Reranked:
        """All hits, best first. ``counts``: ``windows``; with ``read="text"`` also replies by kind (``permutation.KINDS``)."""
        if not hits:
            return Reranked([], RerankReport())
        num_ranked = min(self.rank_end, len(hits))
        asking = self._asking(self._task(min(self.window, num_ranked)), query, hits)
        order = list(range(len(hits)))
        counts: Counter[str] = Counter(dict.fromkeys(("windows", *(KINDS if self.read == "text" else ())), 0))
        for start, end in windows(num_ranked, self.window, self.stride):
            counts["windows"] += 1
            order[start:end] = self._ordered(asking, order[start:end], counts)
        return by_place(self.stage, hits, order, asking, counts)

    def _ordered(self, asking: Asking, group: list[int], counts: Counter[str]) -> list[int]:
        if self.read == "text":
            places, kind = read_permutation(asking.reply(group), len(group))
            counts[kind] += 1
            return [group[place] for place in places]
        ((*logprobs,),) = asking.label_logprobs([group], LETTERS[: len(group)])
        return [item for _, item in sorted(zip(logprobs, group, strict=True), key=lambda pair: -pair[0])]

    def _task(self, num_passages: int) -> Task:
        if self.read == "first-label":
            return Task(
                system="You order passages by how well they answer a question. Reply with their letters, the best first.",
                cue="Order the passages, the one that answers the question best first. Reply with letters only.",
                labels=LETTERS[:num_passages],
            )
        return Task(
            system="You order passages by how well they answer a question. Reply with their numbers, the best first, as in [2] > [1].",
            cue="Order all passages, the one that answers the question best first. Reply only with [number] > [number] > ...",
            labels=tuple(f"[{number}]" for number in range(1, num_passages + 1)),
            answer_tokens=8 * num_passages,
        )


def windows(num_hits: int, size: int, stride: int) -> list[tuple[int, int]]:
    """Half-open windows in the order in which they are ranked: from the end, each ``stride`` nearer to the front, which the last one reaches.

    >>> windows(45, 20, 10)
    [(25, 45), (15, 35), (5, 25), (0, 15)]
    """
    found = []
    end = num_hits
    while end > 1:  # with stride < size no window of one is left over
        start = max(0, end - size)
        found.append((start, end))
        if start == 0:
            break
        end -= stride
    return found
