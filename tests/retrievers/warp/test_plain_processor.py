"""A processor without VNNI, or without AVX2, takes another way through the same compiled functions and finds the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from rag.kernels.choose import processor_has

SCRIPT = """
    import json
    import sys

    import numpy as np

    from rag.kernels import warp_score_lanes as lanes

    lanes.product_way = lambda: sys.argv[1]  # before anything is compiled, or imports it by name

    from rag.retrievers.warp.index import WarpIndex
    from tests.retrievers.warp.made import documents

    class Ready:
        dim = 48
        fingerprint = "ready"
        encode_documents = encode_queries = None

    given = documents(np.random.default_rng(0), 260, 48)
    index = WarpIndex(Ready(), exact_below=0, num_threads=1)
    reader = index.reader([index.build_vectors(np.arange(260), given)], np.ones(260, np.bool_))
    asked = [given[3][:5], np.concatenate(given[8:14])[:40]]
    found = reader.search_vectors(asked, 12)
    print(json.dumps([[matches.keys.tolist(), matches.scores.tolist()] for matches in found]))
"""


WAYS = ["plain"] + [way for way, feature in (("pairs", "avx2"), ("vnni", "avx512vnni")) if processor_has(feature)]


@pytest.mark.skipif(len(WAYS) == 1, reason="there is only one way on this processor, and the other tests take it")
def test_all_ways_give_the_same_results(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[3])
    answers = []
    for way in WAYS:
        # Compiled functions are cached by processor, not by a name that was replaced: each way needs a cache of its own.
        environment = os.environ | {"PYTHONPATH": root, "NUMBA_CACHE_DIR": str(tmp_path / way)}
        command = [sys.executable, "-c", textwrap.dedent(SCRIPT), way]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout))
    for answer in answers[1:]:
        for (keys, scores), (wanted_keys, wanted) in zip(answer, answers[0], strict=True):
            assert keys == wanted_keys
            np.testing.assert_allclose(scores, wanted, rtol=1e-5)
