"""A web application that asks three agents. POST a question, then GET how it is doing, and the answers.

pip install 'parley-queue[server]'    # for Starlette and uvicorn; a FastAPI application has the same three functions
NATS_URL=nats://TOKEN@127.0.0.1:4222 uvicorn --app-dir examples web_app:app
curl -i 127.0.0.1:8000/questions -d 'Which is safer?'
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import parley


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """One client for all requests: it is connected once, and all waits share its inbox."""
    async with parley.connect() as client:
        app.state.parley = client
        yield


async def ask(request: Request) -> JSONResponse:
    """Stores the question and answers at once. Nothing is lost if this process ends now."""
    question = (await request.body()).decode()
    try:
        job = await request.app.state.parley.submit(question, agents=3, timeout_seconds=60)
    except parley.InvalidMessage as error:
        return JSONResponse({"error": str(error)}, 422)
    return JSONResponse({"task_id": job.task_id}, 202, headers={"Location": f"/questions/{job.task_id}"})


async def show(request: Request) -> JSONResponse:
    """The answers, or how it is doing if they do not come within 10 s. Any process of the application can tell."""
    job = request.app.state.parley.job(request.path_params["task_id"])
    try:
        ending: parley.Ending = await job.ending(timeout=10)
    except parley.NoEnding:
        return JSONResponse({"status": (await job.status()).status}, 202)
    except parley.UnknownDeliberation:
        return JSONResponse({"error": "no such question"}, 404)
    answers = {result.agent_id: result.proposal.content for result in ending.results}
    return JSONResponse({"status": ending.status, "answers": answers})


async def away(_: Request, error: Exception) -> JSONResponse:
    """NATS or the service cannot be reached now: the caller should try again."""
    return JSONResponse({"error": str(error)}, 503, headers={"Retry-After": "5"})


app = Starlette(
    routes=[
        Route("/questions", ask, methods=["POST"]),
        Route("/questions/{task_id}", show),
    ],
    exception_handlers={parley.Unavailable: away},
    lifespan=lifespan,
)
