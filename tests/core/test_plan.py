"""From what was asked to what is used: who is tried, who may stand in for whom, and what is said about it."""

import json
import re

import attrs
import pytest
from command_line import python
from dit360_core.errors import BackendUnavailable, InputError, Reason, UnknownName
from dit360_core.models.architecture import Facts, Guidance
from dit360_core.options import DecodeOptions, LoadOptions, SampleOptions
from dit360_core.pipeline.state import State
from dit360_core.planning.checks import check_loading, check_names, check_request, picture_size
from dit360_core.planning.guidance import check_guidance, guidance_of
from dit360_core.planning.plan import make_plan
from dit360_core.planning.precision import precision_for
from dit360_core.planning.quantization import choose_quantization
from dit360_core.planning.tiling import choose_tiling, tiling_settings
from dit360_core.plugins.choosing import Choice, judge, resolve_model, select
from dit360_core.plugins.entries import CORE
from dit360_core.plugins.offers import AttentionNeed, QuantizationNeed, SchedulingNeed
from dit360_core.plugins.registry import Registry
from dit360_core.system.machine import Machine
from invented_plugins import Halves, attention, installed, model, offering, quantizer, scheduler, tiling
from random_models import random_flux

CPU = Machine(versions={"my-kernel": "2.1.0"})
NEED = AttentionNeed(device="cpu", dtype="fp32", heads=2, head_dim=16, length=64)
TINY = model("tiny")


def refusing(sentence, code="device", hint=""):
    return lambda machine, need: [Reason(code, sentence, hint)]


class Panic(BaseException):
    """As pyo3's."""


def raising(error):
    def raises(*given, **named):
        raise error

    return raises


def registry(*offers, distribution="plugin", builtin=()):
    return Registry(builtin=builtin, entry_points=installed(distribution, offering(*offers)))


def beside_the_core(*offers):
    return Registry(entry_points=installed("plugin", offering(*offers)))


def verdict(offer, machine=CPU, need=NEED):
    kind = {"AttentionBackend": "attention", "Quantizer": "quantization"}[type(offer).__name__]
    (entry,) = registry(offer).entries(kind)
    return judge(entry, machine, need)


# ------------------------------------------------------------------------------------------------- the verdict on one


def test_an_offer_with_nothing_against_it_has_no_reasons():
    assert verdict(attention("mine", requires=("my-kernel>=2",))) == ()


@pytest.mark.parametrize(
    ("requirement", "code", "sentence"),
    [
        ("surely-not-installed>=2", "missing", "surely-not-installed is not installed"),
        ("my-kernel>=3", "version", "my-kernel 2.1.0 is installed, >=3 is needed"),
        ("my-kernel<2", "version", "my-kernel 2.1.0 is installed, <2 is needed"),
        ("no requirement at all", "offer_failed", "it names 'no requirement at all', which is no requirement"),
    ],
)
def test_a_requirement_that_is_not_met_is_a_reason(requirement, code, sentence):
    (reason,) = verdict(attention("mine", requires=(requirement,)))
    assert (reason.code, reason.sentence) == (code, sentence)
    assert reason.hint == ("" if code == "offer_failed" else f'pip install "{requirement}"')


@pytest.mark.parametrize(
    "requirement", ["my-kernel", "my-kernel>=2,<3", "my-kernel==2.1.0", "nowhere>=1; python_version<'3'"]
)
def test_a_requirement_that_is_met_or_does_not_apply_is_no_reason(requirement):
    assert verdict(attention("mine", requires=(requirement,))) == ()


def test_a_prerelease_that_is_installed_counts():
    assert verdict(attention("mine", requires=("kernel>=2",)), Machine(versions={"kernel": "2.1.0.dev20250101"})) == ()


def test_a_library_without_a_proper_version_meets_no_bound():
    (reason,) = verdict(attention("mine", requires=("kernel>=2",)), Machine(versions={"kernel": "unknown"}))
    assert (reason.code, reason.sentence) == ("version", "kernel unknown is installed, >=2 is needed")


def test_what_cannot_run_here_is_told_before_what_would_have_to_be_installed_for_it():
    """ "pip install" is no help where what it brings cannot run."""
    offer = attention("mine", requires=("surely-not-installed",), unsupported=refusing("needs CUDA"))
    assert [reason.sentence for reason in verdict(offer)] == ["needs CUDA"]


def test_an_offer_that_fails_for_lack_of_its_library_is_told_to_lack_it():
    offer = attention("mine", requires=("surely-not-installed",), unsupported=raising(ImportError("kernels")))
    assert [reason.code for reason in verdict(offer)] == ["missing"]


