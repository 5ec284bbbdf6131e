"""The process that parses: every way it can go wrong costs one file, and nothing outlives the parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.core import Element, Span
from rag.errors import EncryptedFile, FileTooLarge, RagError, ReadError
from rag.read import wire
from rag.read.draft import Draft, Limits, TextBuilder
from rag.read.files import RawFile, hash_of, open_file
from rag.read.media import READERS, Reader
from rag.read.process import ParserProcess
from rag.read.worker import FileRead, ReadPool, read_bytes, read_file
from tests.fakes import heed_interrupts

READER_MODULE = """
import ctypes, json, os, signal, struct, sys, threading, time
from rag.core import Element, Span
from rag.errors import EncryptedFile, MissingExtra, ReadError
from rag.read.draft import Draft, TextBuilder

def good(data, limits):
    builder = TextBuilder()
    builder.add("Title", "heading", level=1)
    builder.add(data.decode())
    builder.add_table([["a", "b"], ["1", "2"]], num_header_rows=1, page=2, bbox=(0, 1, 2.5, 3), source="Sheet1!A1:B2")
    return builder.draft({"title": "Title", "list": [1, None, {"x": 0.5}]})

def own_pipes():
    import stat
    for fd in range(3, 60):
        try:
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                yield fd
        except OSError:
            pass

def shout(message):
    for fd in own_pipes():
        try:
            os.write(fd, message)
        except OSError:
            pass

def segfault(data, limits): ctypes.string_at(0)
def hang(data, limits): time.sleep(1000)
def spin(data, limits):
    while True: pass
def killed(data, limits): os.kill(os.getpid(), signal.SIGKILL)
def leaves(data, limits): os._exit(3)
def eats(data, limits): return Draft(str(len(bytearray(1 << 30))))
def nibbles(data, limits):
    hoard = []
    while True: hoard.append(bytearray(1 << 20))
def prints(data, limits):
    for _ in range(2000):
        print("x" * 1000); os.write(1, b"y" * 1000); os.write(2, b"z" * 1000)
    return good(data, limits)
def garbage(data, limits):
    shout(b"garbage, garbage, garbage, garbage")
    time.sleep(1000)
def boasts(data, limits):
    shout(struct.pack(">4sQQ", b"rag1", 1 << 20, 1 << 60))
    time.sleep(1000)
def floods(data, limits):
    while True: shout(b"rag1" * 10000)
def lies(data, limits):
    body = json.loads(data)
    text = json.dumps(body["json"]).encode()
    shout(struct.pack(">4sQQ", b"rag1", len(text), len(body["text"])) + text + body["text"].encode())
    time.sleep(1000)
def forks(data, limits):
    if os.fork() == 0:
        time.sleep(1000)
    os._exit(4)
def forks_and_tells(data, limits):
    if os.fork() == 0:
        time.sleep(1000)
    return Draft(str(os.getpgid(0)))
def delayed_crash(data, limits):
    threading.Thread(target=lambda: (time.sleep(0.3), ctypes.string_at(0)), daemon=True).start()
    return good(data, limits)
def delayed_shout(data, limits):
    threading.Thread(target=lambda: (time.sleep(0.05), shout(b"rag1" * 100)), daemon=True).start()
    return good(data, limits)
def raises(data, limits): return {}["\\x1b[31m no such\\nkey"]
def refuses(data, limits): raise ReadError("", "is not to my taste")
def locked(data, limits): raise EncryptedFile("", "asks for a password")
def lacks(data, limits): raise MissingExtra("rapidocr", "ocr", "reading images")
def deep(data, limits): return deep(data, limits)
def writes(data, limits):
    with open(data.decode(), "wb") as file:
        file.write(b"mine")
def opens(data, limits): return Draft(str(len([open(os.devnull) for _ in range(100)])))
def environment(data, limits): return Draft(" ".join(sorted(os.environ)))
def modules(data, limits): return Draft(" ".join(sorted(sys.modules)))
def pid(data, limits): return Draft(str(os.getpid()))
def slow_first(data, limits):
    time.sleep(0.3 if data == b"slow" else 0)
    return Draft(data.decode())
