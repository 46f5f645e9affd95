"""How a session's audio is cut for a streaming encoder; no model is needed."""

import numpy as np
import pytest

from workers.stt.engines.nemo_stream import Grid, Stream

GRIDS = [Grid(hop=160, reach=200, chunk=chunk, lookback=9) for chunk in (112, 56, 16, 8)]
"""Of the attention contexts 70,13 70,6 70,1 and 70,0."""


def noise(samples):
    return np.random.default_rng(0).integers(-20_000, 20_000, samples).astype("<i2")


def stepped(stream):
    """The windows of all steps that are ready."""
    windows = []
    while stream.ready:
        windows.append(stream.window())
        stream.advance()
    return windows


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("piece", [2, 640, 2_562, 1_000_000])
def test_windows_are_those_of_the_whole_audio(grid, piece):
    """Whatever the pieces it comes in, step k's window is the audio around chunk k, with silence before the first."""
    audio = noise(4 * grid.step + 77)
    stream, windows = Stream(grid), []
    pcm = audio.tobytes()
    for at in range(0, len(pcm), piece):
        stream.append(pcm[at : at + piece])
        windows += stepped(stream)
    assert len(windows) == 4
    whole = np.concatenate([np.zeros(grid.history, "<i2"), audio]).astype(np.float32) / 32768
    for step, window in enumerate(windows):
        assert np.array_equal(window, whole[step * grid.step :][: grid.window()])


@pytest.mark.parametrize("grid", GRIDS)
def test_a_step_waits_for_the_reach_of_its_last_frame_and_no_longer(grid):
    stream = Stream(grid)
    stream.append(bytes(2 * (grid.step + grid.reach - grid.hop - 1)))
    assert not stream.ready
    stream.append(bytes(2))
    assert stream.ready


def test_frames_before_the_first_sample_are_counted():
    """The encoder's lookback reaches before the beginning for as many steps as are shorter than it."""
    stream = Stream(GRIDS[3])
    born = []
    for _ in range(3):
        born.append(stream.unborn)
        stream.append(bytes(2 * GRIDS[3].step))
        stream.advance()
    assert born == [9, 1, 0]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("extra", [0, 1, 40, 41, 500])
def test_an_utterance_starts_on_the_grid(grid, extra):
    """What is pending when one starts is rounded to whole steps, which are not the utterance's: 2.5 ms are left out."""
    stream = Stream(grid)
    stream.append(noise(2 * grid.step + extra).tobytes())
    stepped(stream)
    stream.begin()
    first = noise(grid.step)
    before = stream.ignored
    stream.append(first.tobytes() + bytes(2 * grid.reach))
    windows = stepped(stream)
    assert len(windows) == before + 1
    assert stream.ignored == 0
    assert np.array_equal(windows[-1][grid.history :][: grid.step], first.astype(np.float32) / 32768)


def test_context_that_ends_on_the_grid_is_not_touched():
    """A whole number of steps before an utterance stays as it is, its last step still waiting for the reach."""
    grid = GRIDS[0]
    stream = Stream(grid)
    context = noise(5 * grid.step)
    stream.append(context.tobytes())
    assert len(stepped(stream)) == 4
    stream.begin()
    assert stream.ignored == 1 and stream.pending == grid.step


@pytest.mark.parametrize("grid", GRIDS)
def test_a_look_to_the_end_changes_nothing(grid):
    """The window of a flush holds all that is pending and the silence asked for; the stream is as before."""
    stream = Stream(grid)
    stream.append(noise(grid.step // 2).tobytes())
    chunks = stream.chunks_to_end(6_400)
    window = stream.window(chunks)
    assert len(window) == grid.window(chunks)
    assert chunks * grid.step >= stream.pending + 6_400 > (chunks - 1) * grid.step
    assert not window[grid.history + grid.step // 2 :].any()
    assert stream.pending == grid.step // 2 and stream.unborn == 9


def test_half_a_sample_is_refused():
    with pytest.raises(ValueError, match="3 bytes"):
        Stream(GRIDS[0]).append(b"abc")
