"""What the core says of options is told with flags on the command line, and what is not ours stays as it was."""

import ast
import re
from pathlib import Path

import attrs
import dit360_core
import pytest
from dit360_core.batching.items import Batchwide, read_items
from dit360_core.cli.flags import parameters
from dit360_core.cli.wording import PYTHONS, Wording, current
from dit360_core.errors import InputError, UnknownName
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions, aliases
from dit360_core.plugins.registry import Registry
from invented_plugins import installed, offering, scheduler

OPTIONS = {field.name for cls in (LoadOptions, SampleOptions, DecodeOptions) for field in attrs.fields(cls)}


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("steps is 0, but must be 1 … 1000.", "--steps is 0, but must be 1 … 1000."),
        ("choose another name or overwrite it (force).", "choose another name or overwrite it (--force)."),
        (
            "denoise=0.5 keeps a part, and none is given; give one with image, or leave denoise out.",
            "--denoise 0.5 keeps a part, and none is given; give one with --image, or leave --denoise out.",
        ),
        (
            "negative_prompt has no effect while true_guidance is 1; set true_guidance above 1 (4 is usual).",
            "--negative-prompt has no effect while --true-guidance is 1; set --true-guidance above 1 (4 is usual).",
        ),
        ("it computes in bf16 (use precision=bf16)", "it computes in bf16 (use --precision bf16)"),
        ("use offload=none, offload=disk or evict=all.", "use --offload none, --offload disk or --evict all."),
        ("use width 512, which takes 3.1 GiB, or a higher vram.",
         "use --width 512, which takes 3.1 GiB, or a higher --vram."),
        ("leave it out with quantization_skip='a.b*', or another",
         "leave it out with --quantization-skip 'a.b*', or another"),
        ("latent_rotation=False and compile_blocks=True", "--no-latent-rotation and --compile-blocks"),
        ("lora_strength=-0.5 has no effect", "--lora-strength -0.5 has no effect"),
        ("give one with lora, or leave it out.", "give one with --lora, or leave it out."),
        # What is no option stays: everyday words, files, what somebody else said, what was typed.
        ("The image has 300×200 pixels; resize it.", "The image has 300×200 pixels; resize it."),
        ("download the model again.", "download the model again."),
        ("Cannot write out/true_guidance.png: it is a folder", "Cannot write out/true_guidance.png: it is a folder"),
        ("Cannot write lora_mode/x.png: it is a folder", "Cannot write lora_mode/x.png: it is a folder"),
        ("There is no model 'vram=8'", "There is no model 'vram=8'"),
        ("a trial run raised ValueError: device=cpu is none", "a trial run raised ValueError: device=cpu is none"),
        ("in p.csv, line 3 of 4", "in p.csv, line 3 of 4"),
        ("There is no file seed=3.png; use vram=8", "There is no file seed=3.png; use --vram 8"),
        # Columns of a list are called as options are; what belongs to the model is a flag all the same.
        ("p.csv, line 2: steps is 0, but must be 1", "p.csv, line 2: steps is 0, but must be 1"),
        ("p.csv, line 2: give one with image, or leave denoise out.",
         "p.csv, line 2: give one with image, or leave denoise out."),
        ("p.csv, line 2: vram belongs to the model", "p.csv, line 2: --vram belongs to the model"),
        ("p.csv, line 7, failed: load the model with vram=auto",
         "p.csv, line 7, failed: load the model with --vram auto"),
    ],
)  # fmt: skip
def test_a_sentence_of_the_core_names_flags_and_leaves_the_rest(said, told):
    wording = attrs.evolve(current(), typed=("seed=3.png",))
    assert wording(said) == told


def test_what_the_command_line_says_for_all_lines_of_a_list_is_a_flag():
    words = Wording(flags=current().flags, given=frozenset({"denoise"}))
    told = words("p.txt, line 1: denoise=0.5 keeps a part; give one with image, or leave denoise out.")
    assert told.startswith("p.txt, line 1: --denoise 0.5 keeps a part")
    assert told.endswith("give one with image, or leave --denoise out.")


def test_help_names_flags_too():
    helps = [
        parameter.annotation.__metadata__[0].help
        for cls in (LoadOptions, SampleOptions, DecodeOptions)
        for parameter in parameters(cls, "any")
    ]
    assert any("needs --true-guidance above 1" in text for text in helps)
    long = "|".join(name for name in OPTIONS if "_" in name)
    assert [text for text in helps if re.search(rf"(?<![\w-])({long})\b|\w=\w", text)] == []


def test_a_command_that_calls_an_option_otherwise_says_so():
    wording = Wording(flags={"quantization_mode": "--mode"})
    assert (
        wording("quantization_mode is none; quantization_mode=int8 is usual") == "--mode is none; --mode int8 is usual"
    )


