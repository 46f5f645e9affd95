"""Voices whose packages are not in this environment: the worker says what to do."""

import importlib.util

import pytest

from workers.engines import EngineError, find


@pytest.mark.parametrize(
    ("name", "package", "remedy"),
    [
        ("chatterbox", "chatterbox", r"make install-chatterbox, .* TTS_PYTHON=\.venv-chatterbox/bin/python"),
        ("pocket", "pocket_tts", r"pip install pocket-tts, .* TTS_PYTHON"),
    ],
)
async def test_a_package_that_is_not_installed(name, package, remedy):
    """At load, not at import: the name is known everywhere."""
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed here")
    with pytest.raises(EngineError, match=remedy):
        await find("tts", name).load()


def test_a_wrong_setting_is_named(monkeypatch, capsys):
    """With what was expected; the worker ends with the code for a wrong configuration."""
    monkeypatch.setenv("CHATTERBOX_VARIANT", "french")
    monkeypatch.setenv("CHATTERBOX_CFG_WEIGHT", "0")
    with pytest.raises(SystemExit) as ended:
        find("tts", "chatterbox")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "CHATTERBOX_VARIANT=french: expected one of english, multilingual, turbo" in said
    assert "CHATTERBOX_CFG_WEIGHT=0: expected a number > 0 and <= 5" in said
