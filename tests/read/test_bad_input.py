"""One folder of bad files: each is reported by name with a reason, and everything else is read."""

import errno
import io
import os
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from rag.errors import EncryptedFile, FileTooLarge, ReadError, UnknownType
from rag.read.draft import Limits
from rag.read.files import open_file, source_of
from rag.read.media import READERS, Reader, describe, may_read, reader_for, suffix_of
from rag.read.walk import walk
from rag.read.worker import FileRead, ReadPool

LIMITS = Limits(
    max_file_bytes=32 * 2**20, max_expanded_bytes=16 * 2**20, max_text_chars=10**7, memory_bytes=2**30, seconds=30
)  # fmt: skip
CONTENT_TYPES = '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>'
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


def office(folder: str, **parts: bytes) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", CONTENT_TYPES)
        archive.writestr(f"{folder}/main.xml", b"<x/>")
        for name, content in parts.items():
            archive.writestr(f"{folder}/{name}" + ("" if "." in name else ".xml"), content)
    return raw.getvalue()


def zip_of_a_folder() -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr("word/list.txt", "a")
    return raw.getvalue()


def pdf(extra: str = "", page: str = "BT /F1 24 Tf 72 700 Td (Hello from a page) Tj ET") -> bytes:
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(page)} >>\nstream\n{page}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        "<< /Filter /Standard /V 1 /R 2 /P -4 /O <" + "11" * 32 + "> /U <" + "22" * 32 + "> >>",
    ]
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    trailer = f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R {extra} >>\nstartxref\n{len(out)}\n%%EOF\n"
    return out + f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}".encode() + trailer.encode()


ENTITY_BOMB = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a0 "lol">' + b"".join(
    f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">'.encode() for n in range(1, 12)
) + b"]><article><p>&a11;</p></article>"  # fmt: skip


BAD: dict[str, tuple[bytes, type[ReadError], str]] = {
    "page.pdf": (b"<!DOCTYPE html><html><body>Please log in</body></html>", ReadError, "says .pdf but holds HTML"),
    "text.docx": (b"plain words", ReadError, "says .docx but holds plain text"),
    "zip.docx": (office("visio"), ReadError, "says .docx but holds a zip archive of another kind"),
    "folder.docx": (zip_of_a_folder(), ReadError, "says .docx but holds a zip archive of another kind"),
    "cut.docx": (
        office("word", filler=os.urandom(2000))[:1500],
        ReadError,
        "says .docx but holds a zip archive that is damaged or cut short",
    ),
    "old.docx": (OLE, ReadError, "says .docx but holds an old Office file"),
    "locked.docx": (OLE + "EncryptedPackage".encode("utf-16-le"), EncryptedFile, "password"),
    "old.doc": (OLE, UnknownType, "save it as .docx"),
    "program.txt": (b"\x7fELF\x02\x01\x01" + bytes(500), ReadError, "says .txt but holds a program"),
    "noise.md": (bytes(range(256)) * 8, ReadError, "says .md but holds binary data"),
    "gif.png": (b"GIF89a" + bytes(20), ReadError, "says .png but holds a GIF image"),
    "data.xyz": (b"words", UnknownType, "nothing here reads .xyz files (this one holds plain text); read are .csv .docx"),
    "empty.pdf": (b"", ReadError, "says .pdf but holds nothing (0 bytes)"),
    "empty.txt": (b"", ReadError, "no text"),
    "blank.txt": (b" \n\n\t", ReadError, "no text"),
    "cut.pdf": (pdf()[:60], ReadError, ""),
    "locked.pdf": (
        pdf("/Encrypt 6 0 R /ID [<00112233445566778899aabbccddeeff> <00112233445566778899aabbccddeeff>]"),
        EncryptedFile,
        "password",
    ),
    "bomb.docx": (office("word", document=b"<w>" + b" " * (64 * 2**20)), FileTooLarge, ""),
    "bomb.xml": (ENTITY_BOMB, ReadError, ""),
    "large.txt": (b"x" * (33 * 2**20), FileTooLarge, "is 33 MiB; the limit max_file_bytes is 32 MiB"),
    "line.txt": (b"x" * (20 * 2**20), FileTooLarge, ""),
    "deep.json": (b"[" * 1_000_000, ReadError, ""),
    "cut.json": (b'{"a": [1, 2', ReadError, ""),
}
GOOD: dict[str, tuple[bytes, str]] = {
    "aaa.txt": (b"First of all.", "First of all."),
    "latin.txt": ("Gr\u00fc\u00dfe aus M\u00fcnchen, sch\u00f6ne Tage".encode("latin-1"), "M"),
    "wide.txt": ("Wide words".encode("utf-16"), "Wide words"),
    "page.xhtml": (b"<html><body><p>A paragraph.</p></body></html>", "A paragraph."),
    "really_a_pdf.txt": (pdf(), "Hello from a page"),
    "really_a.pdf": (pdf(), "Hello from a page"),
    "zzz.md": (b"# Last\n\nof all", "of all"),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FileRead]:
    root = tmp_path_factory.mktemp("bad")
    contents = {name: bad[0] for name, bad in BAD.items()} | {name: good[0] for name, good in GOOD.items()}
    for name, content in contents.items():
        (root / name).write_bytes(content)
    os.mkfifo(root / "pipe.txt")
    (root / "zero.txt").symlink_to("/dev/zero")
    (root / "vanishing.txt").write_text("still here")
    paths = [path if isinstance(path, Path) else Path(path.path) for path in walk([root])]
    (root / "vanishing.txt").unlink()
    with ReadPool(LIMITS, num_workers=1) as pool:
        return {result.path.name: result for result in pool.read(paths, within=[root])}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_reported(results: dict[str, FileRead], name: str) -> None:
    _, kind, words = BAD[name]
    error = results[name].error
    assert error is not None and type(error) is kind and error.path.endswith("/" + name)
    assert words in error.reason and error.reason and "\n" not in error.reason
    assert "the parser died" not in error.reason and "the parser failed" not in error.reason