def _sentences():
    """Every text of the program that an exception, a reason or the log is given, with x for what is put in."""
    for file in sorted(Path(dit360_core.__file__).parent.rglob("*.py")):
        if "testing" in file.parts:
            continue
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            name = getattr(call.func, "id", getattr(call.func, "attr", ""))
            if name.endswith(("Error", "Unavailable", "OutOfMemory", "Reason", "warning", "info")):
                for argument in call.args:
                    text = _text(argument)
                    if " " in text:
                        yield f"{file.name}:{call.lineno}", text


def _text(node):
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else "x" for part in node.values)
    return _text(node.left) + _text(node.right) if isinstance(node, ast.BinOp) else ""


def test_no_sentence_of_the_program_names_an_option_as_python_does_after_it_was_worded():
    told = dict(_sentences())
    assert len(told) > 150
    names = "|".join(sorted(OPTIONS - {"prompt"} | set(PYTHONS)))
    # Of Python's own calls only: no command has them.
    pythons = re.compile(r"save_pretrained|image\.convert|call encode|Panorama\.open|from_diffusers")
    left = [
        (where, worded)
        for where, said in told.items()
        if not pythons.search(said)
        and re.search(rf"(?<![\w/.'-])(?:({names})=|({names})_?\b(?<=_\w)|(\w+_\w+)=)", worded := current()(said))
    ]
    assert left == []


# ------------------------------------------------------------------------------------------------- names of others


@pytest.mark.parametrize(
    ("option", "name", "ours"),
    [
        ("scheduler_type", "euler", "flow_match"), ("scheduler_type", "DPM++ 2M", "dpmpp_2m"),
        ("scheduler_type", "uni_pc", "unipc"), ("quantization_mode", "nf4", "int4"),
        ("quantization_mode", "fp8_e4m3fn", "fp8"), ("attention_backend", "flash_attention_2", "flash-2"),
        ("attention_backend", "flash_attn", "flash"), ("attention_backend", "torch", "sdpa"),
        ("precision", "bfloat16", "bf16"), ("precision", "torch.float16", "fp16"), ("precision", "BF16", "bf16"),
        ("device", "cuda:0", "cuda"), ("device", "Metal", "mps"), ("preset", "low_vram", "low-vram"),
        ("offload", "Group", "group"), ("tiling_mode", "Always", "always"),
    ],
)  # fmt: skip
def test_what_others_call_the_same_is_taken_by_our_name(option, name, ours):
    cls = next(cls for cls in (LoadOptions, SampleOptions, DecodeOptions) if hasattr(attrs.fields(cls), option))
    given = {"prompt": "x"} if cls is SampleOptions else {}
    assert getattr(cls(**given, **{option: name}), option) == ours


@pytest.mark.parametrize(
    ("option", "name", "hint"),
    [
        ("precision", "fp8", "auto, fp32, bf16, fp16; weights of eight bits are quantization_mode=fp8."),
        ("precision", "bf61", "did you mean bf16?"),
        ("device", "gpu", "an NVIDIA card is cuda, an Apple one is mps"),
        ("offload", "cpu", "whole parts that wait in system memory are offload=model"),
        ("preset", "qualty", "did you mean quality?"),
    ],
)
def test_what_means_something_else_here_is_told(option, name, hint):
    with pytest.raises(InputError, match=re.escape(hint)):
        LoadOptions(**{option: name})


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [
        ("scheduler", "karras", "a spacing of noise levels and no solver"),
        ("scheduler", "euler_a", "ddim with scheduler_eta=1"),
        ("quantization", "bnb", "int4 (NF4), int4-double and int8-bnb"),
        ("attention", "sageattn", "changes the picture"),
    ],
)
def test_a_name_of_something_near_is_explained(kind, name, hint):
    with pytest.raises(UnknownName, match=re.escape(hint)):
        Registry(entry_points=installed("none", offering())).find(kind, name)


def test_a_plugin_may_not_take_a_name_that_means_one_of_ours_but_can_be_had_by_its_address():
    registry = Registry(entry_points=installed("other", offering(scheduler("euler"))))
    (entry,) = registry.find("scheduler", "other:euler")
    assert [reason.code for reason in entry.refused] == ["clash"]
    assert "means flow_match here" in entry.refused[0].sentence


def test_every_name_of_others_stands_for_one_thing_and_hints_are_for_no_name_of_ours():
    for kind, names in aliases.SAME.items():
        every = {(aliases.plain(other), ours) for ours, others in names.items() for other in others}
        assert len(every) == len({other for other, _ in every}), kind
        hinted = {aliases.plain(name) for name in aliases.NEAR.get(kind, {})}
        assert not hinted & {other for other, _ in every}, kind
        assert not hinted & {aliases.plain(name) for name in names}, kind


def test_another_name_in_a_list_of_pictures_is_the_same_picture(tmp_path):
    """The name that is kept is ours, so a resumed batch and a picture's metadata know one solver by one name."""
    (tmp_path / "p.csv").write_text("prompt,scheduler_type,seed\na castle,euler,1\na castle,flow_match,1\n")
    with pytest.raises(InputError, match="line 3: it is the picture of line 2 again"):
        read_items(tmp_path / "p.csv", Batchwide(folder=tmp_path, suffix=".png", loading=LoadOptions(), options={}))
