"""Chooses hits as a set that is read in order, by what the whole set is worth. Knows rewards and a search; knows no index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from rag.core import LM, Hit, MultiVectorEncoder, Reranker, Tokenizer
from rag.rerankers.rewards import SetScore, by_late_interaction, by_lm, by_reranker
from rag.rerankers.set_search import SetSearch
from rag.rerankers.worth import check_limits, token_costs

RewardName = Literal["maxsim", "reranker", "lm"]
SearchName = Literal["greedy", "tree"]


class CoragSelector:
    """The ordered set of hits, within ``max_tokens`` tokens with contexts, that is worth most together (CORAG, arXiv 2411.00744).

    ``reward`` of a set: ``maxsim``, late interaction with all its tokens, by the ``token_encoder`` (each hit is encoded once, so
    sets cost next to nothing); ``reranker``, the score of the joined texts by an inner block that scores texts one by one; ``lm``,
    the chance that the set answers. ``search``: ``greedy`` adds what gains most until nothing does; ``tree`` goes on from there,
    order included, with upper confidence bounds (see ``rag.rerankers.set_search``), and never ends worse. ``max_rewards``: sets
    scored per question. ``width``: only so many of the best hits take part. ``cost_weight``: what a full budget costs, in units of
    the reward. ``explore``: how far the tree strays from what looks best. ``max_words``: where passages are cut for ``lm``. If not
    one hit fits, the best is kept alone.

    Greedy ``maxsim`` with the token vectors of the embedded encoder, which was not trained for late interaction, brought fewer of
    the answers of chunking_evaluation than the ranking itself (``bench/selection.py``). The other rewards want a reranker or a
    language model.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        token_encoder: MultiVectorEncoder | None = None,
        lm: LM | None = None,
        reranker: Reranker | None = None,
        reward: Literal["maxsim", "reranker", "lm"] = "maxsim",
        search: Literal["greedy", "tree"] = "greedy",
        max_tokens: int = 1600,
        width: int = 20,
        max_rewards: int = 200,
        cost_weight: float = 0.0,
        explore: float = 1.41,
        batch_size: int = 8,
        max_words: int = 300,
    ) -> None:
        for name, value, allowed in (("reward", reward, get_args(RewardName)), ("search", search, get_args(SearchName))):
            if value not in allowed:
                raise ValueError(f"{name}={value!r}: allowed: {', '.join(allowed)}")
        parts = {"maxsim": ("token_encoder", token_encoder), "reranker": ("reranker", reranker), "lm": ("lm", lm)}
        part, given = parts[reward]
        if given is None:
            raise ValueError(f"reward={reward!r}: there is no {part}")
        check_limits(max_tokens=max_tokens, width=width, max_rewards=max_rewards, batch_size=batch_size, max_words=max_words)
        for name, number in (("cost_weight", cost_weight), ("explore", explore)):
            if number < 0:
                raise ValueError(f"{name}={number}: must be at least 0")
        self.tokenizer = tokenizer
        self.token_encoder = token_encoder
        self.lm = lm
        self.reranker = reranker
        self.reward: RewardName = reward
        self.search: SearchName = search
        self.max_tokens = max_tokens
        self.width = width
        self.max_rewards = max_rewards
        self.cost_weight = cost_weight
        self.explore = explore
        self.batch_size = batch_size
        self.max_words = max_words

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """The hits of the set in its order, all with the reward of the set as their score."""
        if not hits:
            return []
        hits = hits[: self.width]
        search = SetSearch(
            self._score(query, hits),
            token_costs(self.tokenizer, hits),
            self.max_tokens,
            cost_weight=self.cost_weight,
            explore=self.explore,
            max_rewards=self.max_rewards,
            batch_size=self.batch_size,
        )
        chosen = search.greedy() if self.search == "greedy" else search.tree()
        reward = search.rewards[chosen] if chosen else hits[0].score
        return [hits[number].placed("corag", reward, rank) for rank, number in enumerate(chosen or (0,), start=1)]

    def _score(self, query: str, hits: Sequence[Hit]) -> SetScore:
        if self.reward == "lm":
            assert self.lm is not None  # see __init__
            return by_lm(self.lm, query, hits, self.max_words)
        if self.reward == "reranker":
            assert self.reranker is not None
            return by_reranker(self.reranker, query, hits)
        assert self.token_encoder is not None
        return by_late_interaction(self.token_encoder, query, hits)
