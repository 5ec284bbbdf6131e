"""When loading is worth it: until it was measured reuse is tried, then the faster of the two is taken and the reason given."""

from __future__ import annotations

import pytest

from rag.kvcache.engine import KVEngine
from rag.kvcache.methods import method
from rag.kvcache.plan import Plan
from rag.kvcache.store import KVStore
from rag.kvcache.worth import Worth
from tests.kvcache import prompts


class Loadable:
    def __init__(self, tier: str, num_bytes: int) -> None:
        self.tier, self.num_bytes = tier, num_bytes


def plan() -> Plan:
    prompt = prompts.prompt()
    return prompts.plan(prompt, prompts.alone("llama", prompt))


def test_nothing_measured_means_reuse() -> None:
    worth = Worth(0.15)
    assert worth.verdict(plan(), [Loadable("disk", 1000)]) == (True, "reused: this machine's rates are not measured yet")
    assert worth.compute_seconds(10) is None and worth.load_seconds("disk", 10) is None


@pytest.mark.parametrize(("bytes_per_second", "reuse"), [(1e9, True), (1e3, False)])
def test_the_faster_way_is_taken_and_said(bytes_per_second: float, reuse: bool) -> None:
    worth = Worth(0.15)
    worth.saw_compute(1000, 1.0)
    worth.saw_load("disk", int(bytes_per_second), 1.0)
    verdict = worth.verdict(plan(), [Loadable("disk", 100_000)])
    assert verdict.reuse == reuse and "disk" in verdict.why
    assert worth.load_seconds("disk", 1000) == pytest.approx(1000 / bytes_per_second)


def test_passes_of_a_few_rows_and_empty_loads_teach_nothing() -> None:
    worth = Worth(0.15)
    worth.saw_compute(8, 9.0)
    worth.saw_load("ram", 0, 1.0)
    assert worth.compute_seconds(1) is None and worth.load_seconds("ram", 1) is None


def test_an_engine_on_a_slow_disk_computes_everything_and_its_trace_says_so() -> None:
    prompt = prompts.prompt()
    engine = KVEngine(prompts.decoder("llama"), KVStore(ram_bytes=1 << 24), "tiny", method("first-k"), 0.3)
    engine.warm(prompt.prefix, [segment.ids for segment in prompt.segments[1:-1]])
    engine.worth.saw_compute(1000, 0.001)
    engine.worth.saw_load("ram", 1, 1.0)
    trace = engine.prefill(prompt).trace
    assert trace.num_exact == trace.num_reused == 0 and trace.num_computed == len(prompt)
    assert any(reason.startswith("computed in full: loading from ram") for reason in trace.reasons)


def test_a_disk_is_not_given_up_for_good() -> None:
    worth, loads = Worth(0.15), [Loadable("disk", 100_000)]
    worth.saw_compute(1000, 1.0)
    worth.saw_load("disk", 1, 1.0)
    assert [worth.verdict(plan(), loads).reuse for _ in range(32)] == ([False] * 15 + [True]) * 2
