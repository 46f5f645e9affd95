"""On a GPU: the text is the CPU's, alone and in a batch, with and without CUDA graphs. Skipped where there is none."""

import asyncio

import pytest

nemo_world = pytest.importorskip("tests.workers.stt.nemo_world", reason="NeMo is not installed: make install-nemo")

import torch

from tests.words20 import MODEL
from tests.workers.stt.nemo_world import CONTEXTS, flushed, live, model, speech
from workers.stt.engines.nemo import Nemo
from workers.stt.engines.nemo_graphs import Graphs
from workers.stt.engines.nemo_model import Job, load

NO_GPU = not torch.cuda.is_available()
pytestmark = [pytest.mark.nemo, pytest.mark.skipif(NO_GPU, reason="CUDA: torch sees no GPU here")]

EVERY_CONTEXT = pytest.mark.parametrize("context", [tuple(each) for each in CONTEXTS], ids=str)
GRAPHS = pytest.mark.parametrize("graphs", [False, True], ids=["eager", "graphs"])
PIECE = 2560


def on_gpu(context, *, dtype="float32", graphs=True, sessions=24):
    """The trained model on the GPU, ready for so many sessions."""
    loaded = load(str(MODEL), context, device="cuda", dtype=dtype, cuda_graphs=graphs)
    loaded.reserve(sessions)
    loaded.prepare(sessions)
    return loaded


def alone(loaded, pcm):
    """The text after each step, and after the flush."""
    session = loaded.open()
    texts = [*live(loaded, session, pcm), flushed(loaded, session)]
    loaded.close(session)
    return texts


def together(loaded, recordings):
    """The same of each, in as few steps as possible: they start one after the other and end when they end."""
    sessions = [loaded.open() for _ in recordings]
    texts, fed, going = [[] for _ in recordings], [0] * len(recordings), set(range(len(recordings)))
    tick = 0
    while going:
        jobs = []
        for number in sorted(going):
            session, pcm = sessions[number], recordings[number]
            if tick >= 3 * number and fed[number] < len(pcm) and not session.stream.ready:
                session.stream.append(pcm[fed[number] : fed[number] + PIECE])
                fed[number] += PIECE
            if session.stream.ready or fed[number] >= len(pcm):
                jobs.append((number, Job(session, flush=not session.stream.ready)))
        tick += 1
        if not jobs or tick % 4:
            continue
        for (number, job), heard in zip(jobs, loaded.step([job for _, job in jobs]), strict=True):
            texts[number].append(heard.text)
            if job.flush:
                going.discard(number)
    for session in sessions:
        loaded.close(session)
    return texts


@EVERY_CONTEXT
@GRAPHS
def test_the_text_after_every_step_is_the_cpus(context, graphs):
    """float32, one session after the other."""
    loaded, cpu = on_gpu(context, graphs=graphs), model(context)
    for each in speech()[:8]:
        assert alone(loaded, each.pcm) == alone(cpu, each.pcm)


@EVERY_CONTEXT
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_batch_is_as_each_alone(context, dtype):
    """24 sessions, flushes among them, in recorded batches of any size: the text after every step."""
    loaded = on_gpu(context, dtype=dtype)
    recordings = [each.pcm for each in speech()]
    assert together(loaded, recordings) == [alone(loaded, pcm) for pcm in recordings]


@EVERY_CONTEXT
@GRAPHS
def test_half_precision_hears_the_same_words(context, graphs):
    """bfloat16: the final text is float32's on the CPU."""
    loaded, cpu = on_gpu(context, dtype="bfloat16", graphs=graphs), model(context)
    heard = [(alone(loaded, each.pcm)[-1], alone(cpu, each.pcm)[-1]) for each in speech()]
    assert [one for one, _ in heard] == [other for _, other in heard]


def test_every_step_of_prepared_sizes_is_recorded():
    """After ``prepare`` nothing is recorded any more: neither steps nor flushes."""
    loaded = on_gpu((70, 1))
    recorded = set(loaded._graphs._recorded)
    together(loaded, [each.pcm for each in speech()[:7]])
    assert set(loaded._graphs._recorded) == recorded and len(recorded) >= 40


def test_a_recording_is_replayed_with_new_inputs():
    graphs = Graphs(enabled=True)
    one, other = (torch.full((3,), value, device="cuda") for value in (1.0, 5.0))
    graphs.record("double", lambda each: each * 2, one)
    assert graphs("double", None, other).tolist() == [10, 10, 10]
    graphs.clear()
    assert "double" not in graphs


async def test_the_engine_hears_many_calls_at_once(monkeypatch, tmp_path):
    """24 calls through the engine as the worker uses it, in bfloat16 with CUDA graphs: the words of each."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"STT_MODEL": MODEL, "STT_ATT_CONTEXT": "70,1", "STT_CAPACITY": 24}.items():
        monkeypatch.setenv(name, str(value))
    engine = Nemo()
    await engine.load()
    assert engine._model.asr.device.type == "cuda"

    async def call(pcm):
        recognizer = await engine.open("en-US")
        await recognizer.begin()
        for at in range(0, len(pcm), 640):
            await recognizer.feed(pcm[at : at + 640])
            await asyncio.sleep(0)
        text = await recognizer.flush()
        await recognizer.close()
        return text

    texts = await asyncio.gather(*(call(each.pcm) for each in speech()))
    assert texts == [alone(model((70, 1)), each.pcm)[-1] for each in speech()]
