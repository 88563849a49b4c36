"""Third-party plugins that are really installed: the broken ones are told, none of them stops a picture."""

import contextlib
import io
import json
import re

import pytest
from command_line import MARKS, PLUGINS, Told, dit360, install, python
from dit360_core.cli.work import registered

SMALL = ["--width", "128", "--steps", "1", "--seed", "7"]
# The others are installed by the tests that need them.
APART = ("sends_signals", "fails_midway", "fails_in_use", "crashes", "hangs")
BROKEN = sorted(path.name for path in PLUGINS.iterdir() if path.name not in APART and path.is_dir())

FAILURES = {
    ("raises-on-import", "0.1.0", "import"): "ImportError: libkernels.so: undefined symbol",
    ("exits-on-import", "0.2.0", "import"): "SystemExit: 0",
    ("raises-in-hook", "0.3.0", "describe"): "RuntimeError: no driver found",
    ("returns-rubbish", "0.4.0", "describe"): "dit360_attention_backends returned None instead of AttentionBackend",
}

REFUSED = {
    ("wrong-api", "9.9.0", "from-the-future"): ("api", "written for plugin api 99", "upgrade dit360-core"),
    ("steals-core-name", "0.5.0", "sdpa"): ("clash", "belongs to dit360-core", "its author should rename it"),
    ("twin-a", "1.0.0", "same"): ("clash", "also offered by twin-b 2.0.0", "ask for 'twin-a:same'"),
    ("twin-b", "2.0.0", "same"): ("clash", "also offered by twin-a 1.0.0", "ask for 'twin-b:same'"),
    ("needs-missing-library", "0.8.0", "needy"): ("missing", "surely-not-installed is not installed", "pip install"),
    ("bad-unsupported", "0.9.0", "raises-when-asked"): ("offer_failed", "asking it raised KeyError: 'sm_90'", ""),
    ("bad-unsupported", "0.9.0", "answers-text"): ("offer_failed", "it answered 'needs CUDA'", ""),
    ("bad-unsupported", "0.9.0", "answers-none"): ("offer_failed", "'NoneType' object is not iterable", ""),
    ("raises-in-load", "0.7.0", "unloadable"): ("import_failed", "OSError: libcudart.so.11: cannot open", ""),
    ("raises-in-load", "0.7.0", "exits-in-load"): ("import_failed", "loading it raised SystemExit", ""),
    ("wrong-numbers", "0.6.0", "unscaled"): ("probe_failed", "its result is off by", "tell its author"),
    # Was offered before its hook raised.
    ("raises-in-hook", "0.3.0", "half"): ("probe_failed", "a trial run raised TypeError", "update raises-in-hook"),
    ("wrong-numbers", "0.6.0", "not-a-number"): (
        "probe_failed",
        "its result holds numbers that are not finite",
        "update wrong-numbers",
    ),
}


# Of ours, which are installed beside them.
CUDA_ONLY = ["sdpa-cudnn", "sdpa-efficient", "xformers", "flash-2", "flash-3", "flash-4", "flash-hub", "flash-torch"]


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """A folder into which all of them are installed together."""
    return install(tmp_path_factory.mktemp("site"), *BROKEN)


@pytest.fixture(scope="session")
def told(site, tmp_path_factory):
    """What a row of command lines said with all of them installed, by a name for each."""
    folder = tmp_path_factory.mktemp("pictures")
    attention = "--attention-backend"
    commands = {
        "json": ["backends", "--json"],
        "auto": ["generate", "a castle", *SMALL, "-o", "auto.png"],
        "auto's picture": ["inspect", "auto.png", "--json"],
        "core's name": ["generate", "a castle", *SMALL, attention, "sdpa", "-o", "sdpa.png"],
        "core's picture": ["inspect", "sdpa.png", "--json"],
        "wrong": ["generate", "a castle", *SMALL, attention, "unscaled", "-o", "wrong.png"],
        "wrong's picture": ["inspect", "wrong.png", "--json"],
        "one twin": ["generate", "a castle", *SMALL, attention, "twin-a:same", "-o", "twin.png"],
        "twin's picture": ["inspect", "twin.png", "--json"],
        "twins": ["generate", "a castle", *SMALL, attention, "same", "-o", "none.png"],
        "strict": ["generate", "a castle", *SMALL, attention, "unscaled", "--strict", "-o", "none.png"],
        "strict needy": ["generate", "a castle", *SMALL, attention, "needy", "--strict", "-o", "none.png"],
        "lost": ["generate", "a castle", *SMALL, attention, "halves", "-o", "none.png"],
        "no picture": ["inspect", "none.png"],
    }
    said = dict(zip(commands, dit360(*commands.values(), cwd=folder, PYTHONPATH=site), strict=True))
    assert said["no picture"].code == 2
    # The same as a table, without trying everything again.
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setenv("COLUMNS", "200")
        registered.show(said["json"].json)
    return {**said, "table": Told(code=0, out=out.getvalue(), err="")}


