"""The short programs that lie in an exported folder: each asks the model with the other side's packages alone."""

from __future__ import annotations

from core.recipe import Recipe

_HEAD = '''\
"""Ask this model a question: python ask.py "What should I see in Paris?"

Needs: pip install {needs}
"""

import argparse
from pathlib import Path
'''

_ARGUMENTS = """
HERE = Path(__file__).resolve().parent
SYSTEM = {system!r}

parser = argparse.ArgumentParser(description="Ask this model.")
parser.add_argument("question")
{adapter}parser.add_argument("--system", default=SYSTEM, help="text that stands before the conversation")
parser.add_argument("--tokens", type=int, default={tokens}, help="the longest answer")
options = parser.parse_args()
messages = [{{"role": "system", "content": options.system}}] if options.system else []
messages.append({{"role": "user", "content": options.question}})
"""

_ADAPTER = 'parser.add_argument("--adapter", default={adapter!r}, help="its name; an empty one for the base alone")\n'

_ONNX = """
import json

import onnxruntime_genai as og
"""

_ASK_ONNX = """
model = og.Model(str(HERE))
tokenizer = og.Tokenizer(model)
prompt = tokenizer.apply_chat_template(messages=json.dumps(messages), add_generation_prompt=True)
ids = tokenizer.encode(prompt)

parameters = og.GeneratorParams(model)
parameters.set_search_options(max_length=len(ids) + options.tokens)
generator = og.Generator(model, parameters)
if options.adapter:
    adapters = og.Adapters(model)
    adapters.load(str(HERE / "adapters" / (options.adapter + ".onnx_adapter")), options.adapter)
    generator.set_active_adapter(adapters, options.adapter)
generator.append_tokens(ids)

stream = tokenizer.create_stream()
while not generator.is_done():
    generator.generate_next_token()
    if not generator.is_done():
        print(stream.decode(generator.get_next_tokens()[0]), end="", flush=True)
print()
"""

_PEFT = """
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
"""

_ASK_PEFT = """
tokenizer = AutoTokenizer.from_pretrained(HERE / "base")
model = AutoModelForCausalLM.from_pretrained(HERE / "base", dtype="auto")
if options.adapter:
    model = PeftModel.from_pretrained(model, HERE / "adapter")
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
ids = tokenizer(prompt, return_tensors="pt", add_special_tokens={special})["input_ids"]

with torch.no_grad():
    answer = model.generate(ids, max_new_tokens=options.tokens, do_sample=False)
print(tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True))
"""


def ask_onnx(recipe: Recipe, adapter: str | None) -> str:
    """The program of an ONNX folder; ``adapter`` is the one it uses unasked."""
    return _whole("onnxruntime-genai", _ONNX, _ASK_ONNX, recipe, _ADAPTER.format(adapter=adapter or ""))


def ask_peft(recipe: Recipe, adapter: str | None, special: bool, *, packed: bool = False) -> str:
    """The program of a PEFT folder.

    Args:
        special: whether the tokenizer shall put its start token before a text.
        packed: whether the base is in the form of compressed-tensors.
    """
    needs = "peft transformers torch" + (" compressed-tensors" if packed else "")
    ask = _ASK_PEFT.replace("{special}", str(special))
    return _whole(needs, _PEFT, ask, recipe, _ADAPTER.format(adapter=adapter or ""))


def _whole(needs: str, imports: str, ask: str, recipe: Recipe, adapter: str) -> str:
    chat = recipe.chat
    arguments = _ARGUMENTS.format(system=chat.system, tokens=chat.max_new_tokens, adapter=adapter)
    return _HEAD.format(needs=needs) + imports + arguments + ask