def test_the_real_version_of_an_installed_library_is_read_from_its_metadata():
    (reason,) = verdict(attention("mine", requires=("pluggy>=999",)), Machine())
    assert re.fullmatch(r"pluggy [\d.]+ is installed, >=999 is needed", reason.sentence)


def test_all_requirements_that_are_not_met_are_told_and_the_offer_is_not_asked_then():
    offer = attention("mine", requires=("one-missing", "two-missing"), unsupported=raising(AssertionError("asked")))
    assert [reason.code for reason in verdict(offer)] == ["missing", "missing"]


def test_without_a_need_only_the_requirements_count():
    assert verdict(attention("mine", unsupported=refusing("needs CUDA")), need=None) == ()


def test_the_offers_own_reasons_are_passed_on_as_they_are():
    assert verdict(attention("mine", unsupported=refusing("needs CUDA"))) == (Reason("device", "needs CUDA"),)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (raising(KeyError("sm_90")), "asking it raised KeyError: 'sm_90'"),
        (raising(SystemExit(1)), "asking it raised SystemExit: 1"),
        (lambda machine, need: "needs CUDA", "it answered 'needs CUDA' where a Reason belongs"),
        (lambda machine, need: "", "it answered '' where a Reason belongs"),
        (lambda machine, need: ["needs CUDA"], "it answered 'needs CUDA' where a Reason belongs"),
        (lambda machine, need: None, "asking it raised TypeError: 'NoneType' object is not iterable"),
        (lambda machine, need: [Reason("no such code", "x")], "asking it raised ValueError"),
        (lambda: (), "asking it raised TypeError"),
    ],
)
def test_an_offer_that_gives_no_proper_answer_is_refused_for_that(answer, told):
    (reason,) = verdict(attention("mine", unsupported=answer))
    assert reason.code == "offer_failed"
    assert reason.sentence.startswith(told)


# ----------------------------------------------------------------------------------------------------- who is chosen


def test_auto_takes_the_highest_priority_and_then_the_first_name():
    offers = [
        attention("low"),
        attention("b", priority=5),
        attention("a", priority=5),
        attention("negative", priority=-5),
    ]
    choice, _ = select("attention", "auto", registry(*offers), CPU, NEED)
    assert (choice.used, choice.distribution, choice.version) == ("a", "plugin", "1.0")


def test_what_is_asked_for_is_tried_first_whatever_its_priority():
    offers = [attention("high", priority=50), attention("mine", priority=-1)]
    choice, _ = select("attention", "mine", registry(*offers), CPU, NEED)
    assert choice.used == "mine"
    assert not choice.fell_back
    assert choice.verdicts == (("plugin:mine", ()),)


def test_the_implementation_is_what_load_returned_and_later_candidates_are_not_loaded():
    kernel = object()
    offers = [attention("first", priority=2, load=lambda: kernel), attention("second", load=raising(AssertionError))]
    _, implementation = select("attention", "auto", registry(*offers), CPU, NEED)
    assert implementation is kernel


def test_what_is_refused_is_never_loaded():
    offers = [
        attention("needy", priority=9, requires=("surely-not-installed",), load=raising(AssertionError("loaded"))),
        attention("picky", priority=8, unsupported=refusing("needs CUDA"), load=raising(AssertionError("loaded"))),
        attention("future", priority=7, api=99, load=raising(AssertionError("loaded"))),
        attention("works"),
    ]
    choice, _ = select("attention", "auto", registry(*offers), CPU, NEED)
    assert choice.used == "works"
    assert [reason.code for _, why in choice.verdicts for reason in why] == ["missing", "device", "api"]


@pytest.mark.parametrize(
    ("load", "probe", "code", "told"),
    [
        (raising(OSError("no libcudart.so")), None, "import_failed", "loading it raised OSError: no libcudart.so"),
        (raising(SystemExit(0)), None, "import_failed", "loading it raised SystemExit: 0"),
        (object, raising(RuntimeError("two\n lines")), "probe_failed", "a trial run raised RuntimeError: two lines"),
        (object, raising(SystemExit(1)), "probe_failed", "a trial run raised SystemExit: 1"),
        (raising(Panic("oops")), None, "import_failed", "loading it raised Panic: oops"),
        (object, raising(Panic("oops")), "probe_failed", "a trial run raised Panic: oops"),
        (object, raising(GeneratorExit()), "probe_failed", "a trial run raised GeneratorExit"),
        (object, lambda *given: [Reason("probe_failed", "off by 4")], "probe_failed", "off by 4"),
    ],
)
def test_a_candidate_that_fails_when_it_is_tried_is_passed_over(load, probe, code, told):
    def only_the_first(implementation, machine, need):
        return probe(implementation, machine, need) if probe and implementation != "works" else ()

    offers = [attention("broken", priority=1, load=load), attention("works", load=lambda: "works")]
    choice, implementation = select("attention", "auto", registry(*offers), CPU, NEED, probe=only_the_first)
    assert (choice.used, implementation) == ("works", "works")
    hint = "update plugin and tell its author" if code == "probe_failed" else ""
    assert choice.verdicts[0] == ("plugin:broken", (Reason(code, told, hint),))


