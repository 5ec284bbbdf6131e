"""``rag bench index``: arguments in, a table, JSON and a plot out. Knows typer; ``rag.curve`` measures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from rag.curve import Curve

bench_app = typer.Typer(help="Measure speed.", no_args_is_help=True)


@bench_app.callback()
def _group() -> None:
    """Measure speed."""  # a group of one command would otherwise be that command


@bench_app.command()
def index(
    folder: Annotated[Path, typer.Option("--index", "-i", envvar="RAG_INDEX", help="Folder of the index.")] = Path("rag.index"),
    config: Annotated[
        Path | None, typer.Option("--config", "-c", envvar="RAG_CONFIG", help="YAML configuration; default: the index's own.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="One of the configured indexes; default: every one.")] = None,
    queries: Annotated[
        Path | None,
        typer.Option("--queries", help="One query per line, or a queries.jsonl; default: sentences of the index's own chunks."),
    ] = None,
    num_queries: Annotated[int, typer.Option("--num-queries", min=1, help="How many sentences to draw without --queries.")] = 100,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Hits per query.")] = 10,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Times that every query is timed.")] = 3,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the sentences that are drawn.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw recall against milliseconds (.png, .svg, .pdf).")] = None,
) -> None:
    """Latency and recall of an index over the settings that trade one for the other, against an exhaustive search."""
    from rag.curve import measure, names_of
    from rag.curve_queries import draw_queries, read_queries
    from rag.pipeline import Rag
    from rag.terminal import err, out, print_json

    if plot is not None:
        from rag.eval.chunking_plot import check_plot

        check_plot(plot)
    with Rag.open(folder, config) as rag:
        catalog = rag.catalog
        names = names_of(rag, name)
        asked = read_queries(queries) if queries is not None else draw_queries(catalog, num_queries, seed)
        curves = [
            measure(rag, each, asked, k, rounds=rounds, on_progress=lambda said: err.print(said, style="dim", markup=False))
            for each in names
        ]
    if as_json:
        source = {"file": queries.name} if queries is not None else {"sentences_drawn": len(asked), "seed": seed}
        print_json({"queries": source, "indexes": curves})
    else:
        out.print(table_of(curves))
        for curve in curves:
            if curve.encode_milliseconds:
                out.print(
                    f"- {curve.index}: encoding a query takes {curve.encode_milliseconds:.2f} ms more (median).", markup=False
                )
            if curve.exact:
                out.print(f"- {curve.index}: searches exactly, there is nothing to trade.", markup=False)
    if plot is not None:
        from rag.curve_plot import draw

        draw(curves, plot)


def table_of(curves: list[Curve]) -> Table:
    """A row per setting; the one in force is marked."""
    from rich.table import Table

    first = curves[0]
    table = Table(title=f"{first.num_queries} queries, {first.num_chunks} chunks, {first.rounds} rounds", title_justify="left")
    for heading in ("index", "setting", f"recall@{first.k}", "p50 ms", "p95 ms", "in force"):
        table.add_column(heading, justify="left" if heading in ("index", "setting", "in force") else "right")
    for curve in curves:
        for point in curve.points:
            found = "exact" if curve.exact else "unknown" if point.recall is None else f"{point.recall:.4f}"
            spent = (f"{point.p50_milliseconds:.3f}", f"{point.p95_milliseconds:.3f}")
            table.add_row(f"{curve.index} ({curve.use})", point.setting, found, *spent, "yes" if point.configured else "")
    return table
