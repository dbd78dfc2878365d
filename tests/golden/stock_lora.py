"""Adapters as llama.cpp's own converter writes them, served beside the PEFT directories they were made of.

    python tests/golden/stock_lora.py build/lodge LLAMA_CPP

LLAMA_CPP is its source tree (convert_lora_to_gguf.py, gguf-py); needs torch, transformers, peft, safetensors, gguf. For each test
adapter whose meaning the converter keeps (it writes neither rsLoRA's scale nor alpha_pattern) the log-probabilities of a greedy
reply must be the same from both forms, and others than the base's."""
import json
import os
import subprocess
import sys
import tempfile
import urllib.request

BASES = {"plain": "llama2-f32", "all": "llama2-f32", "qwen3": "qwen3-f16", "gemma2": "gemma2-bf16", "granite": "granite-f16",
         "starcoder2": "starcoder2-f16", "fused": "phi3-f16"}
PORT = 8557


def ask(path, body=None):
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", body and json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))


def reply(model):
    d = ask("/v1/completions", {"model": model, "prompt": [5, 9, 33, 2, 17, 40, 8, 21], "max_tokens": 12, "temperature": 0, "logprobs": 1,
                                "ignore_eos": True})
    return d["choices"][0]["logprobs"]["token_logprobs"]


def check(lodge, converter, name, folder):
    base, peft, stock = f"tests/data/models/{BASES[name]}", f"tests/data/adapters/{name}", f"{folder}/{name}.gguf"
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": f"{converter}/gguf-py"}
    subprocess.run([sys.executable, f"{converter}/convert_lora_to_gguf.py", "--base", base, "--outtype", "f32", "--outfile", stock, peft],
                   check=True, capture_output=True, env=env)
    server = subprocess.Popen([lodge, "serve", base, "--port", str(PORT), "--pool-bytes", "64M", "--lora-modules", f"peft={peft}",
                               f"stock={stock}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        for line in server.stderr:
            if line.startswith("ready "):
                break
        got = {m: reply(m) for m in (os.path.basename(base), "peft", "stock")}
    finally:
        server.terminate()
        server.wait()
    same, effect = got["peft"] == got["stock"], got["peft"] != got[os.path.basename(base)]
    print(f"{name} on {BASES[name]}: {'the same' if same else 'DIFFERENT'}{'' if effect else ', but the adapter has no effect'}")
    return same and effect


with tempfile.TemporaryDirectory() as where:
    sys.exit(not all([check(sys.argv[1], sys.argv[2], name, where) for name in BASES]))
