"""What the core says of options is told with flags on the command line, and what is not ours stays as it was."""

import ast
import copy
import inspect
import json
import logging
import pickle
import re
from pathlib import Path

import attrs
import dit360_core
import pytest
from command_line import MARKS, dit360
from dit360_core.batching.items import Batchwide, read_items
from dit360_core.batching.running import Batch
from dit360_core.cli.flags import parameters
from dit360_core.cli.output import reporting
from dit360_core.cli.wording import PYTHONS, Wording, current
from dit360_core.errors import BackendUnavailable, Dit360Error, InputError, Reason, UnknownName
from dit360_core.errors.log import marked_message
from dit360_core.errors.sentences import (
    REMEDIES,
    Sentence,
    Surface,
    line_of_list,
    marked,
    named,
    options_in,
    plain,
    remedies_in,
    remedy,
    setting,
    worded,
)
from dit360_core.options import OF_A_LINE, DecodeOptions, LoadOptions, SampleOptions, aliases, options_of
from dit360_core.plugins.choosing import select
from dit360_core.plugins.registry import Registry
from dit360_core.system.machine import Machine
from invented_plugins import installed, offering, scheduler

OPTIONS = {field.name for cls in (LoadOptions, SampleOptions, DecodeOptions) for field in attrs.fields(cls)}
LINE = line_of_list("p.csv, line 2")


@pytest.fixture(autouse=True)
def no_command(monkeypatch):
    """A command that another test ran in this process decides on no wording here."""
    monkeypatch.setattr("dit360_core.cli.wording._now", [])


@pytest.mark.parametrize(
    ("said", "python", "terminal"),
    [
        (f"{named('steps')} is 0, but must be 1 … 1000.", "steps is 0, but must be 1 … 1000.",
         "--steps is 0, but must be 1 … 1000."),
        (f"overwrite it ({named('force')}).", "overwrite it (force).", "overwrite it (--force)."),
        (f"{setting('denoise', 0.5)} keeps a part; give one with {named('image')}, or leave {named('denoise')} out.",
         "denoise=0.5 keeps a part; give one with image, or leave denoise out.",
         "--denoise 0.5 keeps a part; give one with --image, or leave --denoise out."),
        (f"use {setting('offload', 'none')}, {setting('offload', 'disk')} or {setting('evict', 'all')}.",
         "use offload=none, offload=disk or evict=all.", "use --offload none, --offload disk or --evict all."),
        (f"leave it out with {setting('quantization_skip', repr('a.b*'))}, or another",
         "leave it out with quantization_skip='a.b*', or another",
         "leave it out with --quantization-skip 'a.b*', or another"),
        (f"{setting('latent_rotation', False)} and {setting('compile_blocks', True)}",
         "latent_rotation=False and compile_blocks=True", "--no-latent-rotation and --compile-blocks"),
        (f"{setting('compile_blocks', False)}", "compile_blocks=False", "--no-compile-blocks"),
        (f"{setting('lora_strength', -0.5)} has no effect", "lora_strength=-0.5 has no effect",
         "--lora-strength -0.5 has no effect"),
        (f"give one with {named('lora')}, or {remedy('leave_out')}.", "give one with lora, or leave it out.",
         "give one with --lora, or leave it out."),
        (f"{named('registry')} and {setting('torch_dtype', 'x')}", "registry and torch_dtype=x",
         "registry and torch_dtype=x"),
        # Columns of a list are called as options are; what belongs to the model is a flag all the same.
        (f"{LINE}: {named('steps')} is 0", "p.csv, line 2: steps is 0", "p.csv, line 2: steps is 0"),
        (f"{LINE}: {setting('denoise', 0.5)}: give one with {named('image')}.",
         "p.csv, line 2: denoise=0.5: give one with image.", "p.csv, line 2: denoise=0.5: give one with image."),
        (f"{LINE}: {named('vram')} belongs to the model", "p.csv, line 2: vram belongs to the model",
         "p.csv, line 2: --vram belongs to the model"),
        (f"{LINE}, failed: load the model with {setting('vram', 'auto')}",
         "p.csv, line 2, failed: load the model with vram=auto",
         "p.csv, line 2, failed: load the model with --vram auto"),
        (f"in p.csv, line 3 of 4: {named('steps')}", "in p.csv, line 3 of 4: steps", "in p.csv, line 3 of 4: --steps"),
    ],
)  # fmt: skip
def test_a_sentence_is_worded_for_each_surface(said, python, terminal):
    assert plain(said) == worded(said, Surface()) == python
    assert current()(said) == terminal