def huge(data, limits): return Draft("x" * (limits.max_text_chars + 1))
def uncanonical(data, limits): return Draft("a\\x1b[31mb")
def overlapping(data, limits):
    return Draft("abc", (Element(Span(0, 2), "paragraph"), Element(Span(1, 3), "paragraph")))
def beyond(data, limits): return Draft("abc", (Element(Span(0, 4), "paragraph"),))
def surrogate(data, limits): return Draft("abc", (), {"title": "a\\ud800b"})
def not_a_number(data, limits): return Draft("abc", (), {"x": float("nan")})
def not_json(data, limits): return Draft("abc", (), {"x": object()})
"""
NAMES = [
    line.split("(")[0].removeprefix("def ")
    for line in READER_MODULE.splitlines()
    if "(data, limits)" in line and line[:4] == "def "
]
SUFFIXES = {name: f".test{number}" for number, name in enumerate(NAMES)}
READERS_HERE = {**READERS, **{SUFFIXES[name]: Reader("test/" + name, f"readers_of_test:{name}") for name in NAMES}}
LIMITS = Limits(memory_bytes=512 * 2**20, seconds=20, max_text_chars=10**7)
SMALL = Limits(memory_bytes=256 * 2**20, seconds=60, max_text_chars=10**6)


@pytest.fixture(autouse=True)
def _readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "readers_of_test.py").write_text(READER_MODULE)
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("readers_of_test", None)


def raw(name: str, content: bytes = b"hello") -> RawFile:
    return RawFile(Path(name + SUFFIXES[name]), name, content, hash_of(content), 7)


def read_all(names: list[str], limits: Limits = LIMITS) -> list[FileRead]:
    with ReadPool(limits, num_workers=1, readers=READERS_HERE) as pool:
        return list(pool.read([raw(name) for name in names]))


def error_of(result: FileRead) -> ReadError:
    assert result.error is not None and result.draft is None
    assert result.error.path == str(result.path)
    return result.error


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(pid: int, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not is_alive(pid)


def test_a_draft_comes_back_as_it_was_made() -> None:
    with ReadPool(LIMITS, readers=READERS_HERE) as pool, ReadPool(LIMITS, readers=READERS_HERE, sandbox=False) as here:
        result = next(pool.read([raw("good")]))
        assert result.draft == here.parse(raw("good"))
        assert result.draft is not None and result.draft.elements[2].rows == (Span(14, 19), Span(20, 25))
        assert result.draft.elements[2].bbox == (0.0, 1.0, 2.5, 3.0)
        assert (result.file_hash, result.num_bytes, result.mtime_ns, result.media_type) == (hash_of(b"hello"), 5, 7, "test/good")
        document = result.document(principals=("me",), meta={"tag": 1})
        assert document.meta == {"title": "Title", "list": [1, None, {"x": 0.5}], "media_type": "test/good", "tag": 1}
        assert document.source == "good" and document.principals == ("me",)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("segfault", ReadError, "the parser died (signal 11, SIGSEGV)"),
        ("killed", ReadError, "the parser died (signal 9, SIGKILL, perhaps for want of memory)"),
        ("leaves", ReadError, "the parser died (exit status 3)"),
        ("forks", FileTooLarge, "takes longer than 1.5 seconds to read"),
        ("hang", FileTooLarge, "takes longer than 1.5 seconds to read"),
        ("spin", FileTooLarge, "takes longer than 1.5 seconds to read"),
        ("floods", ReadError, "the parser failed: its answer is not one of ours"),
        ("garbage", ReadError, "the parser failed: its answer is not one of ours"),
        ("boasts", ReadError, "the parser failed: its answer is not one of ours"),
        ("eats", FileTooLarge, "takes more than 256 MiB of memory to read"),
        ("nibbles", FileTooLarge, "takes more than 256 MiB of memory to read"),
        ("huge", FileTooLarge, "holds 1000001 characters; the limit max_text_chars is 1000000"),
        ("raises", ReadError, "the parser failed: KeyError: '\\x1b[31m no such\\nkey'"),
        ("refuses", ReadError, "is not to my taste"),
        ("locked", EncryptedFile, "asks for a password"),
        ("lacks", ReadError, "reading images needs the package 'rapidocr': pip install 'ragstone[ocr]'"),
        ("deep", ReadError, "is nested too deeply"),
        ("opens", ReadError, "the parser failed: OSError: [Errno 24] Too many open files: '/dev/null'"),
        ("uncanonical", ReadError, "the text is not canonical"),
        ("overlapping", ReadError, "elements overlap or are out of order"),
        ("beyond", ReadError, "an element ends after the text"),
        ("not_a_number", ReadError, "the parser failed: ValueError"),
        ("not_json", ReadError, "the parser failed: TypeError"),
    ],
)
def test_a_bad_parser_costs_one_file(name: str, kind: type[ReadError], words: str) -> None:
    limits = replace(SMALL, seconds=1.5) if "seconds" in words else SMALL
    before, bad, after = read_all(["good", name, "good"], limits)
    assert before.draft == after.draft and before.draft is not None
    assert type(error_of(bad)) is kind
    assert words in error_of(bad).reason


def test_what_a_parser_prints_goes_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    assert [result.error for result in read_all(["prints", "good"])] == [None, None]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["delayed_crash", "delayed_shout"])
def test_what_a_file_leaves_behind_is_not_blamed_on_the_next(name: str) -> None:
    with ReadPool(LIMITS, num_workers=1, readers=READERS_HERE) as pool:
        for wait in (0.0, 0.4):
            pool.parse(raw(name))
            time.sleep(wait)
            for _ in range(2):
                assert pool.parse(raw("slow_first", b"slow")).text == "slow"


def test_a_lone_surrogate_in_the_metadata_does_not_reach_the_index() -> None:
    [result] = read_all(["surrogate"])
    assert result.draft is not None and result.draft.meta == {"title": "a?b"}


def test_the_parser_cannot_write(tmp_path: Path) -> None:
    with ReadPool(LIMITS, readers=READERS_HERE) as pool, pytest.raises(ReadError, match="File too large"):
        pool.parse(raw("writes", str(tmp_path / "out").encode()))
    assert not (tmp_path / "out").exists() or (tmp_path / "out").stat().st_size == 0


def test_the_parser_sees_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "secret")
    [result] = read_all(["environment"])
    assert result.draft is not None and "PATH" in result.draft.text and "SOME_API_KEY" not in result.draft.text


def test_the_parser_process_is_light() -> None:
    [result] = read_all(["modules"])
    assert result.draft is not None
    assert not {"torch", "numpy", "lxml", "pydantic", "transformers"} & set(result.draft.text.split())


def test_a_process_serves_many_files_and_is_then_replaced() -> None:
    with ReadPool(LIMITS, num_workers=1, readers=READERS_HERE, files_per_worker=3) as pool:
        pids = [pool.parse(raw("pid")).text for _ in range(6)]
    assert pids[0] == pids[1] == pids[2] != pids[3] == pids[4] == pids[5]
    assert all(wait_until_gone(int(pid)) for pid in pids)


def test_results_come_in_order_from_several_processes() -> None:
    contents = [b"slow", *(str(number).encode() for number in range(20))]
    with ReadPool(LIMITS, num_workers=2, readers=READERS_HERE) as pool:
        texts = [result.document().text for result in pool.read([raw("slow_first", content) for content in contents])]
    assert texts == [content.decode() for content in contents]


def test_reading_is_lazy_and_reads_a_few_files_ahead() -> None:
    num_taken = 0

    def files() -> Iterator[RawFile]:
        nonlocal num_taken
        for _ in range(1000):
            num_taken += 1
            yield raw("slow_first", b"slow")

    with ReadPool(LIMITS, num_workers=1, readers=READERS_HERE) as pool:
        results = pool.read(files())
        assert num_taken == 0
        next(results)
        assert num_taken <= 4
        results.close()  # type: ignore[attr-defined]


def test_errors_pass_through_in_their_place(tmp_path: Path) -> None:
    with ReadPool(LIMITS, readers=READERS_HERE) as pool:
        files: list[Path | RawFile | ReadError] = [raw("good"), ReadError("x", "why"), tmp_path / "missing.txt", raw("good")]
        results = list(pool.read(files))
    assert [result.error and result.error.reason for result in results] == [None, "why", "no such file", None]
    assert results[1].file_hash == results[2].file_hash == ""


def test_large_files_and_large_texts_cross_the_pipe() -> None:
    content = b"0123456789abcdef" * 2**18  # 4 MiB
    with ReadPool(LIMITS, readers=READERS_HERE) as pool:
        assert pool.parse(raw("good", content)).text.split("\n\n")[1] == content.decode()


def test_closing_ends_a_parser_that_hangs() -> None:
    pool = ReadPool(LIMITS, num_workers=1, readers=READERS_HERE)
    pid = int(pool.parse(raw("pid")).text)
    future = pool._submit(raw("hang"))
    time.sleep(0.2)
    start = time.monotonic()
    pool.close()
    assert time.monotonic() - start < 5 and not is_alive(pid)
    assert future.done()


SCRIPT = """
import sys, threading, time
from pathlib import Path
from rag.read.files import RawFile
from rag.read.media import Reader
from rag.read.worker import ReadPool
def raw(suffix): return RawFile(Path("a" + suffix), "a", b"x", "", 0)
with ReadPool(num_workers=1, readers={".hang": Reader("", "readers_of_test:hang"), ".pid": Reader("", "readers_of_test:pid")}) as pool:
    print(pool.parse(raw(".pid")).text, flush=True)
    pool.parse(raw(".hang"))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_children_do_not_outlive_the_parent(number: int) -> None:
    paths = os.pathsep.join(path for path in sys.path if path)
    parent = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
        preexec_fn=heed_interrupts,  # noqa: PLW1509 - no thread of this process holds a lock that matters to it
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(0.3)  # the second file hangs by now
    assert is_alive(pid)
    parent.send_signal(number)
    parent.communicate(timeout=20)
    assert wait_until_gone(pid)


