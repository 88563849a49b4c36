"""Whatever is wrong with the input, it is told in one sentence, with exit code 2, before anything heavy is imported."""

import json
import re
import shlex
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from command_line import dit360, install, python
from dit360_core.cli.output import telling_of_stdout
from dit360_core.cli.work.doctor import examine
from dit360_core.plugins.registry import Registry
from dit360_core.system.machine import Machine
from invented_plugins import installed, model, offering
from PIL import Image
from safetensors.numpy import save_file

HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate")
PARTS = ("transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
WEIGHTS = "diffusion_pytorch_model.safetensors"


# ----------------------------------------------------------------------------------------------------- files to refuse


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with everything that the command lines below name."""
    desk = tmp_path_factory.mktemp("desk")
    (desk / "there.jpg").write_bytes(b"somebody's picture")
    for name, size in (("p.png", (128, 64)), ("q.png", (130, 64))):
        Image.new("RGB", size, "teal").save(desk / name)
    (desk / "notes.txt").write_text("not a folder")
    (desk / "folder.jpg").mkdir()

    whole_model(desk / "whole")
    shutil.rmtree(damaged(desk, "no-vae") / "vae")
    (damaged(desk, "no-index") / "model_index.json").unlink()
    (damaged(desk, "broken-index") / "model_index.json").write_text("{")
    (damaged(desk, "other-kind") / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (damaged(desk, "no-config") / "transformer" / "config.json").unlink()
    (damaged(desk, "no-weights") / "transformer" / WEIGHTS).unlink()
    (damaged(desk, "empty-weights") / "vae" / WEIGHTS).write_bytes(b"")
    cut = damaged(desk, "cut-weights") / "vae" / WEIGHTS
    cut.write_bytes(cut.read_bytes()[:-5])
    (damaged(desk, "noise-weights") / "vae" / WEIGHTS).write_bytes(bytes(range(256)) * 9)
    shard = {"weight_map": {"a": WEIGHTS, "b": "second.safetensors"}}
    lost = damaged(desk, "lost-shard") / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    lost.write_text(json.dumps(shard))
    for part in ("tokenizer", "tokenizer_2"):
        (damaged(desk, f"no-{part}") / part / "tokenizer.json").unlink()
    shards = damaged(desk, "shards-no-map") / "vae" / "diffusion_pytorch_model.safetensors.index.json"
    shards.write_text('{"weight_map": ["a"]}')
    (damaged(desk, "odd-config") / "transformer" / "config.json").write_text('{"num_attention_heads": "many"}')
    pickled = damaged(desk, "pickled") / "transformer"
    (pickled / WEIGHTS).rename(pickled / "diffusion_pytorch_model.bin")
    for name in ("model.ckpt", "model.pt", "model.bin", "model.pth"):
        (desk / name).write_bytes(b"\x80\x04.")
    save_file({"weight": np.zeros(2, np.float32)}, desk / "plain.safetensors")
    (desk / "cut.safetensors").write_bytes((desk / "plain.safetensors").read_bytes()[:-3])
    for name in ("a.safetensors", "b.safetensors"):
        (desk / "two-loras").mkdir(exist_ok=True)
        save_file({"lora_A": np.zeros(2, np.float32)}, desk / "two-loras" / name)
    save_file({"encoder.block.0.layer.0.SelfAttention.q.weight": np.zeros(2, np.float32),
               "shared.weight": np.zeros(2, np.float32), "scaled_fp8": np.zeros(2, np.float32)},
              desk / "scaled.safetensors")  # fmt: skip
    (desk / "pickled-lora").mkdir()
    (desk / "pickled-lora" / "pytorch_lora_weights.bin").write_bytes(b"\x80\x04.")
    return desk


def whole_model(folder):
    """A folder in which every part of a FLUX model is there, in miniature, without sense."""
    for part in (*PARTS, "scheduler"):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text("{}")
        if "token" not in part and part != "scheduler":
            save_file({"weight": np.zeros(2, np.float32)}, folder / part / WEIGHTS)
        if "token" in part:
            (folder / part / "tokenizer.json").write_text("{}")
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')


def damaged(desk, name):
    return shutil.copytree(desk / "whole", desk / name)


# ------------------------------------------------------------------------------------------------------- what is told

OPTIONS = {
    "width not twice a multiple of 16": (["--width", 100], r"width 100 cannot be made.*take 96×48\."),
    "width and height not 2:1": (["--width", 512, "--height", 512], "512×512 cannot be made.*take 512×256"),
    "height not a multiple of 16": (["--height", 100], "200×100 cannot be made.*take 192×96"),
    "width 0": (["--width", 0], "--width is 0, but must be 32 … 16384"),
    "steps 0": (["--steps", 0], "--steps is 0, but must be 1 … 1000"),
    "negative seed": (["--seed", -1], "--seed is -1, but must be 0 …"),
    "guidance too high": (["--guidance", 1000], r"--guidance is 1000\.0, but must be 0\.0 … 100\.0"),
    "guidance not finite": (["--guidance", "nan"], "--guidance must be a finite number, not nan"),
    "negative slice": (["--attention-slice-size", -1], "--attention-slice-size is -1, but must be 0 …"),
    "unknown schedule": (["--timestep-schedule", "lin"], "--timestep-schedule is 'lin', .* linear, quadratic, cosine"),
    "eta above 1": (["--scheduler-type", "ddim", "--scheduler-eta", 2], r"--scheduler-eta is 2\.0, but must be 0\.0 …"),
    "eta for a solver without noise": (["--scheduler-type", "heun", "--scheduler-eta", 0.5], "has no effect .*'heun'"),
    "denoise of nothing": (["--denoise", 0.5], r"--denoise 0\.5 keeps a part of a picture, and none is given"),
    "denoise above 1": (["--denoise", 2], r"--denoise is 2\.0, but must be 0\.0 … 1\.0"),
    "a mask of nothing": (["--mask", "p.png"], "--mask says which part of a picture is made anew, and none"),
    "a region of nothing": (["--region", "0,0,60"], "--region says which part of a picture .* --image, or leave it"),
    "a region that is none": (["--image", "p.png", "--region", "1,2"], "--region is '1,2', but must be three numbers"),
    "a region without an end": (["--image", "p.png", "--region", "0,0,180"], "--region has a field of view of 180"),
    "a mask that is not there": (["--image", "p.png", "--mask", "lost.png"], "lost.png: there is no such file"),
    "a mask that is none": (["--image", "p.png", "--mask", "there.jpg"], "Cannot open there.jpg: it is not a JPEG"),
    "a mask of another shape": (["--image", "p.png", "--mask", "q.png"], "130×64 pixels, .* resize it to 128×64"),
    "all of a picture": (["--image", "p.png"], "--denoise 1 keeps nothing of the image.*--mask or --region"),
    "a mask's meaning without one": (
        ["--image", "p.png", "--region", "0,0,60", "--mask-means", "keep"], "because there is no mask",
    ),
    "growth of nothing": (["--mask-grow", 3], r"--mask-grow 3.* has no effect, because nothing is kept"),
    "no paste of nothing": (["--no-paste-back"], "--no-paste-back has no effect, because nothing is kept"),
    "growth beyond all": (["--image", "p.png", "--region", "0,0,60", "--mask-grow", 91], "--mask-grow is 91"),
    "a photo that is not there": (["--photo", "lost.jpg", "--fov", 60], "lost.jpg: there is no such file"),
    "a photo without a lens": (["--photo", "q.png"], "field of view of q.png is not known.*give --fov: about 65"),
    "a photo of the whole sphere": (["--photo", "q.png", "--fov", 180], "--fov is 180, but must be above 0 and below"),
    "a photo of nothing": (["--photo", "q.png", "--fov", 0], "--fov is 0, but must be above 0 and below 180"),
    "a photo behind itself": (["--photo", "q.png;fov=400"], "--fov is 400"),
    "a photo's word": (["--photo", "q.png;zoom=2"], "says 'zoom=2', but may say fov, yaw, pitch and roll"),
    "a photo's angle": (["--photo", "q.png;fov=wide"], "fov of the photo q.png is 'wide'"),
    "a photo's yaw": (["--photo", "q.png", "--fov", 60, "--yaw", "inf"], "--yaw must be a finite number"),
    "angles of nothing": (["--yaw", 90], "--yaw 90 has no effect, because there is no photo; give one with --photo"),
    "a photo and a picture": (
        ["--photo", "q.png", "--fov", 60, "--image", "p.png"], "--image has no effect beside --photo, because all that",
    ),
    "denoise of a photo": (["--photo", "q.png", "--fov", 60, "--denoise", 0.5], r"--denoise 0\.5 keeps a part of a"),
    "an image that is not there": (["--image", "lost.png", "--denoise", 0.5], "lost.png: there is no such file"),
    "bias without padding": (
        ["--circular-mode", "bias", "--circular-padding", 0],
        "--circular-mode bias has no effect, because --circular-padding is 0",
    ),
    "yaw consistency above 1": (["--yaw-consistency", 2], r"--yaw-consistency is 2\.0, but must be 0\.0 … 1\.0"),
    "unknown precision": (["--precision", "fp8"], "--precision is 'fp8', but must be one of: auto, fp32, bf16, fp16"),
    "tile size 0": (["--vae-tile-size", 0], "--vae-tile-size is 0, but must be 512 … 8192"),
    "tile size below 0": (["--vae-tile-size", -64], "--vae-tile-size is -64, but must be 512 … 8192"),
    "tile size between": (["--vae-tile-size", 1000], "--vae-tile-size is 1000, but must be a multiple of 64; take"),
    "tile size for a picture": (["--tile-size-override", 65], "--tile-size-override is 65, .* multiple of 64; take 64"),
    "tile overlap": (["--vae-tile-overlap", 24], "--vae-tile-overlap is 24, but must be a multiple of 16; take 32"),
    "tile level of one piece": (
        ["--tiling-mode", "never", "--tiling-level", "mixed"],
        "--tiling-level mixed has no effect with --tiling-mode never",
    ),
    "unknown tiling": (["--tiling-backend", "exakt"], "exakt.* did you mean exact"),
    "unknown tiling level": (["--tiling-level", "low"], "--tiling-level is 'low', .* auto, stored, mixed, recomputed"),
    "unknown tiling mode": (["--tiling-mode", "maybe"], "--tiling-mode is 'maybe', .* auto, always, never"),
    "negative prompt alone": (["--negative-prompt", "people"], "no effect while --true-guidance is 1"),
    "option the scheduler ignores": (["--scheduler-eta", 0.5], r"--scheduler-eta 0\.5 has no effect .*'flow_match'"),
}  # fmt: skip

NAMES = {
    "unknown kernel": (["--attention-backend", "spda"], r"no attention backend named 'spda'; did you mean sdpa\?"),
    "unknown kernel, near to none": (["--attention-backend", "qqqq"], "no attention backend named 'qqqq'; there are: "),
    "unknown quantization": (["--quantization-mode", "nonee"], r"no quantization named 'nonee'; did you mean none\?"),
    "unknown scheduler": (["--scheduler-type", "flow"], r"no scheduler named 'flow'; did you mean flow_match\?"),
    "unknown model": (["--model", "tinny"], r"There is no model 'tinny'.*did you mean tiny\?"),
    "model folder that is not there": (["--model", "./nowhere"], "There is no model './nowhere'.*known names are"),
    "model in nobody's home": (["--model", "~nobody-of-that-name/x"], "There is no model '~nobody-of-that-name/x'"),
    "model name beyond the file system": (["--model", "x" * 300], "There is no model 'xxx"),
}

OUTPUTS = {
    "picture exists": (["-o", "there.jpg"], "there.jpg: the file exists already.*--force"),
    "output is a folder": (["-o", "folder.jpg"], "folder.jpg: it is a folder"),
    "output's folder is not there": (["-o", "nowhere/x.jpg"], "the folder nowhere does not exist"),
    "output's folder is a file": (["-o", "notes.txt/x.jpg"], "the folder notes.txt does not exist"),
    "unknown suffix": (["-o", "x.gif"], r"x\.gif: the suffix says no known format; end it in \.jpg"),
    "no suffix": (["-o", "panorama"], "panorama: the suffix says no known format"),
}

MODELS = {
    "no model_index.json": (["--model", "no-index"], r"no-index is no diffusers model: it has no model_index\.json"),
    "broken model_index.json": (["--model", "broken-index"], r"model_index\.json is not readable JSON"),
    "another kind of model": (["--model", "other-kind"], "other-kind holds a StableDiffusionPipeline"),
    "a part is missing": (["--model", "no-vae"], "no-vae lacks vae; download the whole model"),
    "a configuration is missing": (["--model", "no-config"], r"transformer has no config\.json"),
    "weights are missing": (["--model", "no-weights"], r"transformer has no weights \(\*\.safetensors\)"),
    "weights are empty": (["--model", "empty-weights"], "vae.*is damaged or cut off"),
    "weights are truncated": (["--model", "cut-weights"], "vae.*is damaged or cut off"),
    "weights are noise": (["--model", "noise-weights"], "vae.*is damaged or cut off"),
    "a shard is missing": (["--model", "lost-shard"], r"second\.safetensors is named in the index but is not there"),
    "weights are a pickle": (["--model", "pickled"], r"diffusion_pytorch_model\.bin is a pickle.*safetensors"),
    "model is a .ckpt": (["--model", "model.ckpt"], r"model\.ckpt is a pickle, which can run code"),
    "model is a .pt": (["--model", "model.pt"], r"model\.pt is a pickle, which can run code"),
    "model is a .bin": (["--model", "model.bin"], r"model\.bin is a pickle, which can run code"),
    "model is another file": (["--model", "plain.safetensors"], "holds no transformer of a family that is installed"),
    "model of the Hub, offline": (
        ["--model", "someone/something"],
        "someone/something is not complete in the local cache",
    ),
    "LoRA is not there": (["--lora", "nowhere.safetensors"], "There is no LoRA nowhere.safetensors"),
    "LoRA is a pickle": (["--lora", "model.pt"], r"model\.pt is a pickle, which can run code"),
    "LoRA folder holds a pickle": (["--lora", "pickled-lora"], r"pytorch_lora_weights\.bin is a pickle"),
    "LoRA folder holds two": (["--lora", "two-loras"], "two-loras holds 2 safetensors files; name one of them"),
    "LoRA folder is empty": (["--lora", "folder.jpg"], r"folder\.jpg holds no safetensors file"),
    "LoRA is another file": (["--lora", "notes.txt"], r"notes\.txt is no safetensors file"),
    "LoRA is truncated": (["--lora", "cut.safetensors"], r"cut\.safetensors is damaged or cut off"),
    "a LoRA's strength is too much": (["--lora", "plain.safetensors:3"], r"the LoRA plain\.safetensors is 3"),
    "a LoRA's strength is none": (["--lora", "plain.safetensors:nan"], "is nan, but must be -2 … 2"),
    "a LoRA's strength has a comma": (["--lora", "a.safetensors:0,5"], r"is written 0,5; write 0\.5, with a point"),
    "a LoRA's name is empty": (["--lora", ""], "list of texts that are not empty"),
    "the second LoRA is not there": (["--lora", "lora.bin", "--lora", "x"], "There is no LoRA"),
    "the model has no LoRA to leave out": (["--no-model-lora"], "--no-model-lora has no effect, because tiny has"),
    "LoRA is no LoRA": (["--lora", "plain.safetensors"], r"plain\.safetensors holds no LoRA"),
    "autoencoder is not there": (
        ["--vae", "vae/ae.safetensors"],
        r"There is no autoencoder vae/ae\.safetensors; give a diffusers folder, a file of weights, or a Hub id",
    ),
    "autoencoder is a pickle": (["--vae", "model.pt"], r"model\.pt is a pickle, which can run code"),
    "autoencoder is a text": (["--vae", "notes.txt"], r"notes\.txt is no safetensors file"),
    "autoencoder is another file": (
        ["--vae", "plain.safetensors"],
        "plain.* holds no autoencoder of FLUX.1 but",
    ),
    "autoencoder is truncated": (["--vae", "cut.safetensors"], r"cut\.safetensors is damaged or cut off"),
    "autoencoder is an empty folder": (["--vae", "folder.jpg"], "folder.jpg holds no autoencoder as diffusers"),
    "autoencoder is of another class": (["--vae", "whole"], r"whole.vae makes latents of 4 channels, and this model"),
    "T5 is not there": (["--t5", "./nowhere"], r"There is no T5 encoder \./nowhere; give a diffusers folder"),
    "T5 is a pickle": (["--t5", "model.bin"], r"model\.bin is a pickle, which can run code"),
    "T5 is another file": (["--t5", "plain.safetensors"], "holds no T5 encoder of FLUX.1 but tensors of another"),
    "T5 is another's": (["--t5", "scaled.safetensors"], "makes text embeddings of 2 channels, and this model"),
}

UNCHECKED = {
    "tokenizer is empty": (["generate", "a castle", "--model", "no-tokenizer"], "no-tokenizer.tokenizer has no"),
    "second tokenizer is empty": (
        ["generate", "a castle", "--model", "no-tokenizer_2"],
        "no-tokenizer_2.tokenizer_2 has no",
    ),
    "index of shards is no map": (["generate", "a castle", "--model", "shards-no-map"], r"safetensors\.index\.json"),
    "configuration is nonsense": (["generate", "a castle", "--model", "odd-config"], r"transformer.config\.json"),
}

PLUGINS = {
    "plugin of a kind near to one": (["attn", "mine"], r"no kind of plugin named 'attn'; did you mean attention\?"),
    "plugin of no kind": (["viewer", "mine"], "no kind of plugin named 'viewer'; there are: attention, quantization, "),
    "plugin with a name of capitals": (["attention", "My Kernel"], "'My Kernel' cannot be used: .*; take my-kernel"),
    "plugin with a name of no letters": (["attention", "__"], "'__' cannot be used: .*; choose another"),
    "plugin with an empty name": (["attention", ""], "'' cannot be used: .*; choose another"),
    "plugin with a path for a name": (["attention", "../mine"], r"'\.\./mine' cannot be used: .*; take mine"),
    "plugin with a long name": (["attention", "x" * 300], "The name xxx.*… has 300 signs; take 60 at most"),
    "plugin with the name of a choice": (["tiling", "auto"], "'auto' cannot be used, because it leaves the choice"),
    "plugin with a name of the core's": (["attention", "sdpa"], "'sdpa' exists already, in dit360-core; choose"),
    "plugin with a name of a plugin's": (["scheduler", "ddim"], r"'ddim' exists already, in dit360-sched-ddim \d"),
    "plugin with a name of a family": (["attention", "flash"], "'flash' exists already, in dit360-attn-flash"),
    "plugin where a file is": (["model", "mine", "-o", "there.jpg"], "Cannot write there.jpg: it exists already"),
    "plugin where a folder is": (["model", "mine", "-o", "whole"], "Cannot write whole: it exists already"),
    "plugin in a folder that is not there": (["model", "mine", "-o", "no/where"], "where: its folder does not exist"),
    "plugin in a folder that cannot be": (["model", "mine", "-o", "x" * 300], "Cannot write xxx"),
}

CALLS = {
    "empty prompt": (["generate", ""], "The prompt is empty"),
    "blank prompt": (["generate", "  \n"], "The prompt is empty"),
    "picture to view is not there": (["view", "nowhere.jpg"], r"Cannot open nowhere\.jpg: there is no such file"),
    "picture to inspect is no picture": (["inspect", "there.jpg"], r"Cannot open there\.jpg: it is not a JPEG"),
    "picture to inspect has too long a name": (["inspect", f"{'a' * 300}.jpg"], "the name is too long for a file"),
    "several pictures of no name": (["generate", "a castle", "-n", "2", "-o", ""], r"Cannot write \.: it is the name"),
    "several pictures of a root": (["generate", "a castle", "-n", "2", "-o", "/"], "Cannot write /: it is the name of"),
    "picture to inspect is a folder": (["inspect", "folder.jpg"], r"Cannot open folder\.jpg"),
    **{name: (["new-plugin", *more], told) for name, (more, told) in PLUGINS.items()},
}

LIGHT = {
    **{name: (["generate", "a castle", *more], told) for name, (more, told) in {**OPTIONS, **NAMES, **OUTPUTS}.items()},
    **CALLS,
}
FILES = {name: (["generate", "a castle", *more], told) for name, (more, told) in MODELS.items()}


USAGE = {
    shlex.join(command): (command, words)
    for command, words in [
        (["generate"], "There is no prompt; the prompt is an argument without a flag: dit360 generate"),
        (["generate", "a castle", "--stepz", "3"], "--stepz"),
        (["generate", "a castle", "--steps", "many"], "Invalid value for '--steps'"),
        (["generate", "a castle", "--guidance", "3,5"], "write it with a decimal point: 3.5."),
        (["paint"], "There is no command 'paint'; did you mean generate?"),
        (["generate", "a", "castle"], 'put the prompt in quotes: dit360 generate "a castle"'),
        (["generate", "a castle", "--force", "yes"], "--force takes no value, and 'yes' stands behind it"),
        (["generate", "-prompt", "a castle"], "the prompt is an argument without a flag"),
        (["generate", "a castle", "-steps", "3"], "There is no option -steps; did you mean --steps?"),
        (["generate", "a castle", "--num_inference_steps", "3"], "did you mean --steps?"),
        (["generate", "a castle", "--widht", "64"], "There is no option --widht; did you mean --width"),
        (["a castle"], 'for a picture of it: dit360 generate "a castle"'),
        (["--model", "tiny", "generate", "a castle"], "There is no option --model before a command"),
        (["inspect"], "dit360 inspect needs FILE; 'dit360 inspect --help'"),
        (
            ["generate", "a", "--config", "p.toml"],
            "--config stands before the command: dit360 --config p.toml generate …",
        ),
        (["plan", "--config=p.toml"], "--config stands before the command: dit360 --config p.toml plan …"),
        (["plan", "-config", "p.toml"], "--config stands before the command: dit360 --config p.toml plan …"),
        (["plan", "--version"], "--version stands before the command: dit360 --version"),
    ]
}


def all_told(cases, **process):
    return dict(zip(cases, dit360(*(command for command, _ in cases.values()), **process), strict=True))


@pytest.fixture(scope="module")
def light(desk):
    """Every case told by a process that cannot import torch or anything that needs it."""
    before = sorted(desk.rglob("*"))
    told = all_told({**LIGHT, **FILES, **UNCHECKED, **USAGE}, cwd=desk, without=HEAVY)
    assert sorted(desk.rglob("*")) == before
    return told


def assert_one_sentence(told, sentence):
    assert told.code == 2, told.err
    assert told.out == ""
    assert re.fullmatch(r"Error: .+[.?]\n", told.err), told.err
    assert re.search(sentence, told.err), told.err


@pytest.mark.parametrize(("name", "sentence"), [(name, told) for name, (_, told) in LIGHT.items()], ids=LIGHT)
def test_bad_input_is_one_sentence_and_exit_code_2_without_torch(light, name, sentence):
    assert_one_sentence(light[name], sentence)


@pytest.mark.parametrize("name", FILES)
def test_bad_model_files_are_found_before_torch_is_imported(light, name):
    assert light[name].code == 2, light[name].err


@pytest.mark.parametrize(("name", "sentence"), [(name, told) for name, (_, told) in UNCHECKED.items()], ids=UNCHECKED)
def test_model_files_that_only_loading_finds_out(light, name, sentence):
    assert_one_sentence(light[name], sentence)


@pytest.mark.parametrize("name", USAGE)
def test_a_command_line_that_cannot_be_read_is_exit_code_2_with_the_usage(light, name):
    assert light[name].code == 2
    assert USAGE[name][1] in light[name].err
    assert "Usage: dit360" in light[name].err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no file is always full there")
@pytest.mark.parametrize("line", [["--help"], ["plan", "--help-all"], ["inspect", "p.png", "--json"]], ids=" ".join)
@pytest.mark.parametrize("buffered", [True, False], ids=["buffered", "unbuffered"])
def test_an_output_that_is_full_is_one_sentence(desk, line, buffered):
    code = (
        f"import sys; sys.argv = ['dit360', *{line!r}]; sys.stdout = open('/dev/full', 'w')\n"
        f"sys.stdout.reconfigure(write_through={not buffered})\n"
        "from dit360_core.cli import main; main()"
    )
    done = python(code, cwd=desk)
    assert done.returncode == 2
    assert done.stderr == (
        "Error: The output cannot be written (No space left on device); free what is full, or write it elsewhere.\n"
    )


def test_another_error_of_the_system_is_no_lost_output(capsys):
    for error in (OSError(5, "that failed"), FileNotFoundError(2, "No such file", "x")):
        with pytest.raises(OSError, match=str(error.strerror)), telling_of_stdout():
            raise error
    assert capsys.readouterr().err == ""


@pytest.mark.long
def test_a_plain_backends_list_and_every_help_need_no_torch(tmp_path):
    torch_free = [["backends"], ["backends", "--json"], ["doctor"], ["--help"], ["--version"]]
    helped = ("generate", "backends", "doctor", "view", "inspect", "export", "import", "new-plugin")
    torch_free += [[command, "--help"] for command in helped]
    nobody = {"DIT360_DISABLED_PLUGINS": ",".join(other_plugins())}
    for command, told in zip(torch_free, dit360(*torch_free, cwd=tmp_path, without=HEAVY, **nobody), strict=True):
        assert (told.code, told.err) == (0, ""), command
        assert told.out


def other_plugins():
    """What else is installed here: trying it may import whatever it needs."""
    from importlib import metadata

    return sorted({entry_point.name for entry_point in metadata.entry_points(group="dit360")})


def test_importing_the_package_and_the_command_line_imports_nothing_heavy(tmp_path):
    heavy = (*HEAVY, "numpy", "PIL", "huggingface_hub", "safetensors")
    imports = "import sys, dit360_core\nfrom dit360_core.cli import main\n"
    done = python(f"{imports}print([m for m in {heavy} if m in sys.modules])", cwd=tmp_path, fresh=True)
    assert done.stdout.strip() == "[]", done.stderr


# ------------------------------------------------------------------------------------- what needs torch to be known


SMALL = ["--width", 64, "--steps", 4]

LATE = {
    **FILES,
    "the Hub cannot be reached": (
        ["generate", "a castle", "--model", "dit360"],
        r"DiT360-Panorama-Image-Generation is not complete in the local cache and the Hub cannot be reached",
    ),
    "tiles of what makes none": (
        ["generate", "a castle", "--width", 128, "--tiling-mode", "always", "--tiling-backend", "whole"],
        "tiling 'whole' cannot be used here: .*--tiling-mode always asks for more.*use --tiling-mode auto",
    ),
    "tiles moved from the CPU to the CPU": (
        ["generate", "a castle", "--device", "cpu", "--tiling-level", "offloaded"],
        "--tiling-level offloaded .*use --tiling-level recomputed",
    ),
    "vram that is no number": (
        ["generate", "a castle", "--vram", "little"],
        "--vram is 'little', but must be auto, or GiB from 0.5 to 4096",
    ),
    "a preset that is none": (
        ["plan", "--preset", "fast"],
        "--preset is 'fast', but must be one of: none, auto, low-vram",
    ),
    "a timeline that is no page": (
        ["generate", "a castle", "--profile", "p.png"],
        "p.png",
    ),
    "a size that is none": (["plan", "--size", "2048 by 1024"], "--size is '2048 by 1024', but must be width×height"),
    "a size in other digits": (["plan", "--size", "²"], "--size is '²', but must be width×height"),
    "a size of 5000 digits": (["plan", "--size", "9" * 5000], "--size is '9999*', but must be width×height"),
    "a larger picture of no name": (["upscale", "p.png", "--to", 256, "-o", ""], r"Cannot write \.: it is the name"),
    "a size and a width": (["plan", "--size", "512x256", "--width", 512], "--size and --width say the same; leave one"),
    "a size of another shape": (["plan", "--size", "2048x2048"], "The size 2048×2048 cannot be made.*take"),
    "eviction and offloading at once": (
        ["generate", "a castle", "--device", "cpu", "--offload", "disk", "--evict", "all"],
        "--evict all has one part in memory at a time.*leave one of them out",
    ),
    "a comparison with an unknown option": (["bench", "--vary", "speed=1"], "speed"),
    "offload without an accelerator": (
        ["generate", "a castle", "--device", "cpu", "--offload", "model"],
        "--offload model .* use --offload none",
    ),
    "quantizing into a folder that exists": (
        ["quantize", "tiny", "-o", "there.jpg", "--mode", "int8"],
        "exists already",
    ),
    "quantizing into nowhere": (["quantize", "tiny", "-o", "no/where", "--mode", "int8"], "its folder does not exist"),
    "quantizing by nothing": (["quantize", "tiny", "-o", "new", "--mode", "none"], "--mode is none, so"),
    "quantizing by an unknown mode": (
        ["quantize", "tiny", "-o", "new", "--mode", "int9"],
        "named 'int9'; did you mean",
    ),
    "quantizing an unknown part": (
        ["quantize", "tiny", "-o", "new", "--mode", "int8", "--parts", "vae"],
        "--parts is 'vae', but must be one of: both, transformer, text, t5",
    ),
    "quantizing without a layer": (
        ["quantize", "tiny", "-o", "new", "--mode", "int8", "--skip", "*.none"],
        r"--skip: no layer is called '\*\.none'",
    ),
    "a strength of no LoRA": (
        ["quantize", "tiny", "-o", "new", "--mode", "int8", "--lora-strength", 0.5],
        r"--lora-strength 0\.5 has no effect",
    ),
}

INTERRUPTED = {
    "Ctrl-C": (["generate", "a castle", *SMALL, "--scheduler-type", "interrupts", "-o", "new.png"], 130),
    "SIGTERM": (["generate", "a castle", *SMALL, "--scheduler-type", "terminates", "-o", "new.png"], 143),
    "Ctrl-C, file exists": (
        ["generate", "a castle", *SMALL, "--scheduler-type", "interrupts", "-o", "there.jpg", "--force"],
        130,
    ),
    "SIGTERM while a plugin is loaded": (
        ["generate", "a castle", *SMALL, "--quantization-mode", "terminates-while-loading", "-o", "new.png"],
        143,
    ),
}


@pytest.fixture(scope="module")
def late(desk, tmp_path_factory):
    """Cases told by a process that has torch, for which the Hub cannot be reached."""
    before = sorted(desk.rglob("*"))
    aside = tmp_path_factory.mktemp("aside")
    with socket.socket() as silent:  # bound and not listening: nobody answers, and no other program takes it
        silent.bind(("127.0.0.1", 0))
        told = all_told(
            {**LATE, **INTERRUPTED},
            cwd=desk,
            PYTHONPATH=install(aside / "plugins", "sends_signals"),
            HF_HUB_OFFLINE="0",
            HF_HOME=aside / "cache",
            HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}",
        )
    assert sorted(desk.rglob("*")) == before
    assert (desk / "there.jpg").read_bytes() == b"somebody's picture"
    return told


@pytest.mark.parametrize(("name", "sentence"), [(name, told) for name, (_, told) in LATE.items()], ids=LATE)
def test_what_is_wrong_with_files_or_found_out_late_is_one_sentence_and_exit_code_2(late, name, sentence):
    assert_one_sentence(late[name], sentence)


@pytest.mark.parametrize(("name", "code"), [(name, code) for name, (_, code) in INTERRUPTED.items()], ids=INTERRUPTED)
def test_an_interrupted_picture_leaves_no_file_and_its_signals_exit_code(late, name, code):
    assert late[name].code == code
    assert late[name].err.strip() == "Interrupted; no half-written file is left."


def test_the_doctor_tells_of_a_plugins_model_whose_folder_is_gone(tmp_path):
    mars = installed("mars", offering(model("mars", base=str(tmp_path / "weights"))))
    report = examine(Registry(builtin=[], entry_points=mars), Machine())  # no kernel, which would be tried
    assert report["models"]["mars"] == f"missing ({tmp_path / 'weights'})"
    assert report["advice"] == [f"There is no folder {tmp_path / 'weights'}; reinstall what brought this model."]
