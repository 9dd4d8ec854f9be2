"""Every form of a lab's result, asked by the program that it is for: does it say what the lab's chat says?

    python benchmarks/exports.py LAB [--question TEXT] [--fetch] [--again] [--only FORM,FORM]

LAB is a lab that was run to the end, with an adapter. Each form is written to a temporary folder and asked: ONNX by its
own program, safetensors by transformers, the adapter by PEFT, GGUF by llama.cpp (package xllamacpp, and npm's
node-llama-cpp), 8 bits through compressed-tensors, Foundry Local's folder by Foundry Local itself (package
foundry-local-sdk); the model card is read by the hub's own library. The Modelfile is asked by nobody: there is no
Ollama to fetch. With --again the forms that make the model anew are run as well, by Olive (olive) and by Python
(script), and what they made is asked by onnxruntime-genai. Packages that OlivePress does not need lie in .cache/others,
where --fetch puts them; without them those forms are not asked.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
os.environ.update(OLIVE_DISABLE_TELEMETRY="1", ORT_DISABLE_TELEMETRY="1")
sys.path.insert(0, str(ROOT))

OTHERS = ROOT / ".cache/others"
"""One environment for each package, for they do not go together."""
NODE = "node-llama-cpp@3.22.1", "@node-llama-cpp/linux-x64@3.22.1"
PACKAGES = {
    "llama": ("xllamacpp==2026.10.11549",),
    "compressed": ("compressed-tensors==0.20.0", "loguru==0.7.3"),
    "foundry": ("foundry-local-sdk==2.2.1",),
}

TRANSFORMERS = """
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto")
asked = [{"role": "user", "content": sys.argv[2]}]
text = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
answer = model.generate(ids, max_new_tokens=64, do_sample=False)
print(json.dumps(tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True)))
"""

LLAMA = """
import xllamacpp
settings = xllamacpp.CommonParams()
settings.model.path, settings.n_ctx, settings.n_parallel = sys.argv[1] + "/model.gguf", 1024, 1
settings.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(each, 1.0) for each in sys.argv[3:]]
asked = {"messages": [{"role": "user", "content": sys.argv[2]}], "temperature": 0, "max_tokens": 64}
told = xllamacpp.Server(settings).handle_chat_completions(asked)
told = told if isinstance(told, dict) else json.loads(told)
print(json.dumps(told["choices"][0]["message"]["content"]))
"""

NODE_LLAMA = """
import {getLlama, JinjaTemplateChatWrapper, LlamaChatSession, LlamaLogLevel} from "node-llama-cpp";
const [folder, question, adapter] = process.argv.slice(2);
const llama = await getLlama({gpu: false, maxThreads: 1, build: "never", logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath: folder + "/model.gguf"});
const lora = adapter ? {adapters: [{filePath: adapter}]} : undefined;
const context = await model.createContext({contextSize: 1024, threads: 1, lora});
const template = model.fileInfo.metadata.tokenizer.chat_template;
const chatWrapper = new JinjaTemplateChatWrapper({template});
const session = new LlamaChatSession({contextSequence: context.getSequence(), chatWrapper, systemPrompt: undefined});
console.log(JSON.stringify(await session.prompt(question, {temperature: 0, maxTokens: 64})));
process.exit(0);
"""

CARD = """
from huggingface_hub import ModelCard
print(json.dumps(ModelCard.load(sys.argv[1] + "/README.md").data.to_dict()))
"""

FOUNDRY = """
import tempfile
from foundry_local_sdk import (
    CatalogType, ChatSession, Configuration, FoundryLocalManager, MessageItem, ModelInfoBuilder, Request,
    RequestOptions, SearchOptions,
)
place = tempfile.mkdtemp()
FoundryLocalManager.initialize(Configuration(app_name="exports", app_data_dir=place, model_cache_dir=place,
    logs_dir=place, disable_nonessential_telemetry=True))
described = json.load(open(sys.argv[1] + "/inference_model.json"))
with ModelInfoBuilder() as about:
    about.set_string_property("task", "chat-completion")
    catalog = FoundryLocalManager.instance.get_catalog(CatalogType.LOCAL)
    model = catalog.register_model(sys.argv[1], described["Name"] + ":1", about)
