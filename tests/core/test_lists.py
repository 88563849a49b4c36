"""Lists of prompts as editors, Excel, LibreOffice and pandas write them."""

import pytest
from dit360_core.batching.items import Batchwide, read_items
from dit360_core.cli.work.batch import _to_do
from dit360_core.errors import InputError
from dit360_core.options import LoadOptions


def items_of(path):
    """The pictures of a list that is there."""
    common = Batchwide(folder=path.parent / "out", suffix=".png", loading=LoadOptions(), options={})
    return read_items(path, common)


def listed(path, *lines):
    """Those of a list with these lines."""
    path.write_text("\n".join(lines), encoding="utf-8")
    return items_of(path)


def test_one_line_is_one_prompt_and_nothing_else_ends_it(tmp_path):
    """Page breaks, vertical tabs and Unicode's own line ends come with texts that were pasted; Ctrl-Z ends a file."""
    within = [f"a castle{sign}by the sea" for sign in "\v\f\x1a\x1c\x1d\x1e\x85\u2028\u2029"]
    ends = ("\n", "\r\n", "\r")
    text = "".join(f"{line}{ends[n % 3]}" for n, line in enumerate(within))
    (tmp_path / "a.txt").write_bytes(("\ufeff" + text + " \n\f\n\ufeffa hut\r\n\x1a\r\n").encode())
    items = items_of(tmp_path / "a.txt")
    assert [item.sampling.prompt for item in items] == [*within, "a hut"]
    assert [item.line for item in items] == [*range(1, 10), 12]
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "a\xe2\x80\xa8b"}\r{"prompt": "c"}\n\x1a')
    assert [item.sampling.prompt for item in items_of(tmp_path / "a.jsonl")] == ["a\u2028b", "c"]


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\r\nprompt;guidance;name\r\na, b;2.5;x.png\r\n",
        '"sep=;"\nprompt;guidance;name\na, b;2.5;x.png\n\x1a',
        "sep=;;;\nprompt;guidance;name;;\na, b;2.5;x.png;;\n;;;;\n",
        "SEP=|\rPrompt| Guidance |name\ra, b|2.5|x.png\r",
        "sep=\t\nprompt\tguidance\tname\na, b\t2.5\tx.png",
        'sep=,\nprompt,guidance,name\n"a, b",2.5,x.png',
        # The sign that makes the header what it is, whatever stands within its cells.
        'prompt;"width, if not the usual";guidance;name\na, b;;2.5;x.png',
        "prompt;width, if not the usual;guidance;name\na, b;;2.5;x.png",
        'prompt,"width; height",guidance,name\n"a, b",,2.5,x.png',
        "notes,1;notes,2;prompt;guidance;name\n;;a, b;2.5;x.png",
        ";;\n\nprompt;guidance;name\na, b;2.5;x.png",
        "prompt\tguidance\tname,\tname\na, b\t2.5\t\tx.png",
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_as_spreadsheets_write_them_mean_the_same(tmp_path, text, encoding):
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    (item,) = items_of(tmp_path / "a.csv")
    assert (item.sampling.prompt, item.sampling.guidance, item.name) == ("a, b", 2.5, "x.png")


def test_columns_are_called_as_options_or_flags_are_and_whole_numbers_may_end_in_a_point(tmp_path):
    (item,) = listed(tmp_path / "a.csv", "prompt,true-guidance,Negative Prompt,--seed,steps", "a,2.5,b,7.0,4.")
    assert (item.sampling.true_guidance, item.sampling.negative_prompt) == (2.5, "b")
    assert (item.sampling.seed, item.sampling.steps) == (7, 4)
    items = listed(tmp_path / "b.csv", "prompt,upscale", "a,1024.0", "b,", "c,2048", "d,512.")
    assert [item.sampling.width for item in items] == [1024, None, 2048, 512]


def test_a_name_without_a_format_is_given_that_of_all(tmp_path):
    names = ["v1.5", "Mr. Sea", "plain", "rooms/2.0", "kept.jpg", "kept.v2.WEBP", "dated.2026.11.29"]
    items = listed(tmp_path / "a.csv", "prompt,name", *(f"a,{name}" for name in names))
    assert [item.name for item in items] == [
        "v1.5.png", "Mr. Sea.png", "plain.png", "rooms/2.0.png", "kept.jpg", "kept.v2.WEBP", "dated.2026.11.29.png",
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"the file v1\.png is that of line 2 already"):
        listed(tmp_path / "a.csv", "prompt,name", "a,v1", "b,v1.png")


@pytest.mark.parametrize(
    ("missing", "total", "said"),
    [
        (3, 3, "3 of 3 pictures are to be made."), (2, 3, "2 of 3 pictures are to be made; the other is there."),
        (1, 3, "1 of 3 pictures is to be made; the others are there."), (0, 3, "All 3 pictures are there."),
        (1, 1, "1 of 1 picture is to be made."), (0, 1, "The picture is there; nothing is to be made."),
    ],
)  # fmt: skip
def test_what_is_to_be_made_is_told_in_words_that_are_true(missing, total, said):
    assert _to_do(missing, total) == said
