"""``rag kv``: look at, fill, empty and check the cache of keys and values. Knows typer; the generator and ``rag.kvcache`` do the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

kv_app = typer.Typer(help="The cache of keys and values that `generator: {use: kv}` answers from.", no_args_is_help=True)

IndexOption = Annotated[Path, typer.Option("--index", "-i", envvar="RAG_INDEX", help="Folder of the index.")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", envvar="RAG_CONFIG", help="YAML configuration; default: the index's own.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
KVOption = Annotated[str | None, typer.Option("--kv", help="Answer by this way of reusing keys and values, such as combined.")]
LMOption = Annotated[
    str | None, typer.Option("--lm", help="Folder or hub id of the language model, in place of the configured one.")
]
DEFAULT_INDEX = Path("rag.index")


def with_kv(index: Path, config: Path | None, method: str | None, lm: str | None) -> Any:
    """The opened index, its generator and language model as these two options of the command line say."""
    from rag.pipeline import Rag

    rag = Rag.open(index, config)
    _ = rag.catalog
    if method is None and lm is None:
        return rag
    raw = rag.config.model_dump(mode="json")
    if lm is not None:
        raw["models"] = {**raw["models"], "lm": {"use": "transformers", "model": lm}}
    if method is not None:
        given = raw["generator"] if raw["generator"]["use"] == "kv" else {}
        raw["generator"] = {**given, "use": "kv", "method": method}
    elif raw["generator"]["use"] not in ("lm", "kv"):
        raw["generator"] = {"use": "lm"}
    return Rag.open(index, raw)


def _generator(index: Path, config: Path | None, method: str | None = None, lm: str | None = None) -> tuple[Any, Any]:
    from rag.errors import ConfigError

    rag = with_kv(index, config, method, lm)
    if rag.config.generator.use != "kv":
        raise ConfigError(
            f"the index answers with `generator: {{use: {rag.config.generator.use}}}`; only `use: kv` keeps keys and values (or say --kv)"
        )
    return rag, rag.generator


@kv_app.command()
def stats(
    index: IndexOption = DEFAULT_INDEX,
    config: ConfigOption = None,
    kv: KVOption = None,
    lm: LMOption = None,
    as_json: JsonOption = False,
) -> None:
    """What is kept, where, and what it was good for."""
    from dataclasses import asdict

    from rag.terminal import out, print_json

    _, generator = _generator(index, config, kv, lm)
    told = asdict(generator.store.stats())
    if as_json:
        print_json(told)
        return
    for name, value in told.items():
        shown = "  ".join(f"{tier} {amount:,}" for tier, amount in value.items()) if isinstance(value, dict) else f"{value:,}"
        out.print(f"{name.replace('_', ' '):18} {shown or '-'}", highlight=False)


@kv_app.command()
def warm(index: IndexOption = DEFAULT_INDEX, config: ConfigOption = None, kv: KVOption = None, lm: LMOption = None) -> None:
    """Compute the keys and values of every chunk that is missing, as far as the budgets go."""
    from rag.errors import RagError
    from rag.terminal import err, out

    rag, generator = _generator(index, config, kv, lm)
    num_computed = num_known = num_refused = 0
    seconds, after = 0.0, -1
    try:
        while True:
            with rag.catalog.reading() as read:
                rows = read.all_chunks(after, 64)
            if not rows:
                break
            after = rows[-1][0]
            warmed = generator.warm([chunk for _, chunk in rows])
            num_computed, num_known = num_computed + warmed.num_computed, num_known + warmed.num_known
            num_refused, seconds = num_refused + warmed.num_refused, seconds + warmed.seconds
            if err.is_terminal:
                err.print(f"[dim]{num_computed + num_known} chunks ...[/]", end="\r")
    except KeyboardInterrupt:
        generator.store.flush()
        raise RagError("interrupted; what was computed is kept, and the same command goes on from there") from None
    generator.store.flush()
    refused = f", {num_refused} refused (budgets)" if num_refused else ""
    out.print(f"{num_computed} chunks computed, {num_known} were there{refused}, {seconds:.1f} s")


@kv_app.command()
def clear(index: IndexOption = DEFAULT_INDEX, config: ConfigOption = None, kv: KVOption = None, lm: LMOption = None) -> None:
    """Forget everything. Answers stay what they are; they take longer until it is computed again."""
    from rag.terminal import out

    _, generator = _generator(index, config, kv, lm)
    before = generator.store.stats().entries
    generator.store.clear()
    generator.store.flush()
    out.print(f"{before} entries forgotten")


@kv_app.command()
def check(
    index: IndexOption = DEFAULT_INDEX,
    config: ConfigOption = None,
    kv: KVOption = None,
    lm: LMOption = None,
    num_prompts: Annotated[
        int, typer.Option("--num-prompts", min=1, help="Questions (sentences drawn from the index's own chunks).")
    ] = 20,
    questions: Annotated[
        Path | None,
        typer.Option("--questions", exists=True, dir_okay=False, help="Ask these instead of drawn sentences: text, one a line."),
    ] = None,
    num_tokens: Annotated[int, typer.Option("--num-tokens", min=1, help="Answer tokens to compare.")] = 16,
    shares: Annotated[
        str, typer.Option("--shares", help="Shares of reused tokens to compute anew, comma-separated.")
    ] = "0.15,0.3,0.5",
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    as_json: JsonOption = False,
) -> None:
    """Does reuse keep this model's answers on your documents? The verdict is kept and obeyed; exit code 1 if nothing passes."""
    from dataclasses import asdict

    from rag.curve_queries import draw_queries
    from rag.errors import RagError
    from rag.kvcache.compare import check as compare
    from rag.terminal import err, out, print_json

    tried = _shares(shares)
    rag, generator = _generator(index, config, kv, lm)
    try:
        prompts = []
        for query in draw_queries(rag.catalog, num_prompts, seed) if questions is None else _questions(questions):
            hits = rag.search(query)
            prompts.append(generator.writer.write(query, hits, generator.room()).prompt)
        ends = generator.lm.opened().end_ids
        engine = generator.engine.with_method(
            generator.method, generator.recompute
        )  # as configured, not as an earlier verdict has it
        rows = compare(
            engine, prompts, tried, ends, num_tokens,
            lambda done, of: err.print(f"[dim]{done} of {of} prompts ...[/]", end="\r") if err.is_terminal else None,
        )  # fmt: skip
    except KeyboardInterrupt:
        generator.store.flush()
        raise RagError("interrupted; no verdict was written, an earlier one stands") from None
    generator.gate.record(rows)
    verdict = generator.gate.verdict(generator.method.name, generator.recompute)
    if as_json:
        print_json({"measured": [asdict(row) | {"passes": row.passes} for row in rows], "verdict": verdict and asdict(verdict)})
    else:
        for row in rows:
            word = "passes" if row.passes else "fails"
            out.print(
                f"{row.method} at {row.recompute:g}: KL {row.kl_nats:.4f} nats, equal answers {row.answer_match:.0%}  {word}",
                highlight=False,
            )
        out.print(verdict.why if verdict else "an exact method needs no check", highlight=False)
    if verdict is not None and verdict.recompute is None:
        raise typer.Exit(1)


def _questions(path: Path) -> list[str]:
    if not (asked := [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]):
        raise ValueError(f"--questions {path}: there is no question in it")
    return asked


def _shares(text: str) -> list[float]:
    try:
        shares = sorted(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--shares {text!r}: numbers between 0 and 1, comma-separated, are allowed") from None
    if not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"--shares {text!r}: each must be between 0 and 1")
    return shares
