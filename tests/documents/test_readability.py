"""What a reader meets: sentences that are read once, and ten questions answered before anybody scrolls far."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LONGEST = 40
"""Words of a sentence."""
TWO_SCREENS = 90
"""Lines of a file."""

QUESTIONS = {
    "how much memory": r"8 GB on the card do, for every model",
    "which card": r"Which card, how much memory\?",
    "is it free": r"Is it free\?.*Apache-2\.0",
    "Mac": r"Mac\?.*--device mps",
    "LoRA": r"LoRAs\?.*several at once",
    "photo": r"photo\?.*--photo",
    "ComfyUI": r"ComfyUI node\?.*Every control",
    "seam": r"no seam\?.*decoding wraps",
    "how fast": r"How fast is it\?.*two CPU cores",
    "who made it": r"Who made it\?.*small team",
}


def sentences(text):
    """(line, sentence) of a document, without code, tables' rules and what tools wrote."""
    text = re.sub(r"<!-- .*? -->", "", text)
    fenced = False
    block, first = [], 0
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
            line = ""
        ends = fenced or not line.strip() or line.startswith(("#", "|", "* ", "- ", "> ")) or re.match(r"\d+\. ", line)
        if ends and block:
            yield from ((first, one) for one in _split(" ".join(block)))
            block = []
        if fenced or not line.strip():
            continue
        if line.startswith("|"):
            for cell in re.split(r"(?<!\\)\|", line):
                yield from ((number, one) for one in _split(cell))
            continue
        if not block:
            first = number
        block.append(line.strip().lstrip("#*->0123456789. "))


def _split(text):
    """Sentences: a full stop, a question mark or an exclamation mark before a space or the end."""
    plain = re.sub(r"`[^`]*`", "x", text)
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", plain)
    return [one for one in re.split(r"(?<=[.!?])[)\"”*]*\s+(?=[A-Z0-9(*\"“x])", plain) if one.strip()]


def words(sentence):
    return len(re.findall(r"[^\s–—=+×·/|]+", sentence))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_sentence_needs_a_second_reading_for_its_length(document):
    long = [(line, words(one), one) for line, one in sentences(document.read_text("utf-8")) if words(one) > LONGEST]
    assert long == []


@pytest.mark.parametrize("question", QUESTIONS)
def test_first_questions_are_answered_within_two_screens(question):
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    (found,) = [number for number, line in enumerate(lines, 1) if re.search(QUESTIONS[question], line)]
    assert found <= TWO_SCREENS, f"line {found}"


def test_the_counting_of_words_finds_what_is_too_long():
    long = "One " + "word " * 45 + "more."
    assert [words(one) for _, one in sentences(f"Short. {long}\n\n| cell | {long} |\n\n```sh\n{long}\n```\n")] == [
        1,
        47,
        1,
        47,
    ]