def test_an_interrupt_while_a_backend_is_loaded_is_not_taken_for_its_failure():
    with pytest.raises(KeyboardInterrupt):
        select("attention", "auto", registry(attention("slow", load=raising(KeyboardInterrupt()))), CPU, NEED)


def test_attention_falls_back_to_another_kernel_by_priority():
    offers = [
        attention("mine", unsupported=refusing("needs CUDA")),
        attention("second", priority=1),
        attention("third", priority=3, unsupported=refusing("needs MPS")),
    ]
    choice, _ = select("attention", "mine", registry(*offers), CPU, NEED)
    assert (choice.requested, choice.used, choice.fell_back) == ("mine", "second", True)
    assert [name for name, _ in choice.verdicts] == ["plugin:mine", "plugin:third", "plugin:second"]
    assert choice.sentence() == "attention: second (plugin 1.0) instead of mine, because needs CUDA"


def test_strict_refuses_to_fall_back_and_tells_the_reasons():
    offers = [attention("mine", unsupported=refusing("needs CUDA", hint="buy one")), attention("second")]
    with pytest.raises(BackendUnavailable) as refused:
        select("attention", "mine", registry(*offers), CPU, NEED, strict=True)
    assert refused.value.reasons == {"plugin:mine": (Reason("device", "needs CUDA", "buy one"),)}
    assert str(refused.value) == "The attention backend 'mine' cannot be used here: plugin:mine: needs CUDA (buy one)."


def test_strict_leaves_auto_free_to_choose():
    offers = [attention("mine", priority=1, unsupported=refusing("needs CUDA")), attention("second")]
    choice, _ = select("attention", "auto", registry(*offers), CPU, NEED, strict=True)
    assert choice.used == "second"


@pytest.mark.parametrize(("kind", "offer"), [("quantization", quantizer), ("scheduler", scheduler), ("tiling", tiling)])
def test_only_attention_falls_back_since_the_others_change_the_picture_or_the_memory(kind, offer):
    need = QuantizationNeed(device="cpu", dtype="fp32") if kind == "quantization" else NEED
    offers = [offer("mine", unsupported=refusing("needs CUDA")), offer("other", load=lambda *settings: object())]
    with pytest.raises(BackendUnavailable, match=f"The {kind} 'mine' cannot be used here: plugin:mine: needs CUDA"):
        select(kind, "mine", registry(*offers), CPU, need)
    choice, _ = select(kind, "auto", registry(*offers), CPU, need, load=lambda offer: object())
    assert choice.used == "other"


def test_nothing_usable_is_told_with_the_reasons_of_all():
    offers = [attention("a", unsupported=refusing("needs CUDA")), attention("b", requires=("surely-not-installed",))]
    with pytest.raises(BackendUnavailable) as refused:
        select("attention", "auto", registry(*offers), CPU, NEED)
    assert set(refused.value.reasons) == {"plugin:a", "plugin:b"}
    assert "needs CUDA" in str(refused.value)
    assert 'pip install "surely-not-installed"' in str(refused.value)
    with pytest.raises(BackendUnavailable, match="No scheduler can be used here: none is installed"):
        select("scheduler", "auto", Registry(builtin=[], entry_points=[]), CPU, SchedulingNeed(steps=1, tokens=1))


def test_an_unknown_name_is_an_error_and_never_a_fall_back():
    with pytest.raises(UnknownName, match="did you mean sdpa"):
        select("attention", "spda", Registry(entry_points=[]), CPU, NEED)


# ----------------------------------------------------------------------------------------------------------- families


def family(**about):
    """Two kernels that answer to ``fast``, and one that does not."""
    return [
        attention("fast-1", family="fast", priority=1, **about),
        attention("fast-2", family="fast", priority=2, **about),
        attention("slow", priority=9),
    ]


@pytest.mark.parametrize("asked", ["fast", "FAST", "plugin:fast"])
def test_a_familys_name_means_its_first_that_works(asked):
    choice, _ = select("attention", asked, registry(*family()), CPU, NEED)
    assert (choice.used, choice.fell_back) == ("fast-2", False)


def test_a_familys_name_passes_over_those_that_cannot_and_tells_so():
    offers = family()
    offers[1] = attention("fast-2", family="fast", priority=2, unsupported=refusing("needs CUDA"))
    choice, _ = select("attention", "fast", registry(*offers), CPU, NEED, strict=True)
    assert (choice.used, choice.fell_back) == ("fast-1", False)
    assert choice.sentence() == "attention: fast-1 (plugin 1.0) (not plugin:fast-2: needs CUDA)"