@pytest.mark.parametrize(
    "said",
    [
        "The image has 300×200 pixels; resize it.", "Cannot write out/true_guidance.png: it is a folder",
        "There is no model 'vram=8'", "a trial run raised ValueError: device=cpu is none", "in p.csv, line 3 of 4",
        "steps is 0", "use precision=bf16, or leave it out", "Apple's sign \uf8ff and \ue000 of a font",
    ],
)  # fmt: skip
def test_what_is_not_marked_stays_as_it_is(said):
    assert plain(said) == worded(said, Surface()) == current()(said) == said
    assert options_in(said) == remedies_in(said) == ()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: SampleOptions(prompt="x", steps=0), "--steps is 0, but must be 1 … 1000."),
        (lambda: dit360_core.load("tiny").generate("x", negative_prompt="y"),
         "--negative-prompt has no effect while --true-guidance is 1; set --true-guidance above 1 (4 is usual) or "
         "leave the negative prompt out."),
        (lambda: LoadOptions(precision="fp8"), "weights of eight bits are --quantization-mode fp8."),
        (lambda: LoadOptions(vram="x"), "--vram is 'x', but must be auto"),
        (lambda: DecodeOptions(tiling_mode="never", tiling_level="stored"),
         "--tiling-level stored has no effect with --tiling-mode never, which makes one piece; use --tiling-mode auto "
         "or leave the level out."),
        (lambda: dit360_core.load("tiny", lora_strength=0.5, model_lora=False), "--no-model-lora has no effect"),
        (lambda: dit360_core.load("tiny", lora_mode="adapter"),
         "--lora-mode adapter has no effect, because no LoRA is loaded; give one with --lora, or leave it out."),
        (lambda: dit360_core.quantize("tiny", "new-folder", quantization_mode="none"),
         "--quantization-mode is none, so there is nothing to store"),
    ],
)  # fmt: skip
def test_errors_of_the_core_are_told_with_flags_and_are_plain_in_python(wrong, told):
    with pytest.raises(Dit360Error) as caught:
        wrong()
    assert told in current()(caught.value.sentence)
    assert str(caught.value) == caught.value.args[0] == plain(caught.value.sentence)
    assert "--" not in str(caught.value)


def test_what_the_command_line_says_for_all_lines_of_a_list_is_a_flag():
    words = Wording(flags=current().flags, given=frozenset({"denoise"}))
    said = f"{LINE}: {setting('denoise', 0.5)}; give one with {named('image')}, or leave {named('denoise')} out."
    assert words(said) == "p.csv, line 2: --denoise 0.5; give one with image, or leave --denoise out."


def test_help_names_flags_too():
    helps = [
        parameter.annotation.__metadata__[0].help
        for cls in (LoadOptions, SampleOptions, DecodeOptions)
        for parameter in parameters(cls)
    ]
    assert any("needs --true-guidance above 1" in text for text in helps)
    long = "|".join(name for name in OPTIONS if "_" in name)
    assert [text for text in helps if re.search(rf"(?<![\w-])({long})\b|\w=\w", text)] == []
    assert "needs true_guidance above 1" in options_of(SampleOptions)["negative_prompt"].help
    assert "needs true_guidance above 1" in inspect.getdoc(dit360_core.Pipeline.generate)


def test_a_command_that_calls_an_option_otherwise_says_so():
    wording = Wording(flags={"quantization_mode": "--mode"})
    said = f"{named('quantization_mode')} is none; {setting('quantization_mode', 'int8')} is usual"
    assert wording(said) == "--mode is none; --mode int8 is usual"


# ---------------------------------------------------------------------------------------------------------- errors


