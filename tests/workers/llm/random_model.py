"""Write a model of the llama architecture with random weights and a small vocabulary: ``random_model.py FILE``.

Needs the ``gguf`` package, which ``llama_server`` installs into an environment of its own.
"""

import sys

import gguf
import numpy as np

LAYERS, WIDTH, INNER, HEADS, CONTEXT = 6, 768, 2048, 12, 32_768
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def vocabulary():
    """(tokens, scores, types): bytes, characters, syllables and two-syllable words."""
    kinds = gguf.TokenType
    tokens = [("<unk>", 0.0, kinds.UNKNOWN), ("<s>", 0.0, kinds.CONTROL), ("</s>", 0.0, kinds.CONTROL)]
    tokens += [(f"<0x{byte:02X}>", 0.0, kinds.BYTE) for byte in range(256)]
    letters = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?':;-|<>\n"
    syllables = [one + two for one in "bcdfghklmnprstvwz" for two in "aeiou"]
    words = ["▁" + one + two for one in syllables[:40] for two in syllables[:6]]
    tokens += [(letter, -100.0 - n, kinds.NORMAL) for n, letter in enumerate(letters)]
    tokens += [(syllable, -10.0 - n / 10, kinds.NORMAL) for n, syllable in enumerate(syllables)]
    tokens += [(word, -1.0 - n / 1000, kinds.NORMAL) for n, word in enumerate(words)]
    return zip(*tokens, strict=True)


def write(path: str) -> None:
    """Write the model."""
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    tokens, scores, types = (list(column) for column in vocabulary())
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(TEMPLATE)

    def matrix(name, rows, columns, spread):
        values = random.standard_normal((rows, columns), dtype=np.float32) * spread
        writer.add_tensor(name, values.astype(np.float16))

    matrix("token_embd.weight", len(tokens), WIDTH, 0.5)
    matrix("output.weight", len(tokens), WIDTH, 0.08)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(WIDTH, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrix(f"blk.{layer}.{name}.weight", WIDTH, WIDTH, WIDTH**-0.5)
        for name in ("ffn_gate", "ffn_up"):
            matrix(f"blk.{layer}.{name}.weight", INNER, WIDTH, WIDTH**-0.5)
        matrix(f"blk.{layer}.ffn_down.weight", WIDTH, INNER, INNER**-0.5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write(sys.argv[1])
