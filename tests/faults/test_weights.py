"""Weights that are damaged or made to harm: told by name before torch is imported, and nothing in them runs."""

import json
import pickle
import re
import shutil
import zipfile
from pathlib import Path

import lora_files
import pytest
import torch
from command_line import dit360, python
from safetensors.torch import load_file, save_file

HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate")
BIG = "diffusion_pytorch_model.safetensors"
SMALL = ["--width", 64, "--steps", 1, "-o", "new.png"]


def safetensors(header, data=b"", length=None):
    """A file of this form: the length of the header, the header, the numbers."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(begin, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


class Marks:
    """Unpickled, it leaves a file."""

    def __reduce__(self):
        return (open, ("opened.txt", "w"))


def zipped(folder):
    """As torch.save writes it."""
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Marks()))
    data = (folder / "archive.zip").read_bytes()
    (folder / "archive.zip").unlink()
    return data


TWICE = b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"x":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}'
CUT = "is damaged or cut off .*; download it again"
PICKLE = "is a pickle by another name, which can run code when it is opened; get a safetensors release"
DAMAGED = {
    "nothing in it": (b"", CUT),
    "a header that is cut": (safetensors({"x": entry(0, 8)})[:20], CUT),
    "numbers that are cut": (safetensors({"x": entry(0, 8)}, bytes(5)), CUT),
    "a header of 2^60 bytes": (safetensors({}, length=2**60), CUT),
    "a header of 2^64-1 bytes": (safetensors({}, length=2**64 - 1), CUT),
    "tensors that overlap": (safetensors({"x": entry(0, 8), "y": entry(4, 12)}, bytes(12)), CUT),
    "a hole between tensors": (safetensors({"x": entry(0, 8), "y": entry(16, 24)}, bytes(24)), CUT),
    "offsets beyond the end": (safetensors({"x": entry(0, 8), "y": entry(8, 16)}, bytes(8)), CUT),
    "offsets the wrong way round": (safetensors({"x": entry(8, 0)}, bytes(8)), CUT),
    "an unknown dtype": (safetensors({"x": entry(0, 8, dtype="Q7")}, bytes(8)), CUT),
    "a negative shape": (safetensors({"x": entry(0, 8, shape=(-2,))}, bytes(8)), CUT),
    "a shape beyond all memory": (safetensors({"x": entry(0, 8, shape=(2**62, 2**62))}, bytes(8)), CUT),
    "a shape of other bytes": (safetensors({"x": entry(0, 8, shape=(3,))}, bytes(8)), CUT),
    "a name twice": (safetensors(TWICE, bytes(16)), CUT),
    "something behind the tensors": (safetensors({"x": entry(0, 8)}, bytes(99)), CUT),
    "a header that is no JSON": (safetensors(b"{{{{", bytes(8)), CUT),
    "a header that is no UTF-8": (safetensors(b"\xff\xfe{}"), CUT),
    "a header nested without end": (safetensors(b"[" * 100_000), CUT),
    "a header that is a list": (safetensors([1]), CUT),
    "a pickle": (pickle.dumps({"x": Marks()}, 2) * 9, PICKLE),
    "a zip of pickles": (zipped, PICKLE),
    "a pointer of Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        "only says where Git LFS keeps the weights; fetch them with 'git lfs pull'",
    ),
    "a web page": (b"<!DOCTYPE html><html>Sign in</html>", "is a web page and no weights; download it again, by 'hf"),
}  # fmt: skip
PLACES = ("model", "LoRA", "autoencoder", "T5")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory, tiny_folder):
    """Each damage in each place, told by one process that cannot import torch and has 3 GB of addresses."""
    desk = tmp_path_factory.mktemp("damaged")
    commands = {}
    for number, (name, (data, _)) in enumerate(DAMAGED.items()):
        file = desk / f"{number}.safetensors"
        file.write_bytes(data(desk) if callable(data) else data)
        model = desk / f"model-{number}"
        shutil.copytree(tiny_folder, model, ignore=shutil.ignore_patterns("transformer"))
        (model / "transformer").mkdir()
        shutil.copy(tiny_folder / "transformer" / "config.json", model / "transformer")
        shutil.copy(file, model / "transformer" / BIG)
        for place, option in zip(PLACES, ("--model", "--lora", "--vae", "--t5"), strict=True):
            commands[place, name] = ["generate", "a castle", option, model if place == "model" else file, *SMALL]
    before = sorted(desk.iterdir())
    told = dict(zip(commands, dit360(*commands.values(), cwd=desk, without=HEAVY), strict=True))
    assert sorted(desk.iterdir()) == before  # no picture, and no pickle was opened
    return told


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("name", "sentence"), [(name, told) for name, (_, told) in DAMAGED.items()], ids=DAMAGED)
def test_a_damaged_file_is_named_with_its_fault_before_torch_is_imported(damaged, place, name, sentence):
    said = damaged[place, name]
    assert said.code == 2, said
    number = list(DAMAGED).index(name)
    file = f"model-{number}/transformer/{BIG}" if place == "model" else f"{number}.safetensors"
    assert re.fullmatch(rf"Error: [^\n]*{re.escape(file)} {sentence}[^\n]*\.\n", said.err), said.err


def test_no_file_makes_much_memory_be_taken(damaged, tmp_path):
    for number, (data, _) in enumerate(DAMAGED.values()):
        (tmp_path / f"{number}.safetensors").write_bytes(data(tmp_path) if callable(data) else data)
    with (tmp_path / "header-of-120-MB.safetensors").open("wb") as file:
        file.write(safetensors(b"{", length=120 * 2**20))
        file.truncate(130 * 2**20)
    code = (
        "import resource\n"
        "from pathlib import Path\n"
        "from safetensors import safe_open\n"
        "import numpy\n"
        "from dit360_core.errors import ModelError\n"
        "from dit360_core.models.weights.headers import check_safetensors\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "refused = 0\n"
        "for file in Path().glob('*.safetensors'):\n"
        "    try: check_safetensors(file)\n"
        "    except ModelError: refused += 1\n"
        "print(refused, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    said = python(code, cwd=tmp_path, fresh=True)
    refused, grown = map(int, said.stdout.split())
    assert refused == len(DAMAGED) + 1
    assert grown < 64, f"{grown} MiB"


# ------------------------------------------------------------------------------ models that name other files, or code


def index(*files):
    return json.dumps({"metadata": {}, "weight_map": {f"tensor.{n}": file for n, file in enumerate(files)}})


SHARDS = {
    "above": "../../secret.safetensors",
    "below": "shards/secret.safetensors",
    "anywhere": "{desk}/secret.safetensors",
    "on Windows": "..\\secret.safetensors",
    "on a drive": "C:secret.safetensors",
    "itself": ".",
    "nameless": "",
    "null": "secret.safetensors\0",
}
CODE = {
    "of the system": ["os", "system"],
    "beside the model": ["evil", "Evil"],
    "of a path": ["../evil", "Evil"],
    "no list": "evil",
    "not even a name": [7, "Evil"],
}
NONSENSE = {
    "model_index.json nested without end": ("model_index.json", "[" * 100_000, "is not readable JSON"),
    "config.json nested without end": ("vae/config.json", "[" * 100_000, "is not readable JSON"),
    "10^9 layers": ("transformer/config.json", '{"num_layers": 1000000000}', "num_layers is 1000000000, which"),
    "-1 layers": ("text_encoder_2/config.json", '{"num_layers": -1}', "num_layers is -1, which cannot be"),
    "infinitely many layers": ("text_encoder/config.json", '{"num_hidden_layers": 1e999}', "is inf, which cannot be"),
}  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, tiny_folder):
    """Models that name files or code outside of themselves, told by a process that cannot import torch."""
    desk = tmp_path_factory.mktemp("hostile")
    save_file({"tensor.0": torch.zeros(2)}, desk / "secret.safetensors")

    def changed(name, **files):
        model = shutil.copytree(tiny_folder, desk / name, copy_function=lambda a, b: Path(b).symlink_to(a))
        for file, text in files.items():
            (model / file).unlink(missing_ok=True)
            (model / file).write_text(text.replace("{desk}", desk.as_posix()))
        return ["generate", "a castle", "--model", model, *SMALL]

    commands = {}
    for number, (name, shard) in enumerate(SHARDS.items()):
        listed = index(BIG, shard)
        commands["shard", name] = changed(f"shard-{number}", **{f"transformer/{BIG}.index.json": listed})
        t5 = shutil.copytree(tiny_folder / "text_encoder_2", desk / f"t5-{number}")
        (t5 / "model.safetensors.index.json").write_text(listed.replace("{desk}", desk.as_posix()))
        commands["T5's shard", name] = ["generate", "a castle", "--t5", t5, *SMALL]
    told = json.loads((tiny_folder / "model_index.json").read_text())
    for number, (name, code) in enumerate(CODE.items()):
        made = json.dumps({**told, "scheduler": code})
        files = {"model_index.json": made, "scheduler/evil.py": "open('ran.txt', 'w')\nclass Evil: pass\n"}
        commands["code", name] = changed(f"code-{number}", **files)
    for number, (name, (file, text, _)) in enumerate(NONSENSE.items()):
        commands["nonsense", name] = changed(f"nonsense-{number}", **{file: text})
    said = dict(zip(commands, dit360(*commands.values(), cwd=desk, without=HEAVY), strict=True))
    assert not (desk / "ran.txt").exists()
    return said


def assert_told(said, sentence):
    assert said.code == 2, said
    assert re.fullmatch(rf"Error: [^\n]*{sentence}[^\n]*\.\n", said.err), said.err


@pytest.mark.parametrize("name", SHARDS)
@pytest.mark.parametrize("what", ["shard", "T5's shard"])
def test_an_index_of_weights_that_names_a_file_elsewhere_is_refused(hostile, what, name):
    assert_told(
        hostile[what, name], r"safetensors\.index\.json names .*, which is not in its folder; get another model"
    )


@pytest.mark.parametrize("name", CODE)
def test_a_model_that_names_code_of_its_own_is_refused(hostile, name):
    assert_told(hostile["code", name], r"model_index\.json wants code for its scheduler that is neither of diffusers")


@pytest.mark.parametrize("name", NONSENSE)
def test_a_configuration_that_is_nonsense_is_refused_before_anything_is_built_of_it(hostile, name):
    assert_told(hostile["nonsense", name], NONSENSE[name][2])


# ------------------------------------------------------------------------------------------ what only the numbers tell


def poisoned(tiny_folder, model, part, name):
    """A copy of the embedded model with one number that is none."""
    shutil.copytree(tiny_folder, model)
    [file] = (model / part).glob("*.safetensors")
    tensors = load_file(file)
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    return model


def spoilt_lora(folder, change, **settings):
    folder.mkdir()
    file = lora_files.write(folder, "peft", dim=192, **settings)
    tensors = load_file(file)
    key = next(name for name in tensors if ".lora_B" in name)
    tensors[key] = change(tensors[key])
    save_file(tensors, file)
    return file


LORAS = {
    "not a number": (lambda up: up * float("nan"), {}, "holds numbers that are not finite, in its layer .*; download"),
    "infinite": (lambda up: up / 0, {}, "holds numbers that are not finite, in its layer"),
    "another rank": (lambda up: up[:, :2].clone(), {}, "holds factors of its layer .* that do not fit together"),
    "no rank": (lambda up: up[:, :0].clone(), {}, "holds factors of its layer .* that do not fit together"),
    "a vector": (lambda up: up[:, 0].clone(), {}, r"holds factors of its layer \S+ that do not fit together"),
    "one number": (lambda up: up[0, 0].clone(), {}, r"holds factors of its layer \S+ that do not fit together"),
    "an alpha that is a list": (lambda up: up, {"alpha": [1]}, r"says that alpha is \[1\]"),
    "an alpha that is a word": (lambda up: up, {"alpha": "much"}, "says that alpha is 'much'"),
    "an infinite alpha": (lambda up: up, {"alpha": float("inf")}, "says that alpha is inf"),
}  # fmt: skip
NUMBERS = {
    "transformer": ("x_embedder.weight", "Sampling produced numbers that are not finite"),
    "vae": ("decoder.conv_in.weight", "The autoencoder produced numbers that are not finite"),
    "text_encoder": ("encoder.layers.0.self_attn.q_proj.weight", "The text encoders produced numbers that"),
    "text_encoder_2": ("encoder.block.0.layer.0.SelfAttention.q.weight", "The text encoders produced numbers that are"),
}  # fmt: skip
TRUSTING = {
    "scheduler/evil.py": "open('ran.txt', 'w')\n",
    "tokenizer/evil.py": "open('ran.txt', 'w')\nclass Evil: pass\n",
    "text_encoder/evil.py": "open('ran.txt', 'w')\nclass Evil: pass\n",
}


@pytest.fixture(scope="module")
def computed(tmp_path_factory, tiny_folder):
    """What is found out when the weights are read or used, by one process."""
    desk = tmp_path_factory.mktemp("computed")
    commands = {
        ("LoRA", name): ["generate", "a castle", "--lora", spoilt_lora(desk / f"lora-{n}", change, **more), *SMALL]
        for n, (name, (change, more, _)) in enumerate(LORAS.items())
    }
    for part, (name, _) in NUMBERS.items():
        model = poisoned(tiny_folder, desk / part, part, name)
        commands["numbers", part] = ["generate", "a castle", "--model", model, *SMALL]
    commands["stored",] = ["quantize", desk / "transformer", "-o", "stored", "--mode", "int8", "--parts", "transformer"]
    trusting = shutil.copytree(tiny_folder, desk / "trusting")
    for file, text in TRUSTING.items():
        (trusting / file).write_text(text)
    for file in ("tokenizer/tokenizer_config.json", "text_encoder/config.json", "text_encoder_2/config.json"):
        told = json.loads((trusting / file).read_text()) if (trusting / file).is_file() else {}
        names = ("AutoTokenizer", "AutoModel", "AutoConfig", "CLIPTextModel")
        told["auto_map"] = {name: [None, "evil.Evil"] if name == "AutoTokenizer" else "evil.Evil" for name in names}
        told |= {
            "_attn_implementation": "evil-org/evil-kernel",
            "custom_pipeline": "evil-org/evil",
            "use_kernels": True,
        }
        (trusting / file).write_text(json.dumps(told))
    commands["trusting",] = ["generate", "a castle", "--model", trusting, "--width", 64, "--steps", 1, "-o", "made.png"]
    before = {path.name for path in desk.iterdir()}
    told = dict(zip(commands, dit360(*commands.values(), cwd=desk), strict=True))
    return told, {path.name for path in desk.iterdir()} - before


@pytest.mark.parametrize("name", LORAS)
def test_a_lora_whose_factors_are_nonsense_is_told(computed, name):
    assert_told(computed[0]["LoRA", name], rf"adapter_(model.safetensors|config.json) ({LORAS[name][2]})")


@pytest.mark.parametrize("part", NUMBERS)
def test_weights_that_are_not_a_number_make_no_picture(computed, part):
    assert_told(computed[0]["numbers", part], NUMBERS[part][1])


def test_weights_that_are_not_a_number_are_not_stored(computed):
    assert_told(
        computed[0]["stored",],
        r"The transformer of this model holds numbers that are not finite, in x_embedder\.weight",
    )


def test_code_that_lies_beside_the_weights_is_not_run_and_the_model_paints(computed):
    told, made = computed
    assert told["trusting",].code == 0, told["trusting",].err
    assert made == {"made.png"}
