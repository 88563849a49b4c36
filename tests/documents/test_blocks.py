"""Every block of code that a reader meets in the documents is run, as it stands.

Shell commands run one after the other in a folder of their document. What stands between them and a test: FLUX.1-dev
and DiT360's LoRA, whose places in the Hub's cache hold the embedded model and a small random LoRA here; the size and
the steps of pictures, which are made smaller; and what would install, publish or train, which is only asked whether
it would (``pip --dry-run``, ``make -n``). A block that another test runs says so in a comment above it.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import attrs
import pytest
from command_line import dit360, environment, python
from dit360_core.plugins import EMBEDDED_MODEL
from lora_files import write
from PIL import Image
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
# What is read by nobody who uses or changes the project: licences of others, and what tools write.
DOCUMENTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not {".venv", "outputs", "node_modules", "dist", "build", "tests"} & set(path.relative_to(ROOT).parts)
)
LANGUAGES = {"sh", "powershell", "python", "pyi", "toml", "json", "jsonl", "csv", "text"}
"""pyi: signatures, which tests/core/test_plugin_docs.py compares with the code. text: drawings."""

COMMANDS = ("dit360", "dit360-comfy", "pip", "python", "make", "py", "git", "ray", "hf")
SMALLER = {
    "generate": ["--width", "256", "--steps", "2"], "batch": ["--width", "128", "--steps", "1"],
    "upscale": ["--to", "512", "--steps", "1"],
}  # fmt: skip
PLACES = {"/path/to/ComfyUI": "ComfyUI"}


@attrs.frozen(kw_only=True)
class Block:
    """A fenced block. elsewhere: the test that runs it, where it says so."""

    document: Path
    line: int
    language: str
    text: str
    elsewhere: str

    @property
    def where(self):
        return f"{self.document.relative_to(ROOT).as_posix()}:{self.line}"


def blocks_of(document):
    """The fenced blocks of a document, in their order."""
    found, fence, above = [], None, ""
    for number, line in enumerate(document.read_text("utf-8").splitlines(), 1):
        mark = re.match(r"^\s*(```+)\s*(\S*)\s*$", line)
        if fence is None and mark:
            fence = (mark[1], number, mark[2], [])
        elif fence is not None and mark and mark[1] == fence[0] and not mark[2]:
            said = re.fullmatch(r"<!-- run by (\S+) -->", above.strip())
            found.append(
                Block(
                    document=document,
                    line=fence[1],
                    language=fence[2],
                    text="\n".join(fence[3]),
                    elsewhere=said[1] if said else "",
                )
            )
            fence, above = None, ""
        elif fence is not None:
            fence[3].append(line)
        elif line.strip():
            above = line
    assert fence is None, f"{document}:{fence[1]} has no end"
    return found


MENTIONED = [["inspect"], ["view"], ["upscale"], ["generate"], ["batch"], ["quantize"], ["new-plugin"]]
"""Commands that are spoken of without what they need."""
ELSEWHERE = {
    ("backends", "--probe"): "tests/core/test_faults.py",
    ("doctor",): "tests/core/test_cli_bad_input.py",
    ("--install-completion",): "tests/core/test_everyday.py",
    ("serve",): "tests/core/test_serving.py",
    ("batch", "prompts.jsonl", "-o", "by-two", "--engine", "ray", "--workers", "2"): "tests/core/test_batch.py",
}
"""Costly ones, and the test that runs them."""


def in_tables(document):
    """(line, words) of whole commands in the cells of a document's tables, not of those with something to fill in."""
    for number, line in enumerate(document.read_text("utf-8").splitlines(), 1):
        for command in re.findall(r"`(dit360 [^`]*)`", line) if line.startswith("|") else ():
            words = shlex.split(command)[1:]
            to_fill_in = any(re.search(r"[A-Z]{2,}|…", word) for word in words)
            if not to_fill_in and words not in MENTIONED:
                yield number, words


BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]


def of(*languages):
    return [block for block in BLOCKS if block.language in languages and not block.elsewhere]


def commands_in(block):
    """The command lines of a shell block, as lists of words, without comments."""
    joined = block.text.replace("\\\n", " ")
    if block.language == "powershell":
        joined = joined.replace(".venv\\Scripts\\", "").replace("py -m", "python -m")
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def test_there_is_something_to_run():
    assert len(of("sh")) >= 15
    assert len(of("python")) >= 3


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.where)
def test_a_block_says_what_it_is(block):
    assert block.language in LANGUAGES, f"{block.where}: say one of {', '.join(sorted(LANGUAGES))} after ```"
    if block.elsewhere:
        file, _, name = block.elsewhere.partition("::")
        text = (ROOT / file).read_text("utf-8")
        assert name in text
    elif block.language == "text":
        first = block.text.split()[0]
        assert first not in COMMANDS, f"{block.where}: a command is run by nobody as text"