model.load()
with ChatSession(model) as session:
    session.set_options(RequestOptions(search=SearchOptions(temperature=0.0, max_output_tokens=64)))
    with Request().add_item(MessageItem.user(sys.argv[2])) as asked, session.process_request(asked) as told:
        print(json.dumps("".join(each.get_simple_text() for each in told if isinstance(each, MessageItem))))
"""


def python_of(name: str) -> Path | None:
    """The Python that has a package, if it was fetched."""
    found = OTHERS / name / "bin/python"
    return found if found.exists() else None


def fetch() -> None:
    """Put the other programs' packages where they are looked for. Those that need torch see this Python's own."""
    import sysconfig

    for name, packages in PACKAGES.items():
        place = OTHERS / name
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        deps = [] if name == "foundry" else ["--no-deps"]
        subprocess.run(
            [str(place / "bin/python"), "-m", "pip", "install", "-q", *deps, *packages], check=True
        )
        if name == "compressed":
            inside = next((place / "lib").glob("python*/site-packages"))
            (inside / "own.pth").write_text(
                f"import sys; sys.path.append({sysconfig.get_path('purelib')!r})\n"
            )


def fetch_node() -> None:
    """The same with npm, where there is one."""
    if npm := shutil.which("npm"):
        quiet = ("--no-audit", "--no-fund", "--ignore-scripts", "--omit=optional")
        place = OTHERS / "node"
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run([npm, "install", *quiet, "--prefix", str(place), *NODE], check=True)


def ask(python: Path, program: str, *words: str) -> str:
    """What a program prints as JSON on its last line; a file's program: all that it prints."""
    own = program.endswith(".py")
    start = [program] if own or program.endswith(".mjs") else ["-c", "import json, sys\n" + program]
    done = subprocess.run([str(python), *start, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"failed: {done.stderr.strip().splitlines()[-1:]}"
    return done.stdout.strip() if own else str(json.loads(done.stdout.strip().splitlines()[-1])).strip()


def node() -> Path | None:
    """Node, if node-llama-cpp was fetched."""
    found = shutil.which("node")
    if found is None or not (OTHERS / "node/node_modules/node-llama-cpp").is_dir():
        return None
    (OTHERS / "node/ask.mjs").write_text(NODE_LLAMA)
    return Path(found)


def forms(
    lab_root: Path, question: str, work: Path, only: list[str]
) -> Iterator[tuple[str, str, str, int, float, str | None, str]]:
    """Form, type, adapter, bytes, seconds and answer of each, with who was asked."""
    from core import Lab
    from core.export.write import export

    own, lab = Path(sys.executable), Lab.open(lab_root)
    asked: list[tuple[str, str, str | None, Path | None, str, str]] = [
        ("onnx", "", "travel", own, "ask.py", "onnxruntime-genai"),
        ("foundry-local", "", "travel", python_of("foundry"), FOUNDRY, "Foundry Local"),
        ("merged", "model", "travel", own, TRANSFORMERS, "transformers"),
        ("merged", "int8", "travel", python_of("compressed"), TRANSFORMERS, "transformers"),
        ("merged", "int8", None, python_of("compressed"), TRANSFORMERS, "transformers"),
        ("peft", "model", "travel", own, "ask.py", "PEFT"),
        ("peft", "int8", "travel", python_of("compressed"), "ask.py", "PEFT"),
        ("gguf", "q8_0", "travel", python_of("llama"), LLAMA, "llama.cpp"),
        ("gguf", "f16", "travel", python_of("llama"), LLAMA, "llama.cpp"),
        ("gguf", "q4_1", "travel", python_of("llama"), LLAMA, "llama.cpp"),
        ("gguf", "q4_1", None, python_of("llama"), LLAMA, "llama.cpp"),
        ("gguf", "q8_0", "travel", node(), str(OTHERS / "node/ask.mjs"), "node-llama-cpp"),
        ("gguf", "q4_1", "travel", node(), str(OTHERS / "node/ask.mjs"), "node-llama-cpp"),
    ]
    usual = lab.recipe.finetune.adapter
    for number, (form, type, adapter, python, program, who) in enumerate(asked):
        if only and not {form, who} & set(only):
            continue
        place, began = work / str(number), time.perf_counter()
        done = export(lab, form, place, type=type, adapter=usual if adapter else None)
        took = time.perf_counter() - began
        words = [question] if program == "ask.py" else [str(place), question]
        if form == "gguf" and (place / "adapter.gguf").exists():
            words.append(str(place / "adapter.gguf"))
        program = str(place / program) if program == "ask.py" else program
        answer = None if python is None else ask(python, program, *words)
        yield form, type, usual if adapter else "none", done.bytes, took, answer, who


def card(lab_root: Path, work: Path) -> str:
    """What the hub's own library reads of the model card."""
    from core import Lab
    from core.export.write import export

    export(Lab.open(lab_root), "onnx", work / "card")
    return ask(Path(sys.executable), CARD, str(work / "card"))


def again(lab_root: Path, question: str, work: Path) -> Iterator[tuple[str, float, str]]:
    """Form, seconds and answer of those that make the model anew."""
    from core import Lab
    from core.export.programs import ask_onnx
    from core.export.write import export

    lab = Lab.open(lab_root)
    adapter, environment = lab.recipe.finetune.adapter, {**os.environ, "PYTHONPATH": str(ROOT)}
    flow, script = work / "flow.json", work / "again.py"
    export(lab, "olive", flow)
    export(lab, "script", script)
    olive = ["-m", "olive", "run", "--config", str(flow), "--package-config", str(work / "flow.package.json")]
    for form, words, made in (
        ("olive", olive, work / "flow.output"),
        ("script", [str(script)], work / "lab-by-script/models/onnx"),
    ):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *words], cwd=work, env=environment, capture_output=True, text=True, check=False
        )
        took = time.perf_counter() - began
        if not (made / "genai_config.json").is_file():
            yield form, took, f"failed: {(done.stderr or done.stdout).strip().splitlines()[-1:]}"
            continue
        (made / "ask.py").write_text(ask_onnx(lab.recipe, adapter))
        yield form, took, ask(Path(sys.executable), str(made / "ask.py"), question)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lab", type=Path)
    parser.add_argument("--question", default="What should I see in Chicago?")
    parser.add_argument("--fetch", action="store_true", help="fetch the other programs' packages first")
    parser.add_argument(
        "--again", action="store_true", help="make the model anew by Olive and by Python, too"
    )
    parser.add_argument("--only", default="", help="these forms or programs alone, with commas")
    options = parser.parse_args()
    if options.fetch:
        fetch()
        fetch_node()
    only = [each for each in options.only.split(",") if each]
    from core import Lab

    lab = Lab.open(options.lab)
    said: dict[str, str] = {}
    with lab.chat(adapter=None) as chat:
        for adapter in (None, lab.recipe.finetune.adapter):
            chat.set_adapter(adapter)
            said[adapter or "none"] = chat.ask(options.question).answer.strip()
            chat.new()
    print("| form | type | adapter | size (MiB) | written in (s) | asked by | says what the chat says |")
    print("| --- | --- | --- | ---: | ---: | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for form, type, adapter, size, took, answer, who in forms(options.lab, options.question, work, only):
            same = "not asked" if answer is None else _same(answer, said[adapter])
            print(
                f"| {form} | {type} | {adapter} | {size / 2**20:.1f} | {took:.1f} | {who} | {same} |",
                flush=True,
            )
        usual = lab.recipe.finetune.adapter
        for form, took, answer in again(options.lab, options.question, work) if options.again else ():
            print(
                f"| {form} | | {usual} | | {took:.1f} | onnxruntime-genai | {_same(answer, said[usual])} |",
                flush=True,
            )
        print(f"\nThe model card, as huggingface_hub reads it: {card(options.lab, work)}")


def _same(answer: str, wanted: str) -> str:
    """Word for word, or how many words from the first on; what went wrong."""
    if answer.startswith("failed: "):
        return answer
    left, right = answer.split(), wanted.split()
    together = next(
        (at for at, pair in enumerate(zip(left, right, strict=False)) if pair[0] != pair[1]), None
    )
    if together is None and abs(len(left) - len(right)) == 0:
        return "word for word"
    return f"the first {min(len(left), len(right)) if together is None else together} words"


if __name__ == "__main__":
    main()
