"""``rag`` and ``python -m rag``: the command, from its first import on. Knows nothing but that Ctrl-C is no error."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command. Where it has nothing of its own to say about Ctrl-C, the exit code says it: 130, as shells do."""
    try:
        from rag import cli

        cli.main()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
