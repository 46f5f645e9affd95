"""Write a Piper voice that hums 50 ms for each phoneme, in place of trained weights: ``tone_voice.py FILE.onnx``.

Needs the ``onnx`` package, which ``piper_server`` installs into an environment of its own. Letters are its phonemes.
"""

import json
import string
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RATE = 22_050
SAMPLES = RATE // 20
"""Samples of one phoneme."""


def constant(name, value):
    return numpy_helper.from_array(np.array(value), name)


def write(path: str) -> None:
    """Write the model, and its description beside it as ``FILE.onnx.json``."""
    nodes = [
        helper.make_node("Shape", ["input"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["phonemes"]),
        helper.make_node("Mul", ["phonemes", "samples"], ["length"]),
        helper.make_node("Range", ["zero", "length", "one"], ["time"]),
        helper.make_node("Cast", ["time"], ["seconds"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["seconds", "pitch"], ["phase"]),
        helper.make_node("Sin", ["phase"], ["wave"]),
        helper.make_node("Mul", ["wave", "loudness"], ["sound"]),
        helper.make_node("Reshape", ["sound", "form"], ["output"]),
    ]
    constants = [
        constant("one", np.int64(1)), constant("zero", np.int64(0)), constant("samples", np.int64(SAMPLES)),
        constant("pitch", np.float32(2 * np.pi * 220 / RATE)), constant("loudness", np.float32(0.3)),
        constant("form", np.array([1, 1, 1, -1], np.int64)),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "tone",
        [
            helper.make_tensor_value_info("input", TensorProto.INT64, [1, "n"]),
            helper.make_tensor_value_info("input_lengths", TensorProto.INT64, [1]),
            helper.make_tensor_value_info("scales", TensorProto.FLOAT, [3]),
        ],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 1, 1, "samples"])],
        constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    letters = "_^$ " + string.ascii_lowercase + string.digits + ".,!?'-;:"
    description = {
        "audio": {"sample_rate": RATE},
        "espeak": {"voice": "en-us"},
        "phoneme_type": "text",
        "num_symbols": len(letters),
        "num_speakers": 1,
        "phoneme_id_map": {letter: [number] for number, letter in enumerate(letters)},
    }
    Path(f"{path}.json").write_text(json.dumps(description))


if __name__ == "__main__":
    write(sys.argv[1])