def test_a_family_of_which_none_works_falls_back_with_the_reasons_of_all():
    choice, _ = select("attention", "fast", registry(*family(unsupported=refusing("needs CUDA"))), CPU, NEED)
    assert (choice.used, choice.fell_back) == ("slow", True)
    assert choice.sentence() == (
        "attention: slow (plugin 1.0) instead of fast, because plugin:fast-2 and plugin:fast-1: needs CUDA"
    )
    with pytest.raises(BackendUnavailable, match="'fast' cannot be used here: plugin:fast-2 and plugin:fast-1: needs"):
        select("attention", "fast", registry(*family(unsupported=refusing("needs CUDA"))), CPU, NEED, strict=True)


def test_a_family_is_among_the_names_that_are_near():
    with pytest.raises(UnknownName, match="did you mean fast"):
        select("attention", "fats", registry(*family()), CPU, NEED)


def test_two_that_use_one_familys_name_must_be_told_apart():
    both = Registry(entry_points=[*installed("twin-a", offering(*family())), *installed("twin-b", offering(*family()))])
    with pytest.raises(BackendUnavailable, match="twin-a and twin-b both call kernels 'fast'") as refused:
        select("attention", "fast", both, CPU, NEED)
    assert "'twin-a:fast' and 'twin-b:fast'" in str(refused.value)
    alone = Registry(
        entry_points=[
            *installed("twin-a", offering(*family())),
            *installed("twin-b", offering(attention("other", family="fast", priority=99))),
        ]
    )
    assert select("attention", "twin-a:fast", alone, CPU, NEED)[0].used == "fast-2"


def test_nobody_takes_a_familys_name_for_a_kernel():
    both = Registry(
        entry_points=[*installed("kit", offering(*family())), *installed("thief", offering(attention("fast")))]
    )
    with pytest.raises(BackendUnavailable, match="'fast' is what kit 1\\.0 calls several kernels"):
        select("attention", "fast", both, CPU, NEED)
    assert select("attention", "kit:fast", both, CPU, NEED)[0].used == "fast-2"
    assert select("attention", "thief:fast", both, CPU, NEED)[0].distribution == "thief"


def test_a_member_that_clashes_does_not_spoil_its_family():
    both = Registry(
        entry_points=[
            *installed("twin-a", offering(*family())),
            *installed("twin-b", offering(attention("fast-2"))),
        ]
    )
    choice, _ = select("attention", "fast", both, CPU, NEED)
    assert choice.used == "fast-1"


# ---------------------------------------------------------------------------------------------------------- key bias


def test_a_kernel_that_takes_no_bias_is_passed_over_where_one_is_needed():
    biased = attrs.evolve(NEED, key_bias=True)
    offers = [attention("plain", priority=2), attention("able", takes_key_bias=True)]
    choice, _ = select("attention", "plain", registry(*offers), CPU, biased)
    assert choice.sentence() == (
        "attention: able (plugin 1.0) instead of plain, because it takes no bias on the keys (use circular_mode=pad)"
    )


def test_the_wrong_device_is_told_before_the_missing_bias():
    biased = attrs.evolve(NEED, key_bias=True)
    (reason,) = verdict(attention("mine", unsupported=refusing("needs CUDA")), need=biased)
    assert reason.sentence == "needs CUDA"


@pytest.mark.parametrize(
    ("mode", "backend", "strict"),
    [("bias", "plain", True), ("bias", "pipeline", True)],
)
def test_a_strict_wish_for_a_bias_that_cannot_be_met_is_told_before_anything_is_loaded(mode, backend, strict):
    sampling = SampleOptions(prompt="a sea", circular_mode=mode, attention_backend=backend)
    loading = LoadOptions(attention_backend="plain", strict=strict)
    given = {"loading": loading, "model": TINY, "registry": beside_the_core(attention("plain"))}
    with pytest.raises(BackendUnavailable, match="'plain' takes no bias on the keys"):
        check_request(sampling, DecodeOptions(), machine=CPU, precision="fp32", **given)


# ------------------------------------------------------------------------------------------------------------ clashes


@pytest.fixture
def twins():
    return Registry(
        entry_points=[
            *installed("twin-a", offering(attention("same", priority=90)), version="1.0"),
            *installed("twin-b", offering(attention("same", priority=80)), version="2.0"),
        ]
    )


def test_a_name_that_two_offer_is_refused_naming_both_and_how_to_ask(twins):
    with pytest.raises(BackendUnavailable) as refused:
        select("attention", "same", twins, CPU, NEED)
    for told in ("twin-a 1.0", "twin-b 2.0", "'twin-a:same'", "'twin-b:same'"):
        assert told in str(refused.value)


