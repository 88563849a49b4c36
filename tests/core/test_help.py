"""Help pages: nothing is cut, few lines at first, and everything for who asks."""

import re

import pytest
import typer
from dit360_core.cli import app
from dit360_core.cli.helping import EVERY, page
from dit360_core.options import OF_A_LINE, LoadOptions, options_of
from dit360_core.options.subjects import SUBJECTS, USUAL, subject_of
from typer.testing import CliRunner

COMMANDS = typer.main.get_command(app).commands
CLASSES = (LoadOptions, *OF_A_LINE)


def shown(*words, columns=80):
    found = CliRunner().invoke(app, list(words), env={"COLUMNS": str(columns)})
    assert found.exit_code == 0, found.output
    return found.output


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_name_is_cut_however_narrow_the_terminal_is(command, columns):
    text = shown(command, EVERY, columns=columns)
    words = set(re.split(r"[\s,/]+", text))
    for parameter in COMMANDS[command].params:
        if parameter.param_type_name == "option":
            # A switch that is off is switched off by those alone whose own defaults have it on.
            off = () if parameter.default is False else parameter.secondary_opts
            names = {*parameter.opts, *off}
            assert names <= words, names - words
    assert "…\n" not in text


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("asked", ["--help", "-h", EVERY])
def test_lines_fit_into_eighty_columns(command, asked):
    wide = [line for line in shown(command, asked).splitlines() if len(line) > 80]
    assert wide == []


def test_generate_is_told_in_sixty_lines_and_the_rest_is_named():
    few, every = shown("generate", "--help"), shown("generate", EVERY)
    assert len(few.splitlines()) <= 60
    options = [one for one in COMMANDS["generate"].params if one.param_type_name == "option"]
    told = [one for one in options if any(f"{name} " in few for name in one.opts)]
    assert f"{len(options) - len(told)} more options: dit360 generate --help-all" in few
    assert 12 <= len(told) <= 24
    for name in ("--width", "--steps", "--seed", "--lora", "--vram", "--mask", "--photo"):
        assert name in few
    assert re.findall(r"^(\w[\w ]+):$", every, re.M) == ["Arguments", "Options", *SUBJECTS]


def test_every_option_has_one_subject_and_every_name_is_an_option():
    names = [name for members in SUBJECTS.values() for name in members]
    assert len(names) == len(set(names))
    assert set(names) == {name for cls in CLASSES for name in options_of(cls)}
    assert set(USUAL) <= set(names)
    assert subject_of("width") == "Picture"
    assert subject_of("nothing of the kind") == "Other"


def test_all_options_may_be_asked_for_beside_others_and_not_behind_two_dashes():
    assert shown("generate", "a castle", "--width", "512", EVERY) == shown("generate", EVERY)
    command = COMMANDS["generate"]
    with typer.main.get_command(app).make_context("dit360", ["--", "generate"], resilient_parsing=True) as group:
        context = command.make_context("generate", ["--", EVERY], parent=group, resilient_parsing=True)
        assert context.params["prompt"] == EVERY
        assert page(command, context, every=False).startswith("Usage: dit360 generate [OPTIONS] [PROMPT]\n")


def test_the_commands_are_listed_with_what_they_do():
    text = shown("--help")
    for name in COMMANDS:
        assert re.search(rf"^  {name} +[A-Z]", text, re.M), name
    assert "Begin with: dit360 generate" in text


def test_what_an_option_is_without_being_given_is_told():
    every = " ".join(shown("generate", EVERY).split())
    for told in (
        "Default: panorama.jpg.",
        "Default: the model's.",
        "Default: on.",
        "Default: 1.",
        "Default: drawn, and",
    ):
        assert told in every
    assert "None" not in every