def test_blocks_of_data_can_be_read():
    for block in of("toml"):
        tomllib.loads(block.text)
    for block in of("json"):
        json.loads(block.text)
    for block in of("jsonl"):
        for line in block.text.splitlines():
            json.loads(line)


# ---------------------------------------------------------------------------------------------------------- the shell


@pytest.fixture(scope="module")
def cache(tmp_path_factory, tiny_folder):
    """A Hub's cache that has DiT360 in it, as small as the embedded model."""
    cache = tmp_path_factory.mktemp("hub")

    def repository(name):
        folder = cache / f"models--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0" * 40)
        return folder / "snapshots" / ("0" * 40)

    shutil.copytree(tiny_folder, repository("black-forest-labs/FLUX.1-dev"))
    lora = repository("Insta360-Research/DiT360-Panorama-Image-Generation")
    lora.mkdir(parents=True)
    write(
        lora,
        "peft",
        dim=width_of(tiny_folder),
        layers={"single_transformer_blocks.1.attn.to_k": "transformer_blocks.1.attn.to_k"},
    )
    return cache


def width_of(folder):
    config = json.loads((folder / "transformer" / "config.json").read_text())
    return config["num_attention_heads"] * config["attention_head_dim"]


PARTS = {
    "ae.safetensors": "vae", "clip_l.safetensors": "text_encoder",
    "t5xxl_fp8_e4m3fn_scaled.safetensors": "text_encoder_2",
}  # fmt: skip
"""Files that documents speak of → the parts of the embedded model that stand for them."""


def write_gguf(file):
    """The embedded model's transformer in eight bits, whatever bits a document speaks of."""
    import gguf

    eight, writer = gguf.GGMLQuantizationType.Q8_0, gguf.GGUFWriter(file, "flux")
    for name, tensor in load_file(Path(EMBEDDED_MODEL, "transformer", "diffusion_pytorch_model.safetensors")).items():
        if tensor.ndim == 2 and tensor.shape[1] % gguf.GGML_QUANT_SIZES[eight][0] == 0:
            writer.add_tensor(name, gguf.quants.quantize(tensor.float().numpy(), eight), raw_dtype=eight)
        else:
            writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def folder_of(block, within):
    folder = within / re.sub(r"\W", "-", str(block.document.relative_to(ROOT)))
    if not folder.is_dir():
        folder.mkdir(parents=True)
        for name in ("custom_nodes", "models", "user"):
            (folder / "ComfyUI" / name).mkdir(parents=True)
        for name in ("style", "turbo"):  # of loras.md
            write(folder, "diffusers", dim=192).rename(folder / f"{name}.safetensors")
        for name in ("room", "left", "right"):  # of editing.md
            Image.effect_noise((90, 60), 40).convert("RGB").save(folder / f"{name}.jpg")
        mask = Image.new("L", (256, 128))
        mask.paste(255, (60, 40, 120, 90))
        mask.save(folder / "mask.png")
        for name in set(re.findall(r"--transformer (\S+\.gguf)", block.document.read_text("utf-8"))):
            write_gguf(folder / name)
        for name, part in PARTS.items():  # of files.md
            if name in block.document.read_text("utf-8"):
                (own,) = Path(EMBEDDED_MODEL, part).glob("*.safetensors")
                shutil.copyfile(own, folder / name)
        # What the commands of batches.md are given.
        lines = [line for other in BLOCKS if other.language == "jsonl" for line in other.text.splitlines()]
        (folder / "prompts.jsonl").write_text("\n".join(lines[:2]) + "\n")
    return folder


def assert_elsewhere(words, where):
    assert all(word in (ROOT / ELSEWHERE[tuple(words)]).read_text("utf-8") for word in words), where