@pytest.mark.parametrize("asked", ["twin-b:same", "Twin_B:SAME"])
def test_the_distributions_name_selects_one_of_two(twins, asked):
    choice, _ = select("attention", asked, twins, CPU, NEED)
    assert (choice.used, choice.distribution, choice.version) == ("same", "twin-b", "2.0")
    assert not choice.fell_back


def test_auto_takes_neither_of_two_with_one_name(twins):
    choice, _ = select("attention", "auto", twins, CPU, NEED)
    assert choice.distribution == CORE


def test_the_cores_name_means_the_core_and_the_others_only_with_their_distribution():
    theirs = object()
    both = beside_the_core(attention("sdpa", priority=99, load=lambda: theirs))
    for asked, owner in (("sdpa", CORE), ("auto", CORE), ("dit360-core:sdpa", CORE), ("plugin:sdpa", "plugin")):
        choice, implementation = select("attention", asked, both, CPU, NEED)
        assert (choice.distribution, implementation is theirs) == (owner, owner == "plugin")
        assert not choice.fell_back


def test_the_distributions_name_does_not_lift_other_reasons():
    future = registry(attention("future", api=99), distribution="later")
    with pytest.raises(BackendUnavailable, match="written for plugin api 99"):
        select("attention", "later:future", future, CPU, NEED, strict=True)


# ------------------------------------------------------------------------------------------------- what is said of it


def choice(requested, used="sdpa", distribution=CORE, verdicts=()):
    return Choice(
        kind="attention", requested=requested, used=used, distribution=distribution, version="1.0", verdicts=verdicts
    )


@pytest.mark.parametrize("asked", ["auto", "sdpa", "SDPA", "dit360-core:sdpa", "Dit360_Core:sdpa"])
def test_what_was_named_is_no_fall_back(asked):
    found, _ = select("attention", asked, beside_the_core(attention("mine", unsupported=refusing("no"))), CPU, NEED)
    assert (found.used, found.fell_back) == ("sdpa", False)


@pytest.mark.parametrize("asked", ["mine", "plugin:mine", "sdpa-efficient"])
def test_something_else_than_what_was_named_is_a_fall_back(asked):
    found, _ = select("attention", asked, beside_the_core(attention("mine", unsupported=refusing("no"))), CPU, NEED)
    assert (found.used, found.fell_back) == ("sdpa", True)


def test_the_log_names_the_distribution_of_what_is_not_the_cores():
    assert choice("auto").sentence() == "attention: sdpa"
    assert choice("mine", used="mine", distribution="kit").sentence() == "attention: mine (kit 1.0)"


def test_the_log_tells_why_auto_passed_something_over():
    passed_over = (("kit:mine", (Reason("device", "needs CUDA", "buy one"),)), ("dit360-core:sdpa", ()))
    assert choice("auto", verdicts=passed_over).sentence() == "attention: sdpa (not kit:mine: needs CUDA (buy one))"


def test_candidates_with_the_same_reasons_are_told_together():
    no = (Reason("device", "needs CUDA"),)
    passed_over = (("a:x", no), ("a:y", (Reason("dtype", "no fp32"),)), ("a:z", no), ("dit360-core:sdpa", ()))
    assert choice("auto", verdicts=passed_over).sentence() == (
        "attention: sdpa (not a:x and a:z: needs CUDA; a:y: no fp32)"
    )


def test_a_choice_is_json_with_the_reasons_as_data():
    passed_over = (("kit:mine", (Reason("device", "needs CUDA", "buy one"),)), ("dit360-core:sdpa", ()))
    told = json.loads(json.dumps(choice("mine", verdicts=passed_over).as_dict()))
    assert told["refused"] == {"kit:mine": [{"code": "device", "sentence": "needs CUDA", "hint": "buy one"}]}
    assert (told["requested"], told["used"], told["distribution"]) == ("mine", "sdpa", CORE)


def test_a_reason_has_a_code_that_programs_know():
    with pytest.raises(ValueError, match="code"):
        Reason("because", "of that")


# ------------------------------------------------------------------------------------------------------------- models


def never_a_folder(name):
    return False


def test_a_model_is_meant_by_its_name_in_any_case_or_with_its_distribution():
    known = beside_the_core(model("mars", base="someone/mars"))
    assert resolve_model("tiny", known, never_a_folder).name == "tiny"
    assert resolve_model("DiT360", known, never_a_folder).name == "dit360"
    assert resolve_model("plugin:mars", known, never_a_folder).base == "someone/mars"


def test_a_name_is_not_looked_for_among_the_folders():
    assert resolve_model("tiny", beside_the_core(), lambda name: True).name == "tiny"


