"""Writes a tiny random language model as a GGUF file: what llama.cpp's real server runs in the tests.

Owns: the vocabulary, the weights and the chat template; all of it follows from ``seed``, byte for byte.
Invariant: the model never ends by itself. The end-of-text token and the raw bytes have output weights of zero, so that
some readable piece always scores higher, and a greedy answer is as long as the request allows, in plain ASCII.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

CONTEXT_TOKENS = 65536
EMBEDDING = 48
HEADS = 4
LAYERS = 2
FEED_FORWARD = 96
NAME = "tiny-random"

CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)

_CONSONANTS = "bdfgklmnprstvz"
_VOWELS = "aeiou"


def vocabulary() -> tuple[list[bytes], list[float], list[int]]:
    """Pieces, scores and types of a byte-fallback SentencePiece vocabulary of some 400 tokens."""
    kind = gguf.TokenType
    pieces = [b"<unk>", b"<s>", b"</s>"]
    types = [int(kind.UNKNOWN), int(kind.CONTROL), int(kind.CONTROL)]
    pieces += [f"<0x{value:02X}>".encode() for value in range(256)]
    types += [int(kind.BYTE)] * 256
    syllables = [first + second for first in _CONSONANTS for second in _VOWELS]
    words = ["\N{LOWER ONE EIGHTH BLOCK}" + syllable for syllable in syllables]
    pieces += [piece.encode() for piece in [*syllables, *words, "\N{LOWER ONE EIGHTH BLOCK}", ".", ","]]
    types += [int(kind.NORMAL)] * (len(pieces) - len(types))
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(pieces) - 259)]
    return pieces, scores, types


def write(path: Path, seed: int = 1) -> Path:
    """Write the model to ``path`` (less than 1 MB) and return it."""
    chance = np.random.default_rng(seed)
    pieces, scores, types = vocabulary()
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name(NAME)
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(EMBEDDING)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(EMBEDDING // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(pieces))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)

    def weights(*shape: int, scale: float = 0.4) -> np.ndarray:
        return chance.standard_normal(shape).astype(np.float32) * np.float32(scale)

    output = weights(len(pieces), EMBEDDING)
    output[:259] = 0.0
    writer.add_tensor("token_embd.weight", weights(len(pieces), EMBEDDING, scale=1.0))
    writer.add_tensor("output_norm.weight", np.ones(EMBEDDING, dtype=np.float32))
    writer.add_tensor("output.weight", output)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        writer.add_tensor(block + "attn_norm.weight", np.ones(EMBEDDING, dtype=np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"{block}{name}.weight", weights(EMBEDDING, EMBEDDING))
        writer.add_tensor(block + "ffn_norm.weight", np.ones(EMBEDDING, dtype=np.float32))
        writer.add_tensor(block + "ffn_gate.weight", weights(FEED_FORWARD, EMBEDDING))
        writer.add_tensor(block + "ffn_up.weight", weights(FEED_FORWARD, EMBEDDING))
        writer.add_tensor(block + "ffn_down.weight", weights(EMBEDDING, FEED_FORWARD))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
