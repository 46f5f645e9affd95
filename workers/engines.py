"""Finding an engine by its name: a short one of ours, or ``package.module:Class`` of anybody's."""

import importlib
from typing import Any

BUILT_IN = {
    "stt": {
        "pocketsphinx": "workers.stt.engines.pocketsphinx:PocketSphinx",
        "http": "workers.stt.engines.http:Http",
        "nemo": "workers.stt.engines.nemo:Nemo",
    },
    "llm": {"demo": "workers.llm.engines.demo:Demo", "openai": "workers.llm.engines.openai:OpenAI"},
    "tts": {
        "espeak": "workers.tts.engines.espeak:Espeak",
        "http": "workers.tts.engines.http:Http",
        "chatterbox": "workers.tts.engines.chatterbox:Chatterbox",
        "pocket": "workers.tts.engines.pocket:Pocket",
    },
}


class EngineError(Exception):
    """An engine cannot be found, loaded or used; the text says what to do about it. Never holds a secret."""


def find(stage: str, name: str) -> Any:
    """An instance of the engine class that ``name`` means for ``stage`` (stt, llm or tts). Raises EngineError.

    The module is imported here and nowhere else, so that no engine pays for another's dependencies. The class is
    called without arguments and reads its own settings from the environment.
    """
    path = BUILT_IN[stage].get(name, name)
    module_name, colon, class_name = path.partition(":")
    if not colon:
        known = ", ".join(sorted(BUILT_IN[stage]))
        raise EngineError(f"{stage.upper()}_ENGINE={name}: not known; expected {known} or package.module:Class")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise EngineError(f"{stage.upper()}_ENGINE={name}: cannot import {module_name}: {error}") from error
    try:
        return getattr(module, class_name)()
    except AttributeError as error:
        raise EngineError(f"{stage.upper()}_ENGINE={name}: {error}") from error