def test_a_process_that_does_not_start_is_no_fault_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag.read.process._BOOT", "import no_such_module")
    with pytest.raises(RagError, match="does not start: ModuleNotFoundError"):
        ParserProcess()


def test_the_working_folder_is_not_searched_for_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('a trap')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert read_all(["good"])[0].error is None


def test_processes_that_a_parser_started_end_with_it() -> None:
    [result] = read_all(["forks_and_tells"])
    assert result.draft is not None
    group = int(result.draft.text)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
            time.sleep(0.02)
        except ProcessLookupError:
            return
    raise AssertionError("a process of the parser is still there")


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="num_workers must be at least 1, not 0"):
        ReadPool(num_workers=0)


def test_the_simple_face(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("One.\n\nTwo.")
    document = read_file(path)
    assert document == read_file(path, sandbox=False) == read_file(str(path))
    assert document.source == path.resolve().as_posix() and "Two." in document.text
    assert read_file(path, source="a.txt").source == "a.txt"
    upload = read_bytes(b"One.\n\nTwo.", "../../etc/a.txt")
    assert upload.text == document.text and upload.source == "../../etc/a.txt"
    with pytest.raises(FileTooLarge, match=r"^big.txt: .*max_file_bytes is 3"):
        read_bytes(b"long", "big.txt", Limits(max_file_bytes=3))


def test_open_file_tells_versions_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one")
    first = open_file(path)
    path.write_bytes(b"two")
    second = open_file(path)
    assert first.file_hash == hash_of(b"one") != second.file_hash and first.source == second.source
    assert (second.num_bytes, second.mtime_ns) == (3, path.stat().st_mtime_ns)


# --- the wire ---

TEXT = "Title\n\none two\n\na | b\n1 | 2"
GOOD: dict[str, object] = {"elements": [[0, 5, "heading", 1, None, None, [], 0, None]], "meta": {}}


def decoded(content: object, text: str = TEXT) -> Draft:
    _, json_bytes, blob = wire.message(content, text.encode())
    return wire.decode(json_bytes, blob, LIMITS)


def test_a_lawful_message_is_taken() -> None:
    assert decoded(GOOD) == Draft(TEXT, (Element(Span(0, 5), "heading", 1),), {})


@pytest.mark.parametrize(
    "element",
    [
        [],
        None,
        "x",
        [0, 5, "heading", 1, None, None, [], 0],
        [0, 5, "spell", 1, None, None, [], 0, None],
        [0, 5, ["heading"], 1, None, None, [], 0, None],
        [0, 5.0, "heading", 1, None, None, [], 0, None],
        [False, True, "heading", 1, None, None, [], 0, None],
        [-1, 5, "heading", 1, None, None, [], 0, None],
        [5, 5, "heading", 1, None, None, [], 0, None],
        [0, 500, "heading", 1, None, None, [], 0, None],
        [0, 5, "heading", 7, None, None, [], 0, None],
        [0, 5, "heading", "1", None, None, [], 0, None],
        [0, 5, "heading", 1, 0, None, [], 0, None],
        [0, 5, "heading", 1, None, [1, 2, 3], [], 0, None],
        [0, 5, "heading", 1, None, [1, 2, 3, "4"], [], 0, None],
        [0, 5, "heading", 1, None, {"a": 1}, [], 0, None],
        [0, 5, "table", None, None, None, [0, 6], 0, None],
        [0, 5, "table", None, None, None, [0, 3, 2, 5], 0, None],
        [0, 5, "table", None, None, None, [0], 0, None],
        [0, 5, "table", None, None, None, [0, 5], 2, None],
        [0, 5, "table", None, None, None, [0, 5], -1, None],
        [0, 5, "heading", 1, None, None, [], 0, 3],
        [0, 5, "heading", 1, None, None, [], 0, {}],
    ],
)
def test_an_unlawful_element_is_refused(element: object) -> None:
    with pytest.raises(wire.Garbled):
        decoded({"elements": [element], "meta": {}})


@pytest.mark.parametrize(
    "json_bytes",
    [
        b"", b"[]", b"null", b"3", b"{}", b'{"elements":[]}', b'{"elements":null,"meta":{}}', b'{"elements":[],"meta":[]}',
        b'{"elements":[],"meta":{"x":NaN}}', b'{"elements":[],"meta":{"x":1e999}}', b'{"elements":[],"meta":{"x":"\\ud800"}}',
        b'{"elements":[],"meta":{"\\udfff":1}}', b'{"elements":[],"meta":' + b'{"x":' * 40 + b"1" + b"}" * 40 + b"}",
        b"[" * 100_000, b'{"elements":[],"meta":{"x":"\xff"}}', b'{"error":"SystemExit","reason":"x"}', b'{"error":"ReadError","reason":3}',
        b'{"error":["ReadError"],"reason":"x"}', b'{"elements":[],"meta":{"x":' + b"9" * 10_000 + b"}}",
    ],
    ids=lambda value: repr(value[:40]),
)  # fmt: skip
def test_unlawful_json_is_refused(json_bytes: bytes) -> None:
    with pytest.raises(wire.Garbled):
        wire.decode(json_bytes, b"text", LIMITS)


@given(st.binary(max_size=60), st.binary(max_size=10))
def test_no_bytes_raise_anything_else(json_bytes: bytes, blob: bytes) -> None:
    for text in (json_bytes, b'{"elements":[[' + json_bytes + b']],"meta":{}}', b'{"elements":[],"meta":' + json_bytes + b"}"):
        try:
            wire.decode(text, blob, LIMITS)
        except (wire.Garbled, ReadError):
            pass


@given(
    st.lists(st.text(max_size=20), max_size=5),
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
        max_size=3,
    ),
)
def test_whatever_the_builder_makes_crosses_unchanged(texts: list[str], meta: dict[str, object]) -> None:
    builder = TextBuilder()
    for number, text in enumerate(texts):
        builder.add(text, page=number + 1)
        builder.add_table([[text, "x"], ["y", text]], source=f"line {number}")
    draft = builder.draft(meta)
    _, json_bytes, blob = wire.encode(draft, LIMITS)
    assert wire.decode(json_bytes, blob, LIMITS) == draft


def test_reasons_are_one_short_printable_line() -> None:
    line = wire.one_line("a\n\x1b[31m\tb\u202e" + "c" * 3000)
    assert line.startswith("a [31m b c") and len(line) == 500 and line.isprintable()


@pytest.mark.parametrize(("num_cpus", "num_workers"), [(1, 1), (2, 1), (4, 3), (9, 8), (64, 8)])
def test_workers_suit_the_machine(monkeypatch: pytest.MonkeyPatch, num_cpus: int, num_workers: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(num_cpus)), raising=False)
    with ReadPool(LIMITS) as pool:
        assert pool.num_workers == num_workers