def test_an_error_tells_its_options_and_advice_and_keeps_them_in_others_sentences():
    first = InputError(f"{setting('denoise', 1)} keeps nothing; {remedy('leave_out')}.")
    second = Dit360Error(f"{first.sentence.rstrip('.')}; use {named('steps')} or {named('steps')}.")
    assert (second.options, second.remedies) == (("denoise", "steps"), ("leave_out",))
    assert str(second) == "denoise=1 keeps nothing; leave it out; use steps or steps."
    assert current()(second.sentence) == "--denoise 1 keeps nothing; leave it out; use --steps or --steps."
    assert (Dit360Error().sentence, InputError(3).options) == ("", ())
    assert options_in(second.sentence[:10]) == ()
    assert plain(second.sentence[:10]) == "denoise=1"


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_a_copy_of_an_error_is_marked_as_it_was(again):
    reason = Reason("dtype", "not in fp32", f"use {setting('precision', 'bf16')}")
    made = again(BackendUnavailable(f"No kernel: {reason.told}", {"a:b": [reason]}))
    assert str(made) == "No kernel: not in fp32 (use precision=bf16)"
    assert made.options == ("precision",)
    assert made.reasons == {"a:b": (reason,)}
    assert marked(made.reasons["a:b"][0].hint) == marked(reason.hint)


def test_every_remedy_is_another_phrase():
    assert len(set(REMEDIES.values())) == len(REMEDIES)
    for code, phrase in REMEDIES.items():
        assert (plain(remedy(code)), remedies_in(remedy(code))) == (phrase, (code,))


def test_a_value_with_marks_of_its_own_does_no_harm():
    said = setting("model", f"a{named('steps')}b")
    assert (plain(said), options_in(said), current()(said)) == ("model=astepsb", ("model",), "--model astepsb")


# ------------------------------------------------------------------------------------------------------------- log


def test_the_log_is_plain_for_others_and_has_flags_on_the_command_line(caplog, capsys):
    log = logging.getLogger("dit360")
    with reporting():
        log.warning("%s is more than %d; %s", setting("vram", 8), 3, remedy("leave_out"))
    assert caplog.messages == ["vram=8 is more than 3; leave it out"]
    assert options_in(marked_message(caplog.records[0])) == ("vram",)
    assert "Warning: --vram 8 is more than 3; leave it out" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ data


def test_a_reason_is_plain_where_it_is_data_and_marked_where_it_is_told():
    reason = Reason("dtype", f"not with {setting('offload', 'disk')}", f"use {setting('precision', 'bf16')}")
    assert str(reason) == "not with offload=disk (use precision=bf16)"
    assert json.loads(json.dumps(attrs.asdict(reason))) == {
        "code": "dtype", "sentence": "not with offload=disk", "hint": "use precision=bf16",
    }  # fmt: skip
    assert reason.hint == "use precision=bf16"
    assert current()(reason.told) == "not with --offload disk (use --precision bf16)"
    assert attrs.evolve(reason, code="mode").told == reason.told
    assert not MARKS.search(repr(reason))


def test_hints_of_plugins_are_worded_where_they_are_marked():
    from dit360_core.plugins import Reason, SchedulingNeed, setting  # as a plugin does

    def refuses(machine, need):
        yield Reason("mode", "it takes few steps", f"use {setting('precision', 'bf16')}")
        yield Reason("mode", "it takes many steps", "use precision=fp16")

    registry = Registry(entry_points=installed("other", offering(scheduler("odd", unsupported=refuses))))
    with pytest.raises(BackendUnavailable) as caught:
        select("scheduler", "odd", registry, Machine(), SchedulingNeed(steps=2, tokens=8))
    assert "few steps (use precision=bf16) and it takes many steps (use precision=fp16)" in str(caught.value)
    told = current()(caught.value.sentence)
    assert "few steps (use --precision bf16) and it takes many steps (use precision=fp16)" in told


def test_json_for_programs_has_no_marks(tmp_path):
    """That of ``backends`` and of ``doctor`` is looked at in test_plugins_installed.py, with much more to tell."""
    (answer,) = dit360(["plan", "--vram", "auto", "--json"], cwd=tmp_path)
    assert answer.json
    assert not MARKS.search(answer.out)


def test_pictures_and_manifests_have_no_marks(tmp_path, caplog):
    pipe = dit360_core.load("tiny", device="cpu", attention_slice_size=64, attention_backend="sdpa")
    notes = pipe.plan.notes
    assert notes[0].endswith("leave it out, or use attention_backend=eager")
    assert current()(marked(notes[0])).endswith("leave it out, or use --attention-backend eager")
    settings = pipe.generate("x", width=64, height=32, steps=1).settings
    assert settings["used"]["notes"]
    assert not MARKS.search(json.dumps(settings))
    (tmp_path / "out").mkdir()  # one that is made for nothing does not stay
    (tmp_path / "p.csv").write_text("prompt,guidance\na castle,0\n")
    batch = Batch(tmp_path / "p.csv", tmp_path / "out", model="tiny", width=64, height=32, steps=1)
    batch._engine = lambda advance: _Failing(batch)
    (outcome,) = batch.run()
    assert outcome.error == "no; use precision=bf16"
    assert "p.csv, line 2, failed: no; use precision=bf16" in caplog.text
    text = (tmp_path / "out" / "manifest.jsonl").read_text()
    assert "use precision=bf16" in text
    assert not MARKS.search(text)


