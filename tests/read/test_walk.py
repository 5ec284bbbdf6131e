"""The walk: which files of a folder are read, in which order, and what is said about the rest."""

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rag.errors import ReadError
from rag.read.media import READERS, Reader
from rag.read.walk import Skipped, walk


def make(root: Path, *names: str, text: str = "words") -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names(found: list[Path | ReadError], root: Path) -> list[str]:
    return [item.relative_to(root).as_posix() for item in found if isinstance(item, Path)]


def problems(found: list[Path | ReadError], root: Path) -> dict[str, str]:
    return {Path(item.path).relative_to(root).as_posix(): item.reason for item in found if isinstance(item, ReadError)}


def test_files_come_sorted_and_folder_by_folder(tmp_path: Path) -> None:
    make(tmp_path, "b.txt", "a/z.md", "a/b/c.txt", "a/a.txt", "B.txt", "a.txt")
    assert names(list(walk([tmp_path])), tmp_path) == ["B.txt", "a/a.txt", "a/b/c.txt", "a/z.md", "a.txt", "b.txt"]


def test_the_walk_is_lazy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a/1.txt", "b/2.txt", "c/3.txt")
    scanned: list[str] = []
    scandir = os.scandir

    def noted(path: Path) -> object:
        scanned.append(path.name)
        return scandir(path)

    monkeypatch.setattr("rag.read.walk.os.scandir", noted)
    found = walk([tmp_path])
    assert scanned == []
    next(found)
    assert scanned == [tmp_path.name, "a"]


def test_paths_begin_as_the_root_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "docs/a.txt", ".gitignore", text="x")
    (tmp_path / ".gitignore").write_text("docs/b.txt\n")
    make(tmp_path, "docs/b.txt")
    monkeypatch.chdir(tmp_path)
    assert list(walk([Path(".")])) == [Path("docs/a.txt")]
    assert list(walk([Path("docs")])) == [Path("docs/a.txt"), Path("docs/b.txt")]
    assert list(walk([Path("../" + tmp_path.name)])) == [Path("..") / tmp_path.name / "docs/a.txt"]


def test_a_root_that_does_not_exist_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="nowhere: no such file"):
        walk([tmp_path, tmp_path / "nowhere"])
    with pytest.raises(ReadError, match="not a path"):
        walk([Path("a\0b")])


def test_a_file_given_by_name_is_taken_whatever_rules_say(tmp_path: Path) -> None:
    make(tmp_path, ".hidden.txt", "ignored.txt", "odd.xyz")
    (tmp_path / ".gitignore").write_text("*.txt\n")
    roots = [tmp_path / ".hidden.txt", tmp_path / "ignored.txt", tmp_path / "odd.xyz"]
    assert list(walk(roots, exclude=["*"])) == roots


def test_roots_inside_roots_are_walked_once(tmp_path: Path) -> None:
    make(tmp_path, "a/1.txt", "a/b/2.txt", "a/b/3.txt")
    roots = [tmp_path / "a", tmp_path / "a/b", tmp_path / "a/b/3.txt", tmp_path / "a/../a"]
    assert names(list(walk(roots)), tmp_path) == ["a/1.txt", "a/b/2.txt", "a/b/3.txt"]


def test_hidden_names_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", ".b.txt", ".c/d.txt", ".git/e.txt", "f/.hg/g.txt")
    assert names(list(walk([tmp_path])), tmp_path) == ["a.txt"]
    assert names(list(walk([tmp_path], hidden=True)), tmp_path) == [".b.txt", ".c/d.txt", "a.txt"]
    assert names(list(walk([tmp_path / ".c"])), tmp_path) == [".c/d.txt"]


def test_include_and_exclude(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "a.md", "drafts/b.txt", "docs/drafts/c.txt", "docs/d.txt")
    assert names(list(walk([tmp_path], include=["*.md", "docs/**"])), tmp_path) == ["a.md", "docs/d.txt", "docs/drafts/c.txt"]
    assert names(list(walk([tmp_path], exclude=["drafts/"])), tmp_path) == ["a.md", "a.txt", "docs/d.txt"]
    assert names(list(walk([tmp_path], exclude=["/drafts"], include=["*.txt"])), tmp_path) == [
        "a.txt",
        "docs/d.txt",
        "docs/drafts/c.txt",
    ]


