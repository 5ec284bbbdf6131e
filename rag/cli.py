"""The command ``rag``: arguments in, exit code out. Knows typer; the pipeline does the work, ``rag.terminal`` the printing.

Exit codes: 0 done; 1 something failed (files of an ingest, a lock, a damaged index, a model, a target that was set) or was interrupted halfway; 2 the
call, the configuration, or what they name is wrong: it is not there, or is not what it should be; 130 interrupted with nothing to tell of.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rag import (
    __version__,
    cli_bench,
    cli_chunk,
    cli_eval,
    cli_eval_chain,
    cli_eval_data,
    cli_eval_judge,
    cli_eval_report,
    cli_eval_synth,
    cli_kv,
    cli_tune,
)
from rag.errors import ConfigError, IndexNotFound, RagError, ReadError

app = typer.Typer(
    name="rag", help="Answers with checked citations from your own documents, on your own hardware.", no_args_is_help=True,
    rich_markup_mode="rich", pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
index_app = typer.Typer(help="Look after an index.", no_args_is_help=True)
config_app = typer.Typer(help="Look at configurations.", no_args_is_help=True)
eval_app = typer.Typer(help="Measure quality.", no_args_is_help=True)
app.add_typer(index_app, name="index")
app.add_typer(config_app, name="config")
app.add_typer(eval_app, name="eval")
app.add_typer(cli_bench.bench_app, name="bench")
app.add_typer(cli_kv.kv_app, name="kv")
eval_app.command()(cli_eval.chunking)
eval_app.command()(cli_eval.sections)
eval_app.command()(cli_eval_chain.chain)
eval_app.add_typer(cli_eval_data.data_app, name="data")
eval_app.command()(cli_eval_judge.judge)
eval_app.command()(cli_eval_synth.synth)
eval_app.command()(cli_eval_report.report)

IndexOption = Annotated[Path, typer.Option("--index", "-i", envvar="RAG_INDEX", help="Folder of the index.")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", envvar="RAG_CONFIG", help="YAML configuration; default: the index's own.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
WhereOption = Annotated[str | None, typer.Option("--where", "-w", help="Filter, such as \"year >= 2020 and lang = 'en'\".")]
AsOption = Annotated[list[str] | None, typer.Option("--as", help="Who asks: a principal such as user:ann (repeatable).")]
DEFAULT_INDEX = Path("rag.index")
_debug = False


@app.callback(invoke_without_command=True)
def _main(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks (anywhere on the line).")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"ragstone {__version__}")
        raise typer.Exit()


def _open(index: Path, config: Path | None, *, must_exist: bool = True) -> Any:
    from rag.pipeline import Rag

    rag = Rag.open(index, config)
    if must_exist:
        _ = rag.catalog
    return rag


@app.command()
def init(path: Annotated[Path, typer.Argument(help="Where to write the configuration.")] = Path("rag.yaml")) -> None:
    """Write a commented configuration to start from."""
    from rag.starter import STARTER

    if path.exists():
        raise ConfigError(f"{path} exists already; it was left as it is")
    path.write_text(STARTER, encoding="utf-8")
    typer.echo(f"wrote {path}; next: rag ingest FOLDER --config {path}")


@app.command()
def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Files and folders.")],
    index: IndexOption = DEFAULT_INDEX,
    config: ConfigOption = None,
    include: Annotated[list[str] | None, typer.Option(help="Only files that match this glob (repeatable).")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="No files that match this glob (repeatable).")] = None,
    hidden: Annotated[bool, typer.Option(help="Take hidden files too.")] = False,
    readers: Annotated[
        list[str] | None, typer.Option("--readers", help="Who may find these documents (repeatable; default: everybody).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen, without reading what is new.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring an index in step with files and folders: new, edited, renamed and removed ones."""
    from rag import terminal

    rag = _open(index, config, must_exist=False)
    with (
        terminal.interruptible("what was committed stands, and the next ingest goes on from there"),
        terminal.ingest_progress(quiet=as_json) as on_progress,
    ):
        report = rag.ingest(
            paths, include=include or (), exclude=exclude or (), hidden=hidden, readers=readers or ("*",), dry_run=dry_run,
            on_progress=on_progress,
        )  # fmt: skip
    terminal.print_json(report) if as_json else terminal.print_report(report)
    if report.failed:
        raise typer.Exit(1)


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="The question.")],
    index: IndexOption = DEFAULT_INDEX,
    config: ConfigOption = None,
    where: WhereOption = None,
    principals: AsOption = None,
    history: Annotated[
        Path | None, typer.Option("--history", help='JSON file of the turns before the question: [{"role": ..., "content": ...}].')
    ] = None,
    kv: cli_kv.KVOption = None,
    lm: cli_kv.LMOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer a question from the documents, with citations that were checked."""
    from rag import terminal

    rag = cli_kv.with_kv(index, config, kv, lm)
    options = {"where": where, "principals": principals or (), "history": _turns(history)}
    if as_json:
        terminal.print_json(rag.ask(question, **options))
    else:
        terminal.print_stream(rag.stream(question, **options))


def _turns(path: Path | None) -> Any:
    if path is None:
        return ()
    import json

    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--history {path}: is not JSON ({error})") from None


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    index: IndexOption = DEFAULT_INDEX,
    config: ConfigOption = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many hits.")] = 10,
    where: WhereOption = None,
    principals: AsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the best chunks and what each stage thought of them."""
    from rag import terminal

    rag = _open(index, config)
    hits = rag.search(query, k, where=where, principals=principals or ())
    if as_json:
        terminal.print_json(hits)
    else:
        with rag.catalog.reading() as read:
            sources = {row.id: row.source for row in read.documents(sorted({hit.chunk.doc_id for hit in hits}))}
        terminal.print_hits(hits, sources)