def test_a_folder_or_a_hub_id_is_a_model_with_the_defaults_of_flux():
    given = resolve_model("./somewhere", beside_the_core(), lambda name: True)
    assert (given.base, given.lora, given.prompt_prefix, given.width) == ("./somewhere", None, "", 2048)
    assert resolve_model("someone/something", beside_the_core(), never_a_folder).base == "someone/something"


@pytest.mark.parametrize("name", ["tinny", "TINNY", "dit36"])
def test_an_unknown_model_is_refused_with_the_nearest_name(name):
    with pytest.raises(UnknownName, match=r"did you mean (tiny|dit360( or dit360-fill)?)\?"):
        resolve_model(name, beside_the_core(), never_a_folder)


@pytest.mark.parametrize("name", ["nothing-like-it", "", "../nowhere", "a/b/c", "~/nowhere", "owner/", "/rooted"])
def test_what_can_be_no_model_is_refused_with_the_known_names(name):
    with pytest.raises(UnknownName, match=re.escape("known names are dit360, dit360-fill, tiny.")):
        resolve_model(name, beside_the_core(), never_a_folder)


def test_a_model_name_that_two_offer_is_refused_and_the_distributions_name_selects_one():
    both = Registry(
        entry_points=[
            *installed("left", offering(model("mars", base="l/l"))),
            *installed("right", offering(model("mars", base="r/r"))),
        ]
    )
    with pytest.raises(BackendUnavailable, match=r"left 1\.0.*"):
        resolve_model("mars", both, never_a_folder)
    assert resolve_model("right:mars", both, never_a_folder).base == "r/r"


def test_a_model_whose_requirements_are_not_met_is_refused_with_what_to_install():
    known = beside_the_core(model("mars", requires=("surely-not-installed>=2",)), model("venus", api=99))
    with pytest.raises(BackendUnavailable, match='pip install "surely-not-installed>=2"'):
        resolve_model("mars", known, never_a_folder)
    for asked in ("venus", "plugin:venus"):
        with pytest.raises(BackendUnavailable, match="written for plugin api 99"):
            resolve_model(asked, known, never_a_folder)


def test_the_cores_models_cannot_be_replaced_by_a_plugin():
    thief = beside_the_core(model("tiny", base="someone/else"))
    assert resolve_model("tiny", thief, never_a_folder).base != "someone/else"


# ---------------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize(
    ("asked", "wish", "device", "fast", "taken"),
    [
        ("auto", "auto", "cpu", False, "fp32"),
        ("auto", "auto", "cpu", True, "bf16"),
        ("auto", "auto", "cuda", True, "bf16"),
        ("auto", "auto", "cuda", False, "fp16"),
        ("auto", "auto", "mps", True, "bf16"),
        ("auto", "fp32", "cuda", True, "fp32"),
        ("fp16", "fp32", "cpu", False, "fp16"),
        ("bf16", "auto", "cpu", False, "bf16"),
    ],
)
def test_precision_is_what_was_asked_else_what_the_model_wants_else_what_is_fast_here(asked, wish, device, fast, taken):
    machine = Machine(device=device, fast_bfloat16=fast)
    assert precision_for(LoadOptions(precision=asked), model("m", precision=wish), machine) == taken


# ---------------------------------------------------------------------------------------------------------- load plan


def resolved(options, known, machine=CPU):
    check_loading(options, machine, TINY)
    sdpa, _ = select("attention", "auto", known, machine, NEED)
    quantization, quantizer = choose_quantization(options, known, machine, "fp32")
    return make_plan(options, machine, TINY, "fp32", sdpa, quantization), quantizer


def test_the_plan_tells_what_is_used_as_json_and_in_sentences():
    kept = Halves()
    known = beside_the_core(quantizer("bits", load=lambda: kept))
    plan, implementation = resolved(
        LoadOptions(quantization_mode="bits", lora="x.safetensors", lora_strength=0.5), known
    )
    assert implementation is kept
    state = State(plan=plan)
    told = json.loads(json.dumps(state.as_dict()))
    assert told["quantization"]["used"] == "bits"
    (lora,) = told["loras"]
    assert lora == {
        "from": "x.safetensors", "strength": 0.5, "own": False, "mode": "fuse", "modules": 0, "tensors": 0,
        "tensors_used": 0,
    }  # fmt: skip
    assert state.sentences() == [
        "model: tiny, fp32 on cpu",
        "attention: sdpa",
        "quantization: bits (plugin 1.0)",
        "lora: x.safetensors, strength 0.5, 0 modules fused",
    ]