def test_ignore_files_nest_and_can_be_taken_back(tmp_path: Path) -> None:
    make(
        tmp_path,
        "a.log",
        "keep.log",
        "build/x.txt",
        "sub/a.log",
        "sub/keep.log",
        "sub/other.txt",
        "sub/build/y.txt",
        "sub/deep/only.txt",
    )
    (tmp_path / ".gitignore").write_text("# a comment\n*.log\n!keep.log\n/build/\n")
    (tmp_path / "sub/.gitignore").write_text("!a.log\nkeep.log\n")
    (tmp_path / "sub/.ragignore").write_text("keep.log\nother.txt\n/only.txt\n")
    assert names(list(walk([tmp_path])), tmp_path) == ["keep.log", "sub/a.log", "sub/build/y.txt", "sub/deep/only.txt"]


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_gitignore_means_what_git_means(tmp_path: Path) -> None:
    make(
        tmp_path,
        *(
            f"{folder}{name}.{suffix}"
            for folder in ("", "a/", "a/b/", "c d/")
            for name in ("x", "y z", "#h")
            for suffix in ("txt", "md")
        ),
    )
    (tmp_path / ".gitignore").write_text("x.md\n/y*.txt\na/**/y*\n\\#h.txt\n")
    (tmp_path / "a/.gitignore").write_text("!x.md\nb/*\n!b/x.txt\n*.t[x]t\n!/x.txt\n")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    said = subprocess.run(
        ["git", "-C", str(tmp_path), "ls-files", "-z", "--others", "--exclude-standard"], check=True, capture_output=True, text=True
    ).stdout
    expected = sorted(name for name in said.split("\0") if name and not Path(name).name.startswith("."))
    assert sorted(names(list(walk([tmp_path])), tmp_path)) == expected and len(expected) > 5


def test_a_bad_ignore_file_is_reported_and_ignores_nothing(tmp_path: Path) -> None:
    make(tmp_path, "a/x.txt", "b/x.txt", "c/x.txt", "d/" + "a" * 200 + ".txt", "e/x.txt")
    os.mkfifo(tmp_path / "a/.gitignore")
    (tmp_path / "b/.gitignore").symlink_to("/etc/passwd")
    (tmp_path / "c/.gitignore").write_bytes(b"#" * (2**20 + 1))
    (tmp_path / "d/.gitignore").write_text("*a*a*a*a*a*a*ab\n**/a/**/a/**/a/**\n")
    (tmp_path / "e/.gitignore").write_bytes(b"\xff\xfe\n*.txt\n")
    found = list(walk([tmp_path]))
    assert [name[0] for name in names(found, tmp_path)] == ["a", "b", "c", "d"]
    reasons = problems(found, tmp_path)
    assert reasons["a/.gitignore"] == "is a named pipe (FIFO), not a file"
    assert reasons["b/.gitignore"] == "is a link; rules are read from files only"
    assert "max_file_bytes is 1 MiB" in reasons["c/.gitignore"]
    assert reasons["d/.gitignore"] == "a pattern has too many wildcards and is not used: *a*a*a*a*a*a*ab"


def test_files_that_nothing_reads_are_skipped_not_failed(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "b.xyz", "c.doc")
    found = list(walk([tmp_path]))
    assert names(found, tmp_path) == ["a.txt"]
    assert problems(found, tmp_path) == {
        "b.xyz": "files of this type are not read",
        "c.doc": "an old Office format that is not read: save it as .docx",
    }
    assert all(isinstance(item, Skipped) for item in found if not isinstance(item, Path))
    extended = {**READERS, ".xyz": Reader("text/xyz", "some.module:read_xyz")}
    assert names(list(walk([tmp_path], readers=extended)), tmp_path) == ["a.txt", "b.xyz"]


def test_a_name_without_a_suffix_is_judged_by_its_content(tmp_path: Path) -> None:
    make(tmp_path, "README", "LICENSE.2024", "Letter to Dr. Smith")
    (tmp_path / "program").write_bytes(b"\x7fELF\x02\x01\x01" + bytes(100))
    (tmp_path / "paper").write_bytes(b"%PDF-1.4\n" + b"\xe2\xe3\xcf\xd3" * 5000)
    (tmp_path / "archive").write_bytes(b"PK\x03\x04" + bytes(100))
    (tmp_path / "empty").write_bytes(b"")
    found = list(walk([tmp_path]))
    assert names(found, tmp_path) == ["LICENSE.2024", "Letter to Dr. Smith", "README", "paper"]
    assert set(problems(found, tmp_path)) == {"program", "archive", "empty"}
    assert all(isinstance(item, Skipped) for item in found if not isinstance(item, Path))