@app.command()
def chat(index: IndexOption = DEFAULT_INDEX, config: ConfigOption = None, principals: AsOption = None) -> None:
    """Ask one question after the other; an empty line or Ctrl-D ends.

    A question may lean on the ones before it: where the configuration says `query: {use: plain}`, `carry` is used here.
    """
    from rag import terminal
    from rag.pipeline import Rag

    rag = _open(index, config)
    if rag.config.query.use == "plain":
        rag = Rag.open(index, {**rag.config.model_dump(mode="json"), "query": {"use": "carry"}})
    history: list[tuple[str, str]] = []
    while True:
        try:
            question = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if not question:
            return
        answer = terminal.print_stream(rag.stream(question, principals=principals or (), history=history))
        history += [("user", question), ("assistant", answer.text)]


@app.command()
def delete(
    sources: Annotated[list[str], typer.Argument(help="Paths, sources or document ids.")],
    index: IndexOption = DEFAULT_INDEX,
    as_json: JsonOption = False,
) -> None:
    """Remove documents from all results at once."""
    from rag import terminal

    number = _open(index, None).delete(sources)
    if as_json:
        terminal.print_json({"deleted": number})
        return
    typer.echo(f"{terminal.counted(number, 'document')} deleted; `rag index compact` removes their bytes")


@app.command()
def serve(
    index: IndexOption = DEFAULT_INDEX,
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on.")] = None,
) -> None:
    """Serve search, answers (OpenAI-compatible) and uploads over HTTP."""
    from rag.serve.server import run

    run(_open(index, config, must_exist=False), host=host, port=port)


app.command()(cli_chunk.chunk)  # the help lists commands in this order
app.command()(cli_tune.tune)


@index_app.command()
def stats(index: IndexOption = DEFAULT_INDEX) -> None:
    """Counts and bytes, as JSON."""
    from rag import terminal

    terminal.print_json(_open(index, None).stats())


@index_app.command()
def verify(
    index: IndexOption = DEFAULT_INDEX,
    repair: Annotated[bool, typer.Option("--repair", help="Rebuild what is damaged.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Read every byte and name what is damaged."""
    from rag import terminal
    from rag.maintain import verify_folder

    found = verify_folder(index, repair=False)
    left = verify_folder(index, repair=True) if found and repair else found
    repaired = [fault for fault in found if fault not in left]
    if as_json:
        terminal.print_json({"damaged": left, "repaired": repaired})
    else:
        typer.echo("\n".join([f"repaired: {fault}" for fault in repaired] + left) or "no damage found")
    if left:
        raise typer.Exit(1)


@index_app.command()
def compact(index: IndexOption = DEFAULT_INDEX) -> None:
    """Merge segments and remove deleted documents physically."""
    from rag import terminal
    from rag.progress import progress_bar

    with (
        terminal.interruptible("what was merged stands, and the next compact goes on from there"),
        progress_bar("chunks merged") as on_progress,
    ):
        done = _open(index, None).compact(on_progress)
    terminal.print_json(done)


@index_app.command()
def rebuild(index: IndexOption = DEFAULT_INDEX, config: ConfigOption = None) -> None:
    """Build all indexes anew from the catalog, after a change of models or settings."""
    from rag import terminal
    from rag.progress import progress_bar

    with terminal.interruptible("the indexes are as they were"), progress_bar("chunks indexed") as on_progress:
        done = _open(index, config).rebuild(on_progress)
    terminal.print_json(done)


@config_app.command()
def schema() -> None:
    """JSON Schema of the configuration, with every word and option."""
    from rag import config, terminal

    terminal.print_json(config.schema())


@config_app.command()
def show(index: IndexOption = DEFAULT_INDEX, config: ConfigOption = None) -> None:
    """The configuration in force, checked, as YAML."""
    from rag import config as configuration

    in_force = _open(index, config, must_exist=False).config
    configuration.check(in_force)
    typer.echo(configuration.dump(in_force), nl=False)


@eval_app.command()
def beir(
    folder: Annotated[Path, typer.Argument(help="Folder with corpus.jsonl, queries.jsonl and qrels/.")],
    index: Annotated[
        Path | None, typer.Option("--index", "-i", help="Where to keep the index; default: a temporary folder.")
    ] = None,
    config: ConfigOption = None,
    split: Annotated[str, typer.Option(help="File under qrels/ to judge by.")] = "test",
    as_json: JsonOption = False,
) -> None:
    """nDCG@10, recall and MRR with bootstrap intervals, per index and fused."""
    from rag.eval.run import run_beir

    report = run_beir(folder, index=index, config=config, split=split)
    typer.echo(report.json() if as_json else report.table())


WRONG = (
    ConfigError,
    ValueError,
    IndexNotFound,
    ReadError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
)
"""What the one who called can mend in the call or in what it names."""


def main() -> None:
    """Runs the command; every expected failure is one line on stderr."""
    global _debug
    _debug = "--debug" in sys.argv[1:]
    try:
        if any(name.startswith("OTEL_") for name in os.environ):
            from rag import tracing

            tracing.start()
        app(args=[argument for argument in sys.argv[1:] if argument != "--debug"])
    except WRONG as error:
        _fail(str(error), 2)
    except (RagError, OSError) as error:
        _fail(str(error), 1)


def _fail(message: str, code: int) -> None:
    if _debug:
        import traceback

        traceback.print_exc()
    typer.echo(f"error: {message}", err=True)
    sys.exit(code)
