"""One child process that parses, seen from outside: starts it, asks it with a deadline, ends it. Knows no file on disk."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import asdict
from pathlib import Path

import rag
from rag.errors import RagError
from rag.read.draft import Draft, Limits
from rag.read.media import Reader
from rag.read.wire import HEADER, Garbled, check_header, decode, message, one_line

_START_SECONDS = 60.0
_WRITE_BYTES = 2**20
_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from rag.read.child import main; main(int(sys.argv[2]))"
_KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "PYTHONHOME", "OMP_NUM_THREADS")


class Died(Exception):
    """The process ended or must be ended; the file it was given may or may not be to blame."""


class ParserProcess:
    """One child and its two pipes. Used by one thread at a time."""

    def __init__(self) -> None:
        paths = [path for path in sys.path if path]  # "" is the working folder, where strangers' files lie
        paths.append(str(Path(rag.__file__).parents[1]))
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        environment |= {"MALLOC_ARENA_MAX": "2"}  # each arena of glibc reserves 64 MiB of address space
        self._process = subprocess.Popen(
            [sys.executable, "-B", "-P", "-c", _BOOT, json.dumps(paths), str(os.getpid())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            cwd="/", env=environment, start_new_session=True, bufsize=0,
        )  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None and self._process.stderr is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        for descriptor in (self._to, self._from, self._process.stderr.fileno()):
            os.set_blocking(descriptor, False)
        self.num_files = 0
        try:
            self._exchange([], Limits(), time.monotonic() + _START_SECONDS)
        except (Died, Garbled, TimeoutError) as error:
            said = (self._process.stderr.read() or b"").decode("utf-8", "replace").strip().splitlines()
            self.end()
            raise RagError(f"the process that reads files does not start: {one_line(said[-1]) if said else error}") from error

    def parse(self, reader: Reader, data: bytes, limits: Limits) -> Draft:
        """Raises the reader's ``ReadError`` (with path ``""``), ``TimeoutError``, ``Garbled`` or ``Died``."""
        self.num_files += 1
        request = message({"target": reader.target, "limits": asdict(limits)}, data)
        return decode(*self._exchange(request, limits, time.monotonic() + limits.seconds), limits)

    def is_idle(self) -> bool:
        """Whether it lives and says nothing that nobody asked for."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._from, selectors.EVENT_READ)
            return not selector.select(0)  # the end of the pipe would be something to read, too

    def kill(self) -> None:
        """Makes whoever talks to the process see it die; ``end`` is still due."""
        self._process.kill()

    def end(self) -> None:
        """Kills the process and those it may have started, and closes the pipes."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def why_it_died(self) -> str:
        """One line. Ends the process."""
        self.end()
        code = self._process.returncode
        if code >= 0:
            return f"the parser died (exit status {code})"
        number = signal.Signals(-code)
        hint = {signal.SIGKILL: ", perhaps for want of memory", signal.SIGXCPU: ", too much processor time"}.get(number, "")
        return f"the parser died (signal {-code}, {number.name}{hint})"

    def _exchange(self, request: list[bytes], limits: Limits, deadline: float) -> tuple[bytes, bytes]:
        """Sends a message and takes the JSON and the bytes of the reply, never waiting past ``deadline``."""
        unsent = deque(memoryview(part) for part in request if part)
        reply, num_json_bytes, num_wanted = bytearray(), -1, HEADER.size
        with selectors.DefaultSelector() as selector:
            selector.register(self._from, selectors.EVENT_READ)
            if unsent:
                selector.register(self._to, selectors.EVENT_WRITE)
            while len(reply) < num_wanted:
                seconds_left = deadline - time.monotonic()
                if seconds_left <= 0:
                    raise TimeoutError
                ready = {key.fd for key, _ in selector.select(seconds_left)}
                if self._from in ready:
                    block = os.read(self._from, min(num_wanted - len(reply), 2**24))
                    if not block:
                        raise Died
                    if unsent:
                        raise Garbled("its answer came before the question")
                    reply += block
                elif self._to in ready and not self._write(unsent):
                    selector.unregister(self._to)
                if num_json_bytes < 0 and len(reply) == HEADER.size:
                    num_json_bytes, num_text_bytes = check_header(bytes(reply), limits)
                    num_wanted += num_json_bytes + num_text_bytes
        view = memoryview(reply)[HEADER.size :]
        return bytes(view[:num_json_bytes]), bytes(view[num_json_bytes:])

    def _write(self, unsent: deque[memoryview]) -> bool:
        """Writes what the pipe takes; False when all is written or the other end is closed (reading then tells why)."""
        try:
            unsent[0] = unsent[0][os.write(self._to, unsent[0][:_WRITE_BYTES]) :]
        except BlockingIOError:
            return True
        except BrokenPipeError:
            return False
        if not unsent[0]:
            unsent.popleft()
        return bool(unsent)
