"""The peers of `generation.py`, each in a process of its own: `llama FOLDER` and `transformers FOLDER`.

`llama` writes a GGUF file with 8-bit weights from the folder's float weights, serves it with llama.cpp's server (the
package xllamacpp) and prints the address. `transformers` reads a JSON list of [at, prompt, tokens] a line, and prints
when each token came.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

SLOTS, WINDOW, THREADS = 16, 1024, 2


def write_gguf(folder: Path, target: Path) -> None:
    """GPT-2 as llama.cpp reads it: matrices in Q8_0, the rest in float32."""
    import gguf
    from safetensors.numpy import load_file

    weights = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(str(target), "gpt2")
    writer.add_context_length(WINDOW)
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(4 * config["n_embd"])
    writer.add_block_count(config["n_layer"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    count = config["vocab_size"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"w{number}" for number in range(count - 1)] + ["<|endoftext|>"])
    writer.add_token_types([1] * (count - 1) + [3])
    writer.add_token_merges(["w 0"])
    writer.add_bos_token_id(count - 1)
    writer.add_eos_token_id(count - 1)

    def add(name: str, value: np.ndarray, *, turn: bool = False, round_: bool = False) -> None:
        array = np.ascontiguousarray(value.T if turn else value, np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0 if round_ else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(array, kind) if round_ else array, raw_dtype=kind)

    find = {name.removeprefix("transformer."): value for name, value in weights.items()}
    add("token_embd.weight", find["wte.weight"], round_=True)
    add("output.weight", find["wte.weight"], round_=True)
    add("position_embd.weight", find["wpe.weight"])
    for kind in ("weight", "bias"):
        add(f"output_norm.{kind}", find[f"ln_f.{kind}"])
    parts = {"attn_norm": "ln_1", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj"}
    parts |= {"ffn_norm": "ln_2", "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}
    for layer in range(config["n_layer"]):
        for theirs, ours in parts.items():
            for kind in ("weight", "bias"):
                matrix = kind == "weight" and "norm" not in theirs
                value = find[f"h.{layer}.{ours}.{kind}"]
                add(f"blk.{layer}.{theirs}.{kind}", value, turn=matrix, round_=matrix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama(folder: Path) -> None:
    import xllamacpp

    file = folder.parent / "model-q8_0.gguf"
    if not file.exists():
        write_gguf(folder, file)
    options = xllamacpp.CommonParams()
    options.model.path = str(file)
    options.n_parallel, options.n_ctx = SLOTS, SLOTS * WINDOW
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = THREADS
    options.n_gpu_layers, options.warmup, options.port = 0, True, 0
    server = xllamacpp.Server(options)
    print(json.dumps({"url": server.listening_address}), flush=True)
    sys.stdin.read()


def transformers(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

    torch.set_num_threads(THREADS)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
    generation = GenerationConfig(do_sample=True, temperature=0.8, eos_token_id=-1, pad_token_id=0, max_new_tokens=64)
    batching = ContinuousBatchingConfig(num_blocks=64, page_size=256, max_batch_tokens=512)
    manager = model.init_continuous_batching(generation_config=generation, continuous_batching_config=batching)
    manager.start()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(play(manager, json.loads(line))), flush=True)
    manager.stop(block=True)


def play(manager: Any, requests: list[list[Any]]) -> list[dict[str, Any]]:
    """When each request came and each of its tokens did."""
    since = time.perf_counter()
    coming = sorted(enumerate(requests), key=lambda item: item[1][0])
    found: dict[str, dict[str, Any]] = {}
    open_ones = len(requests)
    while open_ones:
        now = time.perf_counter() - since
        while coming and coming[0][1][0] <= now:
            at, (_, prompt, tokens) = coming.pop(0)
            name = manager.add_request(prompt, f"{since}-{at}", max_new_tokens=tokens, streaming=True)
            found[name] = {"at": at, "asked": now, "tokens": []}
        wait = max(coming[0][1][0] - now, 0.001) if coming else 0.1
        output = manager.get_result(timeout=min(wait, 0.1))
        if output is None:
            continue
        if output.error:
            raise RuntimeError(output.error)
        entry = found[output.request_id]
        new = len(output.generated_tokens) - len(entry["tokens"])
        entry["tokens"] += [time.perf_counter() - since] * new
        open_ones -= output.is_finished()
    return sorted(found.values(), key=lambda entry: int(entry["at"]))


if __name__ == "__main__":
    {"llama": llama, "transformers": transformers}[sys.argv[1]](Path(sys.argv[2]))