def test_links_out_of_the_root_are_refused_by_name(tmp_path: Path) -> None:
    make(tmp_path, "outside/secret.txt", "root/a.txt", "rootless/b.txt")
    root = tmp_path / "root"
    (root / "file.txt").symlink_to("../outside/secret.txt")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "near").symlink_to(tmp_path / "rootless")  # its path begins with the root's name
    (root / "zero.txt").symlink_to("/dev/zero")
    found = list(walk([root]))
    assert names(found, root) == ["a.txt"]
    assert problems(found, root) == {
        "file.txt": f"is a link out of the folder (to {tmp_path / 'outside/secret.txt'})",
        "folder": f"is a link out of the folder (to {tmp_path / 'outside'})",
        "near": f"is a link out of the folder (to {tmp_path / 'rootless'})",
        "zero.txt": "is a link out of the folder (to /dev/zero)",
    }
    assert not any(isinstance(item, Skipped) for item in found)


def test_links_inside_the_root(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", ".store/b.txt", "sub/c.txt")
    (tmp_path / "again.txt").symlink_to("a.txt")
    (tmp_path / "annexed.txt").symlink_to(".store/b.txt")
    (tmp_path / "folder").symlink_to("sub")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "sub/up").symlink_to("..")
    (tmp_path / "self.txt").symlink_to("self.txt")
    (tmp_path / "broken.txt").symlink_to("nowhere.txt")
    found = list(walk([tmp_path]))
    assert names(found, tmp_path) == ["a.txt", "annexed.txt", "sub/c.txt"]
    reasons = problems(found, tmp_path)
    assert reasons["again.txt"] == "is a link to a.txt, which is read under its own name"
    assert reasons["self.txt"] == "is a link that cannot be followed"
    assert reasons["broken.txt"] == "is a link to nowhere"
    assert reasons["folder"] == "is a link to the folder sub; such links are not followed"
    assert set(reasons) == {"again.txt", "self.txt", "broken.txt", "folder", "loop", "sub/up"}


def test_a_root_may_be_a_link(tmp_path: Path) -> None:
    make(tmp_path, "real/a.txt")
    (tmp_path / "link").symlink_to("real")
    assert list(walk([tmp_path / "link"])) == [tmp_path / "link/a.txt"]


def test_pipes_sockets_and_devices_are_reported_not_opened(tmp_path: Path) -> None:
    make(tmp_path, "a.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(tmp_path)  # the name of a socket must be short
        try:
            server.bind("socket.txt")
        finally:
            os.chdir(here)
        expected = {"pipe.txt": "is a named pipe (FIFO), not a file", "socket.txt": "is a socket, not a file"}
        try:
            os.mknod(tmp_path / "zero.txt", stat.S_IFCHR | 0o666, os.makedev(1, 5))
            expected["zero.txt"] = "is a character device, not a file"
        except PermissionError:
            pass
        found = list(walk([tmp_path]))
    assert names(found, tmp_path) == ["a.txt"]
    assert problems(found, tmp_path) == expected


def test_a_folder_without_permission_is_reported() -> None:
    script = """
import os, sys
from pathlib import Path
from rag.read.walk import walk
from rag.read.files import open_file
if os.geteuid() == 0:
    os.seteuid(65534)
for item in walk([Path(sys.argv[1])]):
    try:
        item = item if not isinstance(item, Path) else open_file(item).path.name
    except Exception as error:
        item = error
    print(item)
"""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        make(root, "closed/a.txt", "b.txt", "c.txt")
        (root / "closed").chmod(0)
        (root / "b.txt").chmod(0)
        paths = os.pathsep.join(path for path in sys.path if path)
        said = subprocess.run(
            [sys.executable, "-c", script, folder],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": paths},
        )
        (root / "closed").chmod(0o700)
    assert said.stdout.splitlines() == [f"{root}/b.txt: permission denied", "c.txt", f"{root}/closed: permission denied"]


def test_a_folder_that_vanishes_on_the_way_is_reported(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "b/c.txt", "d.txt")
    found: Iterator[Path | ReadError] = walk([tmp_path])
    assert next(found) == tmp_path / "a.txt"
    (tmp_path / "b/c.txt").unlink()
    (tmp_path / "b").rmdir()
    assert [str(item) for item in found] == [f"{tmp_path}/b: no such file", f"{tmp_path}/d.txt"]


def test_folders_nested_deeper_than_the_stack(tmp_path: Path) -> None:
    here, depth = Path.cwd(), 1050
    os.chdir(tmp_path)
    try:
        for _ in range(depth):
            os.mkdir("d")
            os.chdir("d")
        Path("end.txt").write_text("deep")
        found = list(walk([tmp_path]))
        Path("end.txt").unlink()
        for _ in range(depth):  # pytest's own clean-up stops at the stack
            os.chdir("..")
            os.rmdir("d")
    finally:
        os.chdir(here)
    assert [item.name for item in found if isinstance(item, Path)] == ["end.txt"]


def test_names_that_are_not_unicode(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))).write_text("x")
    [path] = walk([tmp_path])
    assert isinstance(path, Path) and os.fsencode(path.name) == b"caf\xe9.txt"