def test_a_quantization_that_cannot_be_used_stops_the_load():
    known = beside_the_core(quantizer("bits", unsupported=refusing("needs CUDA")))
    with pytest.raises(BackendUnavailable, match="quantization 'bits' cannot be used here: plugin:bits: needs CUDA"):
        resolved(LoadOptions(quantization_mode="bits"), known)


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offload_on_the_cpu_is_refused(offload):
    with pytest.raises(InputError, match="use offload=none"):
        resolved(LoadOptions(offload=offload), beside_the_core())


# --------------------------------------------------------------------------------------------- one picture's options


EMBEDDED = Facts(heads=1, head_dim=1, latent_channels=16, guidance=Guidance.EMBEDDED)
TRUE = attrs.evolve(EMBEDDED, guidance=Guidance.TRUE)
NEITHER = attrs.evolve(EMBEDDED, guidance=Guidance.NONE)


def checked(known=None, *, facts=EMBEDDED, decoding=None, **sampling):
    options = SampleOptions(prompt="a castle", **sampling)
    check_request(
        options,
        decoding or DecodeOptions(),
        loading=LoadOptions(),
        model=TINY,
        registry=known or beside_the_core(),
        machine=CPU,
        precision="fp32",
    )
    check_guidance(options, TINY, facts)


def test_ordinary_options_pass():
    checked(width=1024, steps=4, guidance=3.0, timestep_schedule="cosine", attention_backend="eager")


def test_guidance_for_a_model_without_it_is_refused():
    with pytest.raises(InputError, match="no embedded guidance"):
        checked(facts=NEITHER, guidance=3.0)
    checked(facts=NEITHER)


@pytest.mark.parametrize("facts", [EMBEDDED, NEITHER])
def test_a_negative_prompt_without_true_guidance_is_refused(facts):
    with pytest.raises(InputError, match="set true_guidance above 1"):
        checked(facts=facts, negative_prompt="people")
    checked(facts=facts, negative_prompt="people", true_guidance=4.0)
    checked(facts=facts, negative_prompt="")


def test_a_model_whose_guidance_is_true_has_one():
    checked(facts=TRUE, negative_prompt="people", guidance=4.0)
    checked(facts=TRUE, negative_prompt="people", true_guidance=4.0)
    checked(facts=TRUE, negative_prompt="people")  # by the model's own
    with pytest.raises(InputError, match="are the same thing; give one of them"):
        checked(facts=TRUE, guidance=3.0, true_guidance=4.0)
    with pytest.raises(InputError, match="no effect while guidance is 1; set it above 1"):
        checked(facts=TRUE, negative_prompt="people", guidance=1.0)


def test_guidance_comes_to_a_number_for_the_denoiser_or_to_a_second_evaluation():
    asked = SampleOptions(prompt="a castle", guidance=2.0)
    embedded, true, none = (guidance_of(asked, TINY, facts) for facts in (EMBEDDED, TRUE, NEITHER))
    assert (embedded.embedded, embedded.away, embedded.number) == (2.0, False, 2.0)
    assert (true.embedded, true.true, true.away, true.number, true.beside) == (None, 2.0, True, 2.0, 1.0)
    assert (none.embedded, none.away, none.number) == (None, False, None)
    # In a family that measures it from 0 a small number is a second evaluation, too.
    from_zero = guidance_of(SampleOptions(prompt="a castle", guidance=0.5), TINY, attrs.evolve(TRUE, off=0.0))
    assert (from_zero.true, from_zero.away) == (0.5, True)
    assert not guidance_of(SampleOptions(prompt="a castle", guidance=0.0), TINY, attrs.evolve(TRUE, off=0.0)).away


def test_an_unknown_kernel_or_scheduler_for_one_picture_is_refused_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean eager"):
        checked(attention_backend="eagr")
    with pytest.raises(UnknownName, match="did you mean flow_match"):
        checked(scheduler_type="flow_mach")


def test_an_option_that_the_scheduler_would_ignore_is_refused():
    with pytest.raises(InputError, match=r"scheduler_eta=0\.5 has no effect with the scheduler 'flow_match'"):
        checked(scheduler_eta=0.5)
    known = beside_the_core(scheduler("ddim", honours=("scheduler_eta",)))
    checked(known, scheduler_type="ddim", scheduler_eta=0.5)
    with pytest.raises(InputError, match=r"timestep_schedule=cosine has no effect .* \(it takes: scheduler_eta\)"):
        checked(known, scheduler_type="ddim", timestep_schedule="cosine")


def test_auto_with_an_option_that_only_some_schedulers_obey_asks_for_a_name():
    known = beside_the_core(scheduler("ddim", honours=("scheduler_eta",)))
    with pytest.raises(
        InputError, match=r"needs a scheduler that obeys it \(flow_match, heun, unipc, dpmpp_2m\).*name the scheduler"
    ):
        checked(known, scheduler_type="auto", timestep_schedule="cosine")
    checked(known, scheduler_type="auto")
    checked(scheduler_type="auto", timestep_schedule="cosine")


