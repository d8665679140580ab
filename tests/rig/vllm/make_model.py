"""Writes the smallest model that vLLM loads into a folder: a config, a tokenizer, a chat template, no weights.

A script for the Python of `.vllm/`, which has `tokenizers`: `python make_model.py [--ends] FOLDER TEXT…`. The tokenizer
learns from the texts. vLLM makes random weights (`--load-format dummy`): the answers are noise, and the rest is as with
any model. No token ends an answer, it goes on until `max_tokens` or a `stop` text; with `--ends` one does, as a grammar
needs it: vLLM 0.32.0 fails a call whose JSON is complete and cannot end.
"""

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as Bytes
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

VOCABULARY = 2048
POSITIONS = 8192
BEGIN, END = "<|begin|>", "<|end|>"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": POSITIONS,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    # Llama's defaults would name tokens that mean something else here.
    "bos_token_id": 0,
    "eos_token_id": None,
    "torch_dtype": "bfloat16",
}
TEMPLATE = (
    "{% for message in messages %}" + BEGIN + "{{ message['role'] }}\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}" + BEGIN + "assistant\n{% endif %}"
)


def write(folder: Path, texts: list[Path], *, ends: bool) -> None:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = Bytes()
    learning = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BEGIN, END] if ends else [BEGIN],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(text) for text in texts], learning)
    if tokenizer.get_vocab_size() != VOCABULARY:
        # vLLM would generate ids without a text, and an answer of only such ids is empty.
        raise SystemExit(
            f"the texts are too short: {tokenizer.get_vocab_size()} tokens learnt, {VOCABULARY} wanted"
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "model_max_length": POSITIONS,
        "chat_template": TEMPLATE,
    }
    end = {"eos_token": END} if ends else {}
    (folder / "tokenizer_config.json").write_text(json.dumps({**about, **end}, indent=1))
    # Its id is its place among the special tokens.
    config = {**CONFIG, "eos_token_id": 1} if ends else CONFIG
    (folder / "config.json").write_text(json.dumps(config, indent=1))


if __name__ == "__main__":
    ends = sys.argv[1] == "--ends"
    folder, *texts = sys.argv[2 if ends else 1 :]
    write(Path(folder), [Path(text) for text in texts], ends=ends)
