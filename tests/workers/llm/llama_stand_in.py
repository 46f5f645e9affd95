"""A llama-server for tests: it behaves as the real one was measured to, and ``test_llama`` holds it to the real one."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from tests.workers.llm.llm_stand_in import Gone, HttpServer, chunk


@dataclass(eq=False)
class Job:
    """One completion task of the server."""

    task: int
    slot: int
    prompt: list[str]
    progress: bool
    longest: int
    cached: int = 0
    processed: int = 0
    decoded: int = 0
    results: deque = field(default_factory=deque)
    cancelled: bool = False


@dataclass
class LlamaSlot:
    """One slot; ``task`` stays when the job has left."""

    number: int
    task: int | None = None
    job: Job | None = None
    kept: list[str] = field(default_factory=list)
    """The tokens whose cache it holds."""


class LlamaServer(HttpServer):
    """llama-server's timing and shapes (llama.cpp 0c1e57098), with words for tokens.

    * A closed connection is noticed when a result of its own request is sent, or when ``timer_s`` pass without a result
      of any request: every answer to ``/slots`` starts that time anew.
    * A cancel is carried out between two decodes; a decode is one token of every generating slot, or one batch.
    * A request whose slot works is queued, in order, without headers; nobody looks whether its client is still there.
    """

    def __init__(
        self, *, slots=1, token_s=0.01, batch_s=0.03, batch=32, timer_s=1.0, context=8192, endpoint=True, progress=True
    ):
        super().__init__()
        self.slots = [LlamaSlot(number) for number in range(slots)]
        self.loading = False
        self.released: list[tuple[int, float]] = []
        """(task, time) of every cancelled job's end."""
        self._token_s, self._batch_s, self._batch, self._timer_s = token_s, batch_s, batch, timer_s
        self._context, self._endpoint, self._progress = context, endpoint, progress
        self._tasks = 0
        self._queue: list[Job] = []
        self._work = asyncio.Event()
        self._notices: set[asyncio.Event] = set()

    async def __aenter__(self):
        self._decoding = asyncio.create_task(self._decode())
        return await super().__aenter__()

    async def __aexit__(self, *exc):
        self._decoding.cancel()
        await asyncio.gather(self._decoding, return_exceptions=True)
        await super().__aexit__(*exc)

    async def answer(self, request, wire):
        if self.loading:
            error = {"message": "Loading model", "type": "unavailable_error", "code": 503}
            await wire.json(503, {"error": error})
        elif request.path == "/props":
            await wire.json(200, {"total_slots": len(self.slots), "endpoint_slots": self._endpoint, "model_path": "m"})
        elif request.path == "/slots":
            await self._show(wire)
        elif request.path == "/v1/chat/completions":
            await self._complete(request.body, wire)
        else:
            await wire.json(404, {"error": {"message": "File Not Found", "type": "not_found_error", "code": 404}})

    async def _show(self, wire):
        if not self._endpoint:
            text = "This server does not support slots endpoint. Start it with `--slots`"
            await wire.json(501, {"error": {"code": 501, "message": text, "type": "not_supported_error"}})
            return
        self._notify()
        await wire.json(200, [self._shown(slot) for slot in self.slots])

    def _shown(self, slot):
        shown = {"id": slot.number, "n_ctx": self._context, "speculative": False, "is_processing": slot.job is not None}
        if slot.task is not None:
            job = slot.job
            shown |= {
                "id_task": slot.task,
                "n_prompt_tokens": len(job.prompt) if job else len(slot.kept),
                "n_prompt_tokens_processed": job.processed - job.cached if job else 0,
                "n_prompt_tokens_cache": job.cached if job else 0,
                "next_token": [{"n_decoded": job.decoded if job else 0}],
            }
        return shown

    async def _complete(self, body, wire):
        prompt = [word for message in body["messages"] for word in (message["role"], *message["content"].split())]
        if len(prompt) > self._context:
            text = f"request ({len(prompt)} tokens) exceeds the available context size ({self._context} tokens)"
            await wire.json(400, {"error": {"code": 400, "message": text, "type": "exceed_context_size_error"}})
            return
        self._tasks += 1
        wanted = body.get("id_slot", -1)
        progress = self._progress and body.get("return_progress", False)
        job = Job(self._tasks, wanted % len(self.slots) if wanted >= 0 else -1, prompt, progress,
                  body.get("max_tokens") or 10_000)  # fmt: skip
        self._queue.append(job)
        self._work.set()
        begun = False
        try:
            while True:
                await self._result(job, wire)
                if wire.closed:
                    raise Gone
                data = job.results.popleft()
                if not begun:
                    await wire.begin()
                    begun = True
                if data is None:
                    break
                await wire.send(data)
            await wire.send(b"data: [DONE]\n\n")
            await wire.end()
        except (Gone, ConnectionError):
            job.cancelled = True
            self._work.set()
            raise

    async def _result(self, job, wire):
        """Wait for a result of this request; look for the client only after ``timer_s`` without anybody's result."""
        while not job.results:
            notice = asyncio.Event()
            self._notices.add(notice)
            try:
                async with asyncio.timeout(self._timer_s):
                    await notice.wait()
            except TimeoutError:
                if wire.closed:
                    raise Gone from None
            finally:
                self._notices.discard(notice)

    def _notify(self):
        for notice in self._notices:
            notice.set()

    # -- the thread that decodes

    async def _decode(self):
        while True:
            self._carry_out()
            working = [slot.job for slot in self.slots if slot.job]
            if not working:
                self._work.clear()
                await self._work.wait()
                continue
            reading = any(job.processed < len(job.prompt) for job in working)
            await asyncio.sleep(self._batch_s if reading else self._token_s)
            for slot in self.slots:
                if slot.job is not None:
                    job = slot.job
                    had = len(job.results)
                    self._step(slot, job)
                    if len(job.results) > had:
                        self._notify()

    def _carry_out(self):
        """Release cancelled jobs, then launch queued ones in order."""
        for slot in self.slots:
            if slot.job is not None and slot.job.cancelled:
                self.released.append((slot.job.task, asyncio.get_running_loop().time()))
                self._release(slot)
        for job in list(self._queue):
            slot = self._slot_for(job)
            if slot is not None:
                self._queue.remove(job)
                self._launch(slot, job)

    def _slot_for(self, job):
        free = [slot for slot in self.slots if slot.job is None]
        if job.slot >= 0:
            return self.slots[job.slot] if self.slots[job.slot].job is None else None
        return max(free, key=lambda slot: _shared(slot.kept, job.prompt), default=None)

    def _launch(self, slot, job):
        slot.job, slot.task = job, job.task
        job.slot = slot.number
        job.cached = job.processed = min(_shared(slot.kept, job.prompt), len(job.prompt) - 1)
        slot.kept = job.prompt[: job.cached]
        # Without progress the server sends the headers at this point, and the role with the first token.
        job.results.append(self._reading(job) if job.progress else b": begin\n\n")
        self._notify()

    def _step(self, slot, job):
        if job.processed < len(job.prompt):
            job.processed = min(job.processed + self._batch, len(job.prompt))
            slot.kept = job.prompt[: job.processed]
            if job.progress:
                job.results.append(self._reading(job))
            if job.processed < len(job.prompt):
                return
        if job.decoded == 0:
            job.results.append(chunk({"role": "assistant", "content": None}))
        job.decoded += 1
        slot.kept.append(f"w{job.decoded}")
        job.results.append(chunk(f"w{job.decoded} "))
        if job.decoded >= job.longest:
            timings = {"cache_n": job.cached, "prompt_n": len(job.prompt) - job.cached, "predicted_n": job.decoded}
            job.results += [chunk({}, "length", timings=timings), None]
            self._release(slot)

    def _reading(self, job):
        progress = {"total": len(job.prompt), "cache": job.cached, "processed": job.processed, "time_ms": 1}
        return chunk({"role": "assistant", "content": None}, prompt_progress=progress)

    def _release(self, slot):
        slot.job = None


def _shared(one, two):
    """How many leading words two prompts share."""
    count = 0
    for a, b in zip(one, two, strict=False):
        if a != b:
            break
        count += 1
    return count
