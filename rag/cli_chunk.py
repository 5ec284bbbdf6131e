"""The command ``rag chunk``: how one file would be cut, as a list, as JSON or drawn on its pages. Makes no index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rag.errors import ConfigError

if TYPE_CHECKING:
    from rag.config import Block
    from rag.core import Chunk, Document

MAX_DRAWN_PAGES = 50
_FIRST_CHARS = 90


def chunk(
    file: Annotated[Path, typer.Argument(help="The file to cut.")],
    chunker: Annotated[
        str | None,
        typer.Option("--chunker", help="A word (spatial) or a block ('{use: spatial, mode: s2}'); default: the configured one."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", envvar="RAG_CONFIG", help="YAML configuration; default: the built-in one.")
    ] = None,
    draw: Annotated[
        Path | None,
        typer.Option("--draw", help="Draw the chunks on the pages of a PDF, into this PNG (several pages: NAME-1.png, ...)."),
    ] = None,
    page: Annotated[int | None, typer.Option("--page", min=1, help="Show and draw only this page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Show how a file is cut into chunks: number, page, tokens, first words."""
    from rag import config as configuration
    from rag import maintain, terminal
    from rag.read.files import open_file
    from rag.read.worker import ReadPool

    if not file.exists():
        raise FileNotFoundError(f"{file}: there is no such file")
    if draw is not None and not draw.absolute().parent.is_dir():
        raise FileNotFoundError(f"{draw.parent}: there is no such folder for the picture")
    loaded = configuration.load(config)
    block = _block(chunker, loaded.chunker) if chunker else loaded.chunker
    assembly = configuration.Assembly(loaded)
    cutter = assembly.build("chunker", "chunker", block)
    with ReadPool(maintain.limits(loaded), num_workers=1) as pool:
        raw = open_file(file, pool.limits)
        document = pool.document(raw)
    chunks: list[Chunk] = cutter.chunk(document)
    shown = [(number, each) for number, each in enumerate(chunks, start=1) if page is None or page in _pages(each)]
    counts = [assembly.model("tokenizer").count(each.text) for _, each in shown]
    if as_json:
        rows = [
            {"number": number, "tokens": count, **terminal.plain(each)} for (number, each), count in zip(shown, counts, strict=True)
        ]
        terminal.print_json({"source": document.source, "chunker": block.model_dump(), "chunks": rows})
    else:
        _print(shown, counts)
    if draw is not None:
        _draw(raw.data, document, chunks, draw, page, quiet=as_json)


def _block(text: str, configured: Block) -> Block:
    """The block that ``--chunker`` means: the options of the configured one count only if it is asked for by its word alone."""
    import yaml
    from pydantic import ValidationError

    from rag.config import Block, check_options, check_word

    try:
        given = yaml.safe_load(text) if text.lstrip().startswith("{") else {"use": text}
        block = Block.model_validate(given)
    except (yaml.YAMLError, ValidationError):
        raise ConfigError(f"--chunker {text!r}: must be a word, or a block such as '{{use: spatial, mode: s2}}'") from None
    if given == {"use": configured.use}:
        return configured
    check_word("chunker", "--chunker", block)
    check_options("chunker", "--chunker", block)
    return block


def _pages(chunk: Chunk) -> list[int]:
    return chunk.meta.get("pages") or [chunk.meta["page"]] if "page" in chunk.meta else []


def _print(shown: Sequence[tuple[int, Chunk]], counts: Sequence[int]) -> None:
    from rich.markup import escape

    from rag.terminal import out

    for (number, each), count in zip(shown, counts, strict=True):
        pages = _pages(each)
        place = f"p. {pages[0]}-{pages[-1]}" if len(pages) > 1 else f"p. {pages[0]}" if pages else ""
        cluster = f"  [dim]cluster {each.meta['cluster']}[/]" if "cluster" in each.meta else ""
        words = " ".join(each.text[: 4 * _FIRST_CHARS].split())
        first = words if len(words) <= _FIRST_CHARS else f"{words[:_FIRST_CHARS]}..."
        out.print(f"[bold]{number:4}[/]  {place:9}{count:6} tokens{cluster}  {escape(first)}")
    out.print(f"{len(shown)} chunks, {sum(counts)} tokens, the longest {max(counts, default=0)}")


def _draw(data: bytes, document: Document, chunks: Sequence[Chunk], path: Path, page: int | None, *, quiet: bool) -> None:
    """One picture per page: of ``page``, or of every page that has elements."""
    from rag.draw import draw_page, pages_with_boxes

    pages = [page] if page is not None else pages_with_boxes(document)
    if not pages:
        raise ConfigError(f"--draw: {document.source} has no boxes to draw; only PDF pages have")
    if len(pages) > MAX_DRAWN_PAGES:
        raise ConfigError(f"--draw: {len(pages)} pages are more than {MAX_DRAWN_PAGES}; name one with --page")
    for number in pages:
        target = path if len(pages) == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        draw_page(data, document, chunks, number).save(target, format="PNG")
        if not quiet:
            typer.echo(f"drew page {number} into {target}")