@pytest.mark.long
def test_every_dit360_command_in_the_documents_does_what_it_is_there_for(cache, tmp_path):
    commands, folders, wheres = [], [], []
    for block in of("sh", "powershell"):
        for words in commands_in(block):
            if words[0] == "dit360":
                words = words[1:]
                if tuple(words) in ELSEWHERE:
                    assert_elsewhere(words, block.where)
                    continue
                if words[0] in ("generate", "view") and any(word in ("-o", "--output") for word in words):
                    words.append("--force")  # one document makes lake.jpg in several ways
                # What makes nothing says the same in every document.
                if words[0] in ("backends", "doctor", "plan") and [*words] in commands:
                    continue
                commands.append([*words, *SMALLER.get(words[0], [])])
                folders.append(folder_of(block, tmp_path))
                wheres.append(f"{block.where}: dit360 {shlex.join(words)}")
    for document in DOCUMENTS:
        for line, words in in_tables(document):
            where = f"{document.relative_to(ROOT).as_posix()}:{line}: dit360 {shlex.join(words)}"
            if tuple(words) in ELSEWHERE:
                assert_elsewhere(words, where)
            elif words[0] != "bench" and words not in commands:
                commands.append(words)
                folders.append(tmp_path)
                wheres.append(where)
    told = dit360(*commands, cwd=tmp_path, folders=folders, HF_HUB_CACHE=cache, BROWSER="true", OMP_NUM_THREADS="1")
    failed = [f"{where}\n{said.err or said.out}" for said, where in zip(told, wheres, strict=True) if said.code]
    assert not failed, "\n".join(failed)


def test_every_comparison_in_a_table_can_be_asked_for():
    """Not measured, which takes minutes: bench checks all of it before it measures, and has tests of that."""
    from dit360_core.cli.benching.varying import Configuration, configurations
    from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions
    from dit360_core.plugins.registry import default_registry

    baseline = Configuration(
        loading=LoadOptions(strict=True), sampling=SampleOptions(prompt="a castle"), decoding=DecodeOptions()
    )
    asked = [words for document in DOCUMENTS for _, words in in_tables(document) if words[0] == "bench"]
    assert asked
    for words in asked:
        assert set(words[1::2]) == {"--vary"}
        assert len(configurations(baseline, words[2::2], default_registry())) > 1


@pytest.mark.long
def test_every_other_command_in_the_documents_would_do_what_it_is_there_for(tmp_path):
    """pip without an index: what the documents install is this project's, which is here, and brings nothing more."""
    bin_ = str(Path(sys.executable).parent)
    failed = []
    seen = set()
    for block in of("sh", "powershell"):
        for words in commands_in(block):
            changes = {}
            while re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
                name, _, value = words.pop(0).partition("=")
                changes[name] = value
            if words[0] == "dit360" or tuple(words) in seen:
                continue
            seen.add(tuple(words))
            folder = folder_of(block, tmp_path)
            words = [PLACES.get(word, word) for word in words]
            cwd = folder
            if words[0] == "pip":
                words = ["python", "-m", *words]
            if words[:4] == ["python", "-m", "pip", "install"]:
                cwd = ROOT
                words += ["--dry-run", "--no-index", "--no-build-isolation", "--quiet"]
            elif words[:3] == ["python", "-m", "venv"]:
                words.append("--without-pip")
            elif words[0] == "make":
                words, cwd = ["make", "-n", *words[1:]], ROOT
            elif words[0] == "python":
                cwd, words = ROOT, [*words, "--help"]
            run = environment(**changes, PATH=f"{bin_}{os.pathsep}{os.environ['PATH']}", PYTHONPATH=ROOT)
            done = subprocess.run(words, cwd=cwd, env=run, capture_output=True, text=True, timeout=120, check=False)
            if done.returncode:
                failed.append(f"{block.where}: {shlex.join(words)}\n{done.stdout}{done.stderr}")
    assert not failed, "\n".join(failed)


# ------------------------------------------------------------------------------------------------------------- Python

_RUN = """
import json, os, sys, traceback
failed, spaces = [], {}
for block in json.load(sys.stdin):
    os.chdir(block["folder"])
    space = spaces.setdefault(block["folder"], {"__name__": "document"})
    try:
        exec(compile(block["text"], block["where"], "exec"), space)
    except BaseException:
        failed.append(block["where"] + chr(10) + traceback.format_exc())
print(json.dumps(failed))
"""


def with_few_steps(text):
    """Two steps for each picture, whether the text says how many or not."""
    text = re.sub(r"\bsteps=\d+", "steps=2", text)
    return re.sub(r"(\.generate\((?![^)]*steps=)[^)]+)\)", r"\1, steps=2)", text)


@pytest.mark.long
def test_every_python_block_in_the_documents_runs(cache, tmp_path):
    """Those of one document one after the other, as who reads it would type them."""
    asked = [
        {"where": block.where, "text": with_few_steps(block.text), "folder": str(folder_of(block, tmp_path))}
        for block in of("python")
    ]
    done = python(_RUN, cwd=tmp_path, given=json.dumps(asked), HF_HUB_CACHE=cache, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    failed = json.loads(done.stdout.splitlines()[-1])
    assert not failed, "\n".join(failed)