@pytest.mark.parametrize("name", GOOD)
def test_everything_else_is_read(results: dict[str, FileRead], name: str) -> None:
    assert results[name].error is None
    assert GOOD[name][1] in results[name].document().text


def test_what_is_no_file_is_reported(results: dict[str, FileRead]) -> None:
    reasons = {name: result.error.reason for name, result in results.items() if result.error and name not in BAD}
    assert reasons == {
        "pipe.txt": "is a named pipe (FIFO), not a file",
        "zero.txt": "is a character device, not a file",
        "vanishing.txt": "no such file",
    }


# --- opening ---


def test_a_pipe_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(ReadError, match="is a named pipe"):  # opening it would wait for ever
        open_file(tmp_path / "a.txt")


def _vanish(path: Path) -> None:
    path.unlink()


def _become_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def _become_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_vanish, "no such file"),
        (_become_link, "is a link that cannot be followed"),
        (_become_pipe, "is a named pipe (FIFO), not a file"),
    ],
)
def test_a_file_that_changes_between_the_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], reason: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("harmless")
    real_open = os.open

    def open_after_change(name: Path, flags: int, *rest: int) -> int:
        change(path)
        return real_open(name, flags, *rest)

    monkeypatch.setattr("rag.read.files.os.open", open_after_change)
    with pytest.raises(ReadError) as caught:
        open_file(path)
    assert (caught.value.path, caught.value.reason) == (str(path), reason)


def test_a_folder_that_is_swapped_for_a_link_between_the_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "root/folder"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("harmless")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/a.txt").write_text("secret")
    real_open = os.open

    def open_after_swap(name: Path, flags: int, *rest: int) -> int:
        folder.rename(tmp_path / "root/moved")
        folder.symlink_to(tmp_path / "outside")
        return real_open(name, flags, *rest)

    monkeypatch.setattr("rag.read.files.os.open", open_after_swap)
    with pytest.raises(ReadError, match=r"leads out of the folder \(to .*/outside/a.txt\)"):
        open_file(folder / "a.txt", within=[tmp_path / "root"])


def test_links_are_followed_only_within(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside.txt").write_text("secret")
    (root / "inside.txt").write_text("words")
    (root / "link.txt").symlink_to("inside.txt")
    (root / "out.txt").symlink_to("../outside.txt")
    assert open_file(root / "link.txt", within=[root]).source == (root / "inside.txt").resolve().as_posix()
    with pytest.raises(ReadError, match="leads out of the folder"):
        open_file(root / "out.txt", within=[root])
    assert open_file(root / "out.txt").data == b"secret"


def test_a_file_that_lies_about_its_size() -> None:
    if not Path("/proc/self/maps").exists():
        pytest.skip("no /proc here")
    assert open_file(Path("/proc/self/maps")).num_bytes > 0
    with pytest.raises(FileTooLarge, match="is growing"):
        open_file(Path("/proc/self/maps"), Limits(max_file_bytes=100))


def test_a_file_that_never_stops_changing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.log"
    path.write_text("x")
    real_read, num_reads = os.read, 0

    def read_and_grow(descriptor: int, most: int) -> bytes:
        nonlocal num_reads
        num_reads += 1
        if num_reads % 2 == 1 and num_reads <= limit:
            with path.open("a") as file:
                file.write("more")
            os.utime(path, ns=(num_reads, num_reads))
        return real_read(descriptor, most)

    monkeypatch.setattr("rag.read.files.os.read", read_and_grow)
    limit = 1  # changes once: the second try has a settled file
    assert open_file(path).data == b"xmore"
    limit = 1000
    num_reads = 0
    with pytest.raises(ReadError, match="keeps changing while it is read"):
        open_file(path)


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.EACCES, "permission denied"), (errno.EIO, "the disk cannot read it"), (errno.ESTALE, "stale file handle")],
)
def test_errors_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x")

    def fail(descriptor: int, most: int) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("rag.read.files.os.read", fail)
    num_open = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    with pytest.raises(ReadError, match=reason):
        open_file(path)
    assert not num_open or len(os.listdir("/proc/self/fd")) == num_open


