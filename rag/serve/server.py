"""``rag serve``: the routes and what protects them. Knows HTTP; the pipeline does the work.

Reads run in threads beside each other; uploads are ingested one after the other by ``rag.serve.jobs``.
"""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from fastapi import FastAPI, HTTPException, Request, UploadFile
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from rag import __version__, tracing
from rag.core import PUBLIC, Document, Event
from rag.errors import ConfigError, DamagedIndex, IndexNotFound, RagError
from rag.maintain import find_document
from rag.pipeline import Rag
from rag.serve.chat import ChatMessage, ChatRequest, completion, error_event, server_sent_events, turns_of
from rag.serve.jobs import UPLOAD_PREFIX, Jobs, TooBusy
from rag.terminal import plain

OPEN_PATHS = ("/health", "/ready", "/version")


class SearchRequest(BaseModel):
    """``POST /v1/search``."""

    model_config = ConfigDict(extra="forbid")
    query: str = Field(min_length=1)
    k: int = Field(10, ge=1)
    where: str | dict[str, Any] | None = None
    principals: list[str] | None = None
    history: list[ChatMessage] = []


def create_app(rag: Rag) -> FastAPI:
    """The application over one pipeline."""
    settings = rag.config.serve
    jobs = Jobs(rag, settings.max_queued_jobs)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        jobs.close()
        rag.close()

    app = FastAPI(title="Ragstone", version=__version__, lifespan=lifespan)
    _guard(app, rag)

    def asker(principals: list[str] | None) -> list[str]:
        if principals and not settings.trust_principals:
            raise HTTPException(403, "this server does not let requests say who asks (serve.trust_principals)")
        return principals or []

    def checked(text: str) -> str:
        if len(text) > settings.max_query_chars:
            raise HTTPException(413, f"the query has {len(text)} characters; at most {settings.max_query_chars} are allowed")
        return text

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/version")
    def version() -> dict[str, str]:
        return {"version": __version__}

    @app.get("/ready")
    def ready() -> dict[str, Any]:
        try:
            with rag.catalog.reading() as read:
                documents, chunks = read.counts()
        except RagError as error:
            raise HTTPException(503, str(error)) from None
        return {"status": "ready", "documents": documents, "chunks": chunks}

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "rag", "object": "model", "owned_by": "ragstone"}]}

    @app.post("/v1/search")
    def search(request: SearchRequest) -> dict[str, Any]:
        if request.k > settings.max_k:
            raise HTTPException(413, f"k is {request.k}; at most {settings.max_k} is allowed")
        who, turns = asker(request.principals), turns_of(request.history)
        hits = rag.search(checked(request.query), request.k, where=request.where, principals=who, history=turns)
        with rag.catalog.reading() as read:
            sources = {row.id: row.source for row in read.documents(sorted({hit.chunk.doc_id for hit in hits}))}
        return {"hits": [{**plain(hit), "source": sources.get(hit.chunk.doc_id)} for hit in hits]}

    @app.post("/v1/chat/completions")
    def chat(request: ChatRequest) -> Response:
        question = checked(request.question)
        who = asker(request.principals)
        if not request.stream:
            return JSONResponse(
                completion(request, rag.ask(question, where=request.where, principals=who, history=request.history))
            )
        events = rag.stream(question, where=request.where, principals=who, history=request.history)
        first = next(events)  # errors of the request itself still become a status code
        return StreamingResponse(_lines(request, first, events), media_type="text/event-stream")

    @app.get("/v1/documents")
    def documents() -> dict[str, Any]:
        rows = [row for row in rag.documents() if PUBLIC in row.principals]
        return {"data": [{"id": row.id, "source": row.source, "chunks": row.num_chunks, "meta": row.meta} for row in rows]}

    @app.post("/v1/documents", status_code=202)
    def upload(files: list[UploadFile]) -> dict[str, Any]:
        named = [(_safe_name(file.filename or ""), file.file.read()) for file in files]
        job = jobs.submit(named, (PUBLIC,))
        return {"job": job.id, "status": job.status, "documents": [Document.id_of(UPLOAD_PREFIX + name) for name, _ in named]}

    @app.get("/v1/jobs/{job_id}")
    def job(job_id: str) -> dict[str, Any]:
        found = jobs.get(job_id)
        if found is None:
            raise HTTPException(404, f"there is no job {job_id!r}")
        return {"job": found.id, "status": found.status, "documents": found.documents, "failed": dict(found.failed)}

    @app.delete("/v1/documents/{doc_id}")
    def delete(doc_id: str) -> dict[str, Any]:
        with rag.catalog.reading() as read:
            row = find_document(read, doc_id)
        if row is None:
            raise HTTPException(404, f"there is no document {doc_id!r}")
        return {"deleted": rag.delete(row.id, missing_ok=True)}

    return app


def _lines(request: ChatRequest, first: Event, events: Iterator[Event]) -> Iterator[str]:
    def whole() -> Iterator[Event]:
        yield first
        yield from events

    try:
        yield from server_sent_events(request, whole())
    except (RagError, OSError) as error:
        yield error_event(str(error), type(error).__name__)


def _safe_name(name: str) -> str:
    """The last part of an uploaded name, whatever system's separators it uses. Raises 422 if nothing is left."""
    last = PurePosixPath(PureWindowsPath(name).as_posix()).name.strip()
    if not last or last in (".", "..") or "\0" in last or len(last) > 255:
        raise HTTPException(422, f"{name!r} is no file name")
    return last


def _guard(app: FastAPI, rag: Rag) -> None:
    """Size limit, key, and errors as ``{"error": {"message", "type"}}`` with a fitting status."""
    settings = rag.config.serve
    max_bytes = settings.max_body_mb * 2**20

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        if settings.api_key and request.url.path not in OPEN_PATHS:
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), settings.api_key.encode()):
                return _error(401, "a valid key is required as a bearer token", "Unauthorized")
        length = request.headers.get("content-length")
        if length is not None and (not length.isdigit() or int(length) > max_bytes):
            return _error(413, f"the body is larger than {settings.max_body_mb} MiB", "BodyTooLarge")
        if length is None and request.method in ("POST", "PUT", "PATCH"):
            return _error(411, "a Content-Length header is required", "LengthRequired")
        with tracing.parent(request.headers):
            return await call_next(request)

    statuses: list[tuple[type[Exception], int]] = [
        (ConfigError, 422), (IndexNotFound, 503), (TooBusy, 429), (DamagedIndex, 500), (RagError, 502), (ValueError, 422),
    ]  # fmt: skip
    for kind, status in statuses:

        def handler(request: Request, error: Exception, status: int = status) -> JSONResponse:
            return _error(status, str(error), type(error).__name__)

        app.add_exception_handler(kind, handler)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, str(error.detail), "HTTPError")


def _error(status: int, message: str, kind: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": kind}}, status_code=status)


def run(rag: Rag, *, host: str | None = None, port: int | None = None) -> None:
    """Listens until it is told to stop (SIGINT, SIGTERM), then finishes the requests in hand."""
    import uvicorn

    settings = rag.config.serve
    uvicorn.run(create_app(rag), host=host or settings.host, port=settings.port if port is None else port, log_level="info")