@pytest.mark.parametrize(
    ("backend", "mode", "why"),
    [
        ("whole", "always", r"'whole' cannot be used here: .*asks for more.*use tiling_mode=auto"),
        ("blended", "never", r"'blended' cannot be used here: .*asks for one piece.*use tiling_mode=auto"),
    ],
)
def test_tiles_that_a_tiling_does_not_make_are_refused_with_the_reason_and_what_to_do(backend, mode, why):
    with pytest.raises(BackendUnavailable, match=why):
        checked(decoding=DecodeOptions(tiling_mode=mode, tiling_backend=backend))


def chosen_tiling(known, backend="auto", loading=None, **decoding):
    settings = tiling_settings(loading or LoadOptions(), DecodeOptions(**decoding))
    vae = random_flux().vae
    return choose_tiling(backend, settings, 512, 256, registry=known, machine=CPU, precision="fp32", vae=vae)


def test_tiles_that_a_plugin_offers_are_used_when_they_are_asked_for():
    known = beside_the_core(tiling("tiles", priority=-1))
    assert chosen_tiling(known)[0].used == "exact"
    assert chosen_tiling(known, "tiles")[0].used == "tiles"
    assert chosen_tiling(beside_the_core(tiling("tiles", priority=1)))[0].used == "tiles"


def test_a_tiling_gets_what_was_said_when_loading_unless_the_picture_says_otherwise():
    known = beside_the_core(tiling("tiles", priority=1, load=lambda settings: settings))
    loading = LoadOptions(vae_tile_size=1024, vae_tile_overlap=64, vae_auto_tile_pixels=0)
    _, settings = chosen_tiling(known, loading=loading)
    assert (settings.tile_size, settings.tile_overlap, settings.auto_tile_pixels) == (1024, 64, 0)
    overrides = {"tile_size_override": 128, "tile_overlap_override": 0, "max_tile_pixels_override": 7}
    _, settings = chosen_tiling(known, loading=loading, tiling_mode="always", tiling_level="mixed", **overrides)
    assert (settings.tile_size, settings.tile_overlap, settings.auto_tile_pixels) == (128, 0, 7)
    assert (settings.mode, settings.level) == ("always", "mixed")


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({}, (512, 256)),
        ({"width": 128}, (128, 64)),
        ({"height": 64}, (128, 64)),
        ({"width": 64, "height": 32}, (64, 32)),
    ],
)
def test_the_size_that_is_not_given_follows_from_the_other_or_is_the_models(asked, size):
    assert picture_size(SampleOptions(prompt="x", **asked), TINY) == size


def test_a_models_own_size_is_checked_too():
    with pytest.raises(InputError, match="500×250"):
        picture_size(SampleOptions(prompt="x"), attrs.evolve(TINY, width=500, height=250))


@pytest.mark.parametrize(
    ("loading", "sampling", "near"),
    [
        ({"model": "tinny"}, {}, "tiny"),
        ({"attention_backend": "eagr"}, {}, "eager"),
        ({"quantization_mode": "non"}, {}, "none"),
        ({}, {"scheduler_type": "flow-mach"}, "flow_match"),
    ],
)
def test_names_can_be_checked_by_themselves(loading, sampling, near):
    with pytest.raises(UnknownName, match=rf"did you mean {near}\?"):
        check_names(LoadOptions(**loading), SampleOptions(prompt="x", **sampling), beside_the_core(), never_a_folder)
    check_names(LoadOptions(attention_backend="auto"), SampleOptions(prompt="x"), beside_the_core(), never_a_folder)


# ------------------------------------------------------------------------------------------------- what it costs, where


def test_planning_imports_no_torch(tmp_path):
    done = python(
        "import sys; sys.modules['torch'] = sys.modules['diffusers'] = sys.modules['transformers'] = None\n"
        "import dit360_core\n"
        "from dit360_core.planning import budget, catalogue, checks, forecast, kernels\n"
        "from dit360_core.planning import plan, precision, tiling, verdict\n"
        "from dit360_core.plugins import choosing, registry\n"
        "from dit360_core.pipeline import loading\n"
        "from dit360_core.system.machine import Machine\n"
        "catalogue.listing(registry.Registry(entry_points=[]), Machine.detect('cpu'))\n",
        cwd=tmp_path,
        fresh=True,
    )
    assert done.returncode == 0, done.stderr


def test_a_device_that_is_not_there_is_refused_with_those_that_are():
    import torch

    if torch.backends.mps.is_available():
        pytest.skip("this machine has Apple's MPS")
    with pytest.raises(InputError, match=r"The device 'mps' is not available here: .+\."):
        Machine.detect("mps")
    assert Machine.detect("cpu").device == "cpu"