class _Failing:
    """An engine that makes no picture."""

    def __init__(self, batch):
        from dit360_core.batching.painting import Painted

        self.painted = [
            Painted(item=item, error=Sentence(f"no; use {setting('precision', 'bf16')}")) for item in batch.items
        ]

    check = staticmethod(lambda items: [])
    identities = staticmethod(lambda: {"": {}})
    load = close = staticmethod(lambda: None)

    def paint(self, items):
        return iter(self.painted)


# --------------------------------------------------------------------------------------------------------- sources


TELLING = ("Error", "Unavailable", "OutOfMemory", "Reason", "UnknownName", "NameTaken", "warning", "info", "option")


TELLING = ("Error", "Unavailable", "OutOfMemory", "Reason", "UnknownName", "NameTaken", "warning", "info", "option")


def _sentences():
    """Every text of the program for people, with x for what is put in: (where, text without what is marked)."""
    for file in sorted(Path(dit360_core.__file__).parent.rglob("*.py")):
        if {"testing", "errors"} & set(file.parts):
            continue
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            name = getattr(call.func, "id", getattr(call.func, "attr", ""))
            if name.endswith(TELLING):
                helps = [keyword.value for keyword in call.keywords if keyword.arg in ("help", "hint", "sentence")]
                for argument in [*call.args, *helps]:
                    text = _text(argument)
                    if " " in text:
                        yield f"{file.name}:{argument.lineno}", text


def _text(node):
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else "x" for part in node.values)
    return _text(node.left) + _text(node.right) if isinstance(node, ast.BinOp) else ""


NAMES = "|".join(sorted(OPTIONS - {"prompt"} | set(PYTHONS), key=len, reverse=True))
LONG = "|".join(name for name in sorted(OPTIONS | set(PYTHONS), key=len, reverse=True) if "_" in name)
# Names that are words of everyday language too are options where a sentence tells to do something with them.
UNMARKED = re.compile(
    rf"(?<![\w/.'-])(?:(?:{NAMES}|\w+_\w+)=|(?:{LONG})\b(?!/))"
    rf"|^(?:{NAMES}) (?:is|must|has|needs|belongs)\b|\((?:{NAMES})\)|\b(?:one|it) with (?:{NAMES})(?=[,;.])"
    rf"|\bleave (?:the )?(?:{NAMES}) out\b|\bset (?:{NAMES}) (?:to|above|below)\b"
    rf"|\b(?:use|give|take|or) (?:a |an )?(?:higher|lower|smaller|greater|another) (?:{NAMES})\b(?![\w=/-])"
    rf"|\buse (?:{NAMES}) (?:\d|x|bf16|fp16|fp32)"
)


def test_no_sentence_of_the_program_names_an_option_that_is_not_marked():
    said = dict(_sentences())
    assert len(said) > 150
    # Of Python's own calls only: no command has them.
    pythons = re.compile(r"save_pretrained|image\.convert|call encode|Panorama\.open|from_diffusers")
    everyday = re.compile(r"text encoder only \(text\), whole parts \(model\)")
    left = [
        (where, found[0], text)
        for where, text in said.items()
        if not pythons.search(text) and not everyday.search(text) and (found := UNMARKED.search(text))
    ]
    assert left == []


@pytest.mark.parametrize(
    "text",
    ["use precision=bf16", "steps is 0", "give one with image, or", "or a higher vram.", "true_guidance does nothing",
     "overwrite it (force)", "leave denoise out", "set denoise below 1", "use precision bf16"],
)  # fmt: skip
def test_a_name_that_is_not_marked_would_be_found(text):
    assert UNMARKED.search(text)


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


def test_columns_of_a_list_are_those_that_it_may_have():
    """But ``name``, which no option is called."""
    from dit360_core.batching.items import OWN
    from dit360_core.cli.wording import COLUMNS

    assert {*OWN} - {"name"} | {name for cls in OF_A_LINE for name in options_of(cls)} == COLUMNS
