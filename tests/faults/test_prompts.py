"""Prompts in all that Unicode has are in the picture as they were typed, and harm no terminal and no file."""

import os
import subprocess
import sys

import pytest
from command_line import dit360, environment
from dit360_core.panorama.picture import Panorama

PROMPTS = {
    "emoji": "👩‍🚀👨‍👩‍👧‍👦🏴‍☠️🏔️ a mountain " * 20,
    "right to left": "שלום עולם مرحبا بالعالم \u202eabc\u202c \u2066x\u2069 " * 10,
    "combining": "e\u0301\u0323\u0308 Z\u0351\u036b\u0343\u036a\u0302 " * 30,
    "decomposed and composed": "é e\u0301 Å \u212b ﬁ Ⅷ " * 20,
    "lines and controls": "a\nb\r\nc\td\x07\x1b[31mred\x85\u2028\u2029e " * 20,
    "null": "before\x00after " * 20,
    "no characters": "\ufffe\uffff\U0001ffff\ufdd0 a castle " * 20,
    "markup": "<x:xmpmeta>]]>&amp;<!--{{caption}}--><script>alert(1)</script>[red]%s{0} " * 5,
    "a path": "../../etc/passwd C:\\Windows\\con.png /dev/null\x00.png " * 6,
    "10 000 characters": "山🏔e\u0301 дом " * 1112,
}
ENDINGS = (".png", ".jpg", ".webp")


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    """A folder with a picture of each prompt, what 'generate' told of it, and what 'inspect --json' shows of it."""
    desk = tmp_path_factory.mktemp("desk")
    made, shown = [], []
    for number, prompt in enumerate(PROMPTS.values()):
        file = f"{number}{ENDINGS[number % 3]}"
        # A seed whose picture is not black.
        made.append(["generate", prompt, "-o", file, "--width", 64, "--steps", 2, "--seed", number])
        shown.append(["inspect", file, "--json"])
    refused = ["generate", "a \ud800 castle", "-o", "refused.png"]
    told = dit360(*made, *shown, *(command[:-1] for command in shown), refused, cwd=desk)
    names, many = list(PROMPTS), len(PROMPTS)
    tables = "".join(said.out for said in told[2 * many : 3 * many])
    return desk, dict(zip(names, told, strict=False)), dict(zip(names, told[many:], strict=False)), told[-1], tables


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_of_hundreds_of_characters_comes_back_as_it_was_typed(painted, name):
    _, made, shown, _, _ = painted
    assert len(PROMPTS[name]) >= 200
    assert made[name].code == 0, made[name].err
    assert "Error" not in made[name].err
    assert shown[name].json["settings"]["prompt"] == PROMPTS[name]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", PROMPTS)
def test_every_format_holds_every_prompt_unchanged(painted, tmp_path, name, ending):
    number = list(PROMPTS).index(name)
    picture = Panorama.open(painted[0] / f"{number}{ENDINGS[number % 3]}")
    assert Panorama.open(picture.save(tmp_path / f"again{ending}")).settings == picture.settings
    assert picture.settings["prompt"].encode() == PROMPTS[name].encode()


def test_a_picture_of_somebody_else_writes_no_commands_to_the_terminal(painted):
    """Escapes that recolour it, and marks that turn the direction of reading, are shown and not sent."""
    _, _, shown, _, table = painted
    assert "\\u001b[31mred\\u0085" in table
    assert "\\u202eabc\\u202c" in table
    for text in (table, *(said.out for said in shown.values())):
        assert not set(text) & set("\x1b\x07\x00\x85\u202e\u2066")


def test_half_a_character_is_refused_in_one_sentence(painted):
    told = painted[3]
    assert (told.code, told.out) == (2, "")
    assert told.err == "Error: The prompt holds bytes that are no text in UTF-8; type it anew.\n"


def test_no_file_is_called_after_a_prompt(painted):
    assert sorted(os.listdir(painted[0])) == sorted(f"{n}{ENDINGS[n % 3]}" for n in range(len(PROMPTS)))


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_terminal_that_has_not_these_letters_shows_question_marks(painted, encoding):
    code = (
        "import os, sys\n"
        "from dit360_core.cli import main\n"
        "for file in sorted(os.listdir()):\n"
        "    for more in ([], ['--json']):\n"
        "        sys.argv = ['dit360', 'inspect', file, *more]\n"
        "        try: main()\n"
        "        except SystemExit as end: assert not end.code, file\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=painted[0], env=environment(PYTHONIOENCODING=encoding), capture_output=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    shown = done.stdout.decode(encoding, "replace")  # click writes JSON in UTF-8 where it is told ASCII
    assert "a castle" in shown
    assert "?" in shown
