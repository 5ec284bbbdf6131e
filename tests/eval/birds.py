"""A tiny BEIR collection: documents with and without titles and texts, judged and unjudged questions."""

import json
from pathlib import Path

CORPUS = [
    {"_id": "duck", "title": "Ducks", "text": "Ducks swim.\n\nDucks eat leaves.", "metadata": {}},
    {"_id": "goose", "title": "Geese", "text": "Geese fly south."},
    {"_id": "untitled", "title": "", "text": "Swans are white."},
    {"_id": "title only", "title": "Coots", "text": ""},
    {"_id": "empty", "title": "", "text": " "},
]
QUERIES = [
    {"_id": "q1", "text": "what do ducks eat"},
    {"_id": "q2", "text": "where do geese fly"},
    {"_id": "q3", "text": "colour of swans", "extra": 1},
    {"_id": "q4", "text": "nobody judged this"},
]
QRELS = "query-id\tcorpus-id\tscore\nq1\tduck\t2\nq1\tgoose\t1\nq2\tgoose\t1\nq3\tuntitled\t0\nq3\tgone\t0\n"


def write_birds(folder: Path) -> Path:
    """The collection as its four files in ``folder / "birds"``."""
    (folder / "birds" / "qrels").mkdir(parents=True)
    (folder / "birds" / "corpus.jsonl").write_text("".join(json.dumps(record) + "\n" for record in CORPUS))
    (folder / "birds" / "queries.jsonl").write_text("".join(json.dumps(record) + "\n" for record in QUERIES))
    (folder / "birds" / "qrels" / "test.tsv").write_text(QRELS)
    (folder / "birds" / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq4\tduck\t1\n")
    return folder / "birds"