def test_odd_names(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="not a path"):
        open_file(Path("a\0b"))
    with pytest.raises(ReadError, match="the path is too long"):
        open_file(Path("a" * 5000))
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))
    path.write_text("x")
    assert open_file(path).source == source_of(path) == f"{tmp_path.resolve()}/caf\\xe9.txt"


# --- the type ---


@pytest.mark.parametrize(
    ("name", "content", "media_type"),
    [
        ("a.TXT", b"x", "text/plain"),
        ("a.md", b"<html>", "text/markdown"),
        ("README", b"x", "text/plain"),
        ("page", b"\xef\xbb\xbf \n<!DOCTYPE HTML><p>", "text/html"),
        ("page.2024", b"<html>", "text/html"),
        ("a.docx", office("word"), READERS[".docx"].media_type),
        ("a.xlsx", office("xl", **{"vbaProject.bin": b""}), READERS[".xlsm"].media_type),
        ("a.docx", office("ppt"), READERS[".pptx"].media_type),
        ("a", office("xl"), READERS[".xlsx"].media_type),
        ("a.doc", office("word"), READERS[".docx"].media_type),
        ("a.bin", pdf(), "application/pdf"),
        ("a.pdf", b"\n\nHTTP/1.1 200\n\n" + pdf(), "application/pdf"),
        ("a.jpeg", b"\xff\xd8\xff\xe0", "image/jpeg"),
        ("a.jpg", PNG, "image/png"),
        ("a.txt", "words".encode("utf-16-le"), "text/plain"),
        ("a.txt", "words".encode("utf-16"), "text/plain"),
        ("a.txt", b"", "text/plain"),
        ("a.txt", "\u4e2d\u6587".encode("gb18030"), "text/plain"),
        ("a.txt", b"BZh is how a bzip2 file begins, and GIF89a a picture", "text/plain"),
    ],
)
def test_the_reader_is_chosen_by_suffix_and_content(name: str, content: bytes, media_type: str) -> None:
    assert reader_for(name, content).media_type == media_type


def test_an_added_reader_answers_for_its_suffix() -> None:
    mine = Reader("text/x-mine", "my.module:read")
    assert reader_for("a.mine", pdf(), {**READERS, ".mine": mine}) == mine
    assert reader_for("a.txt", bytes(100), {**READERS, ".txt": mine}) == mine


def test_a_workbook_inside_a_document_does_not_make_it_a_workbook() -> None:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("[Content_Types].xml", CONTENT_TYPES)
        archive.writestr("word/embeddings/1.xlsx", office("xl"))
        archive.writestr("word/document.xml", "<x/>")
    assert reader_for("upload", raw.getvalue()) == READERS[".docx"]


def test_a_directory_of_a_zip_that_lies() -> None:
    raw = bytearray(office("word"))
    at = raw.rindex(b"PK\x05\x06")
    for length, start in ((0xFFFFFFFF, 0), (0, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF)):
        struct.pack_into("<II", raw, at + 12, length, start)
        assert describe(bytes(raw)).startswith("a zip archive")
    assert describe(b"PK\x05\x06") == "plain text" or describe(b"PK\x05\x06") == "binary data"


def test_every_reader_of_the_table_exists() -> None:
    import importlib

    for reader in set(READERS.values()):
        module, _, name = reader.target.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_suffixes() -> None:
    assert [suffix_of(name) for name in ("a.PDF", "a.tar.gz", ".bashrc", "v1.2", "Dr. Smith", "a.")] == [
        ".pdf",
        ".gz",
        "",
        "",
        "",
        "",
    ]
    assert [may_read(name) for name in ("a.pdf", "a.xyz", "README")] == [True, False, None]
    assert all(suffix == suffix_of("a" + suffix) for suffix in READERS)


def test_sniffing_is_quick_on_hostile_zips() -> None:
    entry = b"PK\x01\x02" + bytes(42)
    raw = b"PK\x03\x04" + entry * 10**6
    raw += b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, len(entry) * 10**6, 4, 0)
    start = time.process_time()
    describe(raw)
    assert time.process_time() - start < 1