def used(told, name):
    assert told[name].code == 0, told[name].err
    return told[name].json["settings"]["used"]["attention"]


def warnings(told):
    return [line for line in told.err.splitlines() if line.startswith("Warning: ")]


def of_plugins(report):
    return {
        (o["distribution"], o["version"], o["name"]): o
        for o in report["offers"]
        if not o["distribution"].startswith("dit360-")
    }


@pytest.mark.parametrize(("who", "why"), FAILURES.items(), ids=lambda value: value[0] if len(value) == 3 else "")
def test_a_plugin_that_fails_is_listed_with_its_version_the_stage_and_the_error(told, who, why):
    failures = [f for f in told["json"].json["failures"] if (f["distribution"], f["version"], f["stage"]) == who]
    assert any(why in failure["error"] for failure in failures)
    assert f"A plugin failed: {who[0]} {who[1]}" in told["table"].out
    assert why in told["table"].out


@pytest.mark.parametrize(("who", "why"), REFUSED.items(), ids=lambda value: value[-1] if "." in value[1] else "")
def test_an_offer_that_cannot_be_used_is_listed_with_its_version_the_reason_and_the_hint(told, who, why):
    offer = of_plugins(told["json"].json)[who]
    code, sentence, hint = why
    assert not offer["available"]
    (reason,) = offer["reasons"]
    assert reason["code"] == code
    assert sentence in reason["sentence"]
    assert hint in reason["hint"]
    row = re.search(rf"^.*\b{who[2]} +{who[0]} {re.escape(who[1])} +no +(.*)$", told["table"].out, re.MULTILINE)
    assert sentence in row[1]


def test_all_failures_and_refusals_are_those_and_the_rest_works(told):
    report = told["json"].json
    assert {(f["distribution"], f["version"], f["stage"]) for f in report["failures"]} == set(FAILURES)
    offers = of_plugins(report)
    assert {who for who, offer in offers.items() if not offer["available"]} >= set(REFUSED)
    kept = [("raises-in-hook", "0.3.0", "from-raises-in-hook"), ("returns-rubbish", "0.4.0", "kept")]
    assert all(offers[who]["available"] for who in [("good", "1.2.0", "mine"), *kept])
    ours = {o["name"]: o["reasons"] for o in report["offers"] if o["distribution"].startswith("dit360-")}
    not_here = {name: {reason["code"] for reason in reasons} for name, reasons in ours.items() if reasons}
    # "dtype" as well, where the CPU computes in float32 for want of bfloat16.
    assert report["device"] != "cpu" or set(not_here) == set(CUDA_ONLY)
    assert report["device"] != "cpu" or all({"device"} <= codes <= {"device", "dtype"} for codes in not_here.values())


def test_a_requirement_is_printed_with_its_brackets(told):
    assert 'pip install "surely-not-installed[extra]>=2"' in told["table"].out


def test_what_a_plugin_prints_does_not_get_into_the_report(told):
    assert told["json"].out.startswith("{")
    assert "usage: exits-on-import" in told["json"].err
    # Nor what a library in C prints: it would stand before all that these processes said, which is read as JSON.
    assert "libkernels: 2 devices found" not in "".join(one.out for one in told.values())


def test_what_a_plugin_says_does_nothing_to_the_terminal(told):
    assert not [name for name, one in told.items() if "\x1b" in one.out + one.err]
    assert "PyTorch's own\\u001b[31m" in told["table"].out
    assert "no driver found\\u001b[2J" in told["table"].out


def test_what_programs_are_told_of_them_has_no_marks(told):
    assert told["json"].json["failures"]
    assert not MARKS.search(told["json"].out)


@pytest.mark.long
def test_the_doctor_advises_about_each_plugin_that_fails(site, tmp_path):
    (doctor,) = dit360(["doctor", "--json"], cwd=tmp_path, PYTHONPATH=site)
    assert doctor.code == 1
    assert "\x1b" not in doctor.out + doctor.err
    assert not MARKS.search(doctor.out)
    advice = "\n".join(doctor.json["advice"])
    for distribution, version, _ in FAILURES:
        assert f"{distribution} {version}" in advice
        assert f"update or uninstall {distribution}." in advice


