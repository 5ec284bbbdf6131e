"""Folders -> the files in them that are worth reading, in a fixed order. Knows names and links; reads no document.

Nothing outside the roots is ever yielded, whatever links say; what is left out for a reason that a user would want to know
comes as an error in its place among the paths.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from rag.errors import ReadError, UnknownType
from rag.read.draft import Limits
from rag.read.files import kind_of, open_file, reason_of
from rag.read.media import OLD_OFFICE, READERS, Reader, may_read, reader_for, suffix_of

IGNORE_FILES = (".ragignore", ".gitignore")
"""Files of patterns, in any folder, in the order in which they are asked; the first that knows a path decides."""

_NEVER = frozenset({".git", ".hg", ".svn"})
_OF_AN_INDEX = frozenset({"catalog.sqlite", "segments", "writer.lock"})
_IGNORE_LIMITS = Limits(max_file_bytes=2**20)
_PEEK_LIMITS = Limits(max_file_bytes=2**30)
_PEEK_BYTES = 8192


class Skipped(ReadError):
    """A file in a folder that is left out although nothing is wrong with it (its type is unknown, it is read already)."""


_Rules = tuple[tuple[int, tuple[GitIgnoreSpec, ...]], ...]  # (depth of a folder below the root, its rules), outermost first


@dataclass(frozen=True, slots=True)
class _Folder:
    path: Path
    rules: _Rules
    depth: int


def walk(
    roots: Sequence[Path],
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    hidden: bool = False,
    *,
    readers: Mapping[str, Reader] = READERS,
) -> Iterator[Path | ReadError]:
    """The readable files of ``roots`` (files or folders), each once, sorted by name, folder by folder as they are reached.

    ``include`` and ``exclude`` are patterns as in ``.gitignore``, relative to the root; no ``include`` means all.
    ``.gitignore`` and ``.ragignore`` files at and below a root are heeded; names that begin with a dot are left out
    unless ``hidden``; so are indexes of this program. A root that is a file is taken whatever rules say. Yields ``Skipped`` for files that nothing reads
    and ``ReadError`` for what is refused or cannot be reached: links out of the root or to nowhere, devices, pipes,
    folders without permission. Raises ``ReadError`` at once for a root that does not exist.
    """
    named: dict[str, Path] = {}
    for root in roots:
        try:
            named.setdefault(os.path.realpath(root, strict=True), Path(root))
        except (OSError, ValueError) as error:
            raise ReadError(root, reason_of(error) if isinstance(error, OSError) else f"not a path: {error}") from error
    rules = GitIgnoreSpec.from_lines(include) if include else None, GitIgnoreSpec.from_lines(exclude)
    return _walk_all(named, *rules, hidden, readers)


def _walk_all(
    named: dict[str, Path], include: GitIgnoreSpec | None, exclude: GitIgnoreSpec, hidden: bool, readers: Mapping[str, Reader]
) -> Iterator[Path | ReadError]:
    for real, root in named.items():
        if os.path.isdir(real):
            yield from _Walk(Path(real), root, frozenset(named), include, exclude, hidden, readers)
        else:
            yield root


class _Walk:
    """One root on its way."""

    def __init__(
        self,
        real_root: Path,
        root: Path,
        named: frozenset[str],
        include: GitIgnoreSpec | None,
        exclude: GitIgnoreSpec,
        hidden: bool,
        readers: Mapping[str, Reader],
    ) -> None:
        self._real_root, self._root, self._named = real_root, root, named
        self._include, self._exclude, self._hidden, self._readers = include, exclude, hidden, readers

    def __iter__(self) -> Iterator[Path | ReadError]:
        stack: list[Iterator[Path | ReadError | _Folder]] = [iter([_Folder(self._root, (), 0)])]
        while stack:  # not recursion: folders can be nested deeper than Python's stack
            item = next(stack[-1], None)
            if item is None:
                stack.pop()
            elif isinstance(item, _Folder):
                stack.append(self._entries(item))
            else:
                yield item

    def _entries(self, folder: _Folder) -> Iterator[Path | ReadError | _Folder]:
        try:
            with os.scandir(folder.path) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            yield ReadError(folder.path, reason_of(error))
            return
        own = []
        names = {entry.name for entry in entries}
        if names >= _OF_AN_INDEX:  # what this program writes is nothing to read; said only of a folder that was named
            if folder.depth == 0:
                yield Skipped(folder.path, "is an index of this program, not a folder of documents")
            return
        for name in IGNORE_FILES:
            if name in names:
                rules, problem = _ignore_rules(folder.path / name)
                own.append(rules)
                if problem is not None:
                    yield problem
        rules_here = (*folder.rules, (folder.depth, tuple(own))) if own else folder.rules
        for entry in entries:
            path = folder.path / entry.name
            try:
                is_folder = entry.is_dir(follow_symlinks=False)
            except OSError as error:
                yield ReadError(path, reason_of(error))
                continue
            if self._is_left_out(entry.name, path.parts[len(self._root.parts) :], is_folder, rules_here):
                continue
            if is_folder:
                yield _Folder(path, rules_here, folder.depth + 1)
            else:
                yield self._file(entry, path)

    def _is_left_out(self, name: str, parts: tuple[str, ...], is_folder: bool, rules: _Rules) -> bool:
        if name in _NEVER or (name.startswith(".") and not self._hidden) or self._is_root(parts):
            return True
        end = "/" if is_folder else ""
        relative = "/".join(parts) + end
        if self._exclude.match_file(relative) or (self._include and not is_folder and not self._include.match_file(relative)):
            return True
        for depth, specs in reversed(rules):  # the nearest folder decides
            for spec in specs:
                says = spec.check_file("/".join(parts[depth:]) + end).include
                if says is not None:
                    return says
        return False

    def _is_root(self, parts: tuple[str, ...]) -> bool:
        return len(self._named) > 1 and str(self._real_root.joinpath(*parts)) in self._named

    def _file(self, entry: os.DirEntry[str], path: Path) -> Path | ReadError:
        try:
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                target = Path(os.path.realpath(path, strict=True))
                if not target.is_relative_to(self._real_root):
                    return ReadError(path, f"is a link out of the folder (to {target})")
                mode = target.stat().st_mode
                if stat.S_ISDIR(mode):
                    return Skipped(
                        path, f"is a link to the folder {target.relative_to(self._real_root)}; such links are not followed"
                    )
                if not self._is_hidden(target):  # the walk comes by there itself
                    return Skipped(path, f"is a link to {target.relative_to(self._real_root)}, which is read under its own name")
        except OSError as error:
            broken = "is a link to nowhere" if entry.is_symlink() and isinstance(error, FileNotFoundError) else reason_of(error)
            return ReadError(path, broken)
        if not stat.S_ISREG(mode):
            return ReadError(path, f"is {kind_of(mode)}, not a file")
        if (known := may_read(path, self._readers)) is None:
            return self._peek(path)
        if known:
            return path
        newer = OLD_OFFICE.get(suffix_of(path))  # the same words for all files of a kind: whoever lists them can count instead
        return Skipped(
            path, f"an old Office format that is not read: save it as {newer}" if newer else "files of this type are not read"
        )

    def _is_hidden(self, target: Path) -> bool:
        parts = target.relative_to(self._real_root).parts
        return any(part in _NEVER or (part.startswith(".") and not self._hidden) for part in parts)

    def _peek(self, path: Path) -> Path | ReadError:
        """A name without a suffix (README, an upload): its content tells."""
        try:
            raw = open_file(path, _PEEK_LIMITS, within=[self._real_root], most_bytes=_PEEK_BYTES)
            if raw.data.startswith(b"PK"):  # the kind of a zip stands at its end
                raw = open_file(path, _PEEK_LIMITS, within=[self._real_root])
            reader_for(path, raw.data, self._readers)
        except UnknownType as error:
            return Skipped(path, error.reason)
        except ReadError as error:
            return error
        return path


def _ignore_rules(path: Path) -> tuple[GitIgnoreSpec, ReadError | None]:
    """The rules of one file, and what is wrong with it. A file that cannot be used ignores nothing."""
    try:
        if path.is_symlink():
            raise ReadError(path, "is a link; rules are read from files only")
        lines = open_file(path, _IGNORE_LIMITS).data.decode("utf-8", "replace").splitlines()
        slow = [line for line in lines if _is_slow(line)]
        rules = GitIgnoreSpec.from_lines(line for line in lines if not _is_slow(line))
    except (ReadError, ValueError) as error:
        reason = error.reason if isinstance(error, ReadError) else f"a pattern is wrong: {error}"
        return GitIgnoreSpec([]), ReadError(path, reason)
    return rules, ReadError(path, f"a pattern has too many wildcards and is not used: {slow[0][:80]}") if slow else None


def _is_slow(line: str) -> bool:
    """Patterns become regular expressions, and a few stars more make one name take minutes (4 in a row: one second)."""
    segments = line.split("/")
    return (
        len(line) > 1024
        or sum("**" in segment for segment in segments) > 2
        or any(len(re.findall(r"\*+", segment)) > 3 for segment in segments)
    )