def test_a_picture_is_made_with_all_of_them_installed_and_the_best_that_works_is_used(told):
    assert told["auto"].code == 0, told["auto"].err
    choice = used(told, "auto's picture")
    assert (choice["requested"], choice["used"], choice["distribution"]) == ("auto", "mine", "good")
    assert choice["version"] == "1.2.0"
    refused = {tuple(address.split(":")) for address in choice["refused"]}
    assert refused == {(distribution, name) for distribution, _, name in REFUSED}


def test_the_core_keeps_its_names(told):
    choice = used(told, "core's picture")
    assert (choice["used"], choice["distribution"], choice["refused"]) == ("sdpa", "dit360-core", {})


def test_a_kernel_with_wrong_numbers_is_replaced_with_one_warning(told):
    (warning,) = warnings(told["wrong"])
    assert re.fullmatch(
        r"Warning: attention: mine \(good 1\.2\.0\) instead of unscaled, because its result is off by \S+, "
        r"where \S+ is allowed \(update wrong-numbers and tell its author\)",
        warning,
    )
    choice = used(told, "wrong's picture")
    assert (choice["requested"], choice["used"], choice["distribution"]) == ("unscaled", "mine", "good")
    assert choice["refused"]["wrong-numbers:unscaled"][0]["code"] == "probe_failed"


def test_two_that_offer_one_name_are_refused_naming_both(told):
    assert told["twins"].code == 2
    assert told["twins"].err.startswith("Error: The attention backend 'same' cannot be used here: ")
    for distribution in ("twin-a 1.0.0", "twin-b 2.0.0"):
        assert distribution in told["twins"].err


def test_the_distributions_name_selects_one_of_two(told):
    choice = used(told, "twin's picture")
    assert (choice["used"], choice["distribution"], choice["version"]) == ("same", "twin-a", "1.0.0")
    assert warnings(told["one twin"]) == []


def test_strict_stops_instead_of_falling_back_and_tells_the_reasons(told):
    assert told["strict"].code == 2
    assert "'unscaled' cannot be used here: wrong-numbers:unscaled: its result is off by" in told["strict"].err
    assert told["strict needy"].code == 2
    assert 'is not installed (pip install "surely-not-installed[extra]>=2")' in told["strict needy"].err


def test_a_name_that_a_failed_plugin_may_have_had_is_told_with_those_that_failed(told):
    assert told["lost"].code == 2
    assert "no attention backend named 'halves'" in told["lost"].err
    for distribution, version, _ in FAILURES:
        assert f"{distribution} {version}" in told["lost"].err


DISCOVER = """
import json, sys
from dit360_core.cli.work import registered
from dit360_core.plugins.registry import default_registry
registry = default_registry()
offers = [(e.distribution, e.name, bool(e.refused)) for e in registry.entries("attention")]
json.dump({"offers": offers, "disabled": registry.disabled, "failed": [f.distribution for f in registry.failures],
           "imported": [m for m in ("torch", "raises_in_hook", "twin_a") if m in sys.modules]}, sys.stdout)
"""


def test_disabled_plugins_are_not_imported_and_told_and_their_clashes_are_gone(site, tmp_path):
    off = "exits-on-import, Raises_On_Import,raises_in_hook,twin-a:twin_a"
    done = python(DISCOVER, cwd=tmp_path, fresh=True, PYTHONPATH=site, DIT360_DISABLED_PLUGINS=off)
    found = json.loads(done.stdout)
    assert found["disabled"] == [
        "exits-on-import:exits_on_import",
        "raises-in-hook:raises_in_hook",
        "raises-on-import:raises_on_import",
        "twin-a:twin_a",
    ]
    assert set(found["failed"]) == {"returns-rubbish"}
    assert found["imported"] == []
    assert ["twin-b", "same", False] in found["offers"]


def test_one_warning_on_stderr_tells_all_plugins_that_failed(site, tmp_path):
    done = python(DISCOVER, cwd=tmp_path, fresh=True, PYTHONPATH=site)
    assert done.returncode == 0
    told = ", ".join(sorted(f"{distribution} {version}" for distribution, version, _ in FAILURES))
    assert done.stderr == f"Plugins that failed: {told}; 'dit360 backends' tells why.\n"


@pytest.mark.parametrize(
    ("disabled", "error"),
    [
        ("", "RuntimeError: exits-on-import 0.2.0 (exits_on_import) cannot be imported: SystemExit: 0"),
        ("exits-on-import", "RuntimeError: no driver found\x1b[2J"),
    ],
)
def test_strict_plugins_ends_with_the_plugins_own_error(site, tmp_path, disabled, error):
    strict = {"DIT360_STRICT_PLUGINS": "1", "DIT360_DISABLED_PLUGINS": disabled}
    done = python(DISCOVER, cwd=tmp_path, fresh=True, PYTHONPATH=site, **strict)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith(error)
