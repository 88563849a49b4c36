"""The XMP packet: GPano for every viewer, and settings that survive whatever a prompt may hold."""

import json
from contextlib import suppress
from xml.etree import ElementTree

import pytest
from dit360_core.errors import InputError
from dit360_core.panorama.metadata import MAX_PACKET_BYTES, SHORTENED, build_xmp, creator_tool, parse_xmp, to_json
from hypothesis import example, given
from hypothesis import settings as how
from hypothesis import strategies as st

ANY_TEXT = st.text(st.characters())
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)


def test_a_whole_panorama_is_described_by_the_gpano_properties():
    gpano = parse_xmp(build_xmp(2048, 1024, {})).gpano
    assert gpano == {
        "ProjectionType": "equirectangular",
        "UsePanoramaViewer": "True",
        "PoseHeadingDegrees": "0.0",
        "CroppedAreaImageWidthPixels": "2048",
        "CroppedAreaImageHeightPixels": "1024",
        "FullPanoWidthPixels": "2048",
        "FullPanoHeightPixels": "1024",
        "CroppedAreaLeftPixels": "0",
        "CroppedAreaTopPixels": "0",
    }


def test_the_packet_names_its_creator():
    assert creator_tool().startswith("dit360")
    assert parse_xmp(build_xmp(2, 1, {})).creator_tool == creator_tool()


@given(st.dictionaries(ANY_TEXT, JSON_VALUES, max_size=5))
@how(deadline=None)
@example({"prompt": "a \"b\" 'c' <d> & ]]> </dit360:Settings> <!DOCTYPE x> <?xpacket?> \\u0041 {}"})
@example({"prompt": "".join(map(chr, range(0xA1))) + "\u2028\u2029\ufffe\uffff\ufeff\x85 🏔️ 山 العربية"})
@example({"prompt": "half a pair: \ud800"})
def test_settings_come_back_as_they_were(settings):
    assert parse_xmp(build_xmp(2, 1, settings)).settings == settings


@given(ANY_TEXT)
@how(deadline=None)
def test_the_packet_holds_no_character_that_xml_forbids(prompt):
    text = build_xmp(2, 1, {"prompt": prompt}).decode("utf-8")
    assert not [c for c in text if (c < " " and c != "\n") or "\x7f" <= c <= "\x9f" or c in "\ufffe\uffff"]


def test_three_hundred_words_are_kept_whole():
    prompt = "a quiet harbour at dawn, " * 75
    assert parse_xmp(build_xmp(2, 1, {"prompt": prompt})).settings == {"prompt": prompt}


@pytest.mark.parametrize("letter", ["a", "山", "🏔", "\x00", "<"])
def test_a_text_that_is_too_long_is_cut_and_marked_and_nothing_else(letter):
    settings = {"prompt": letter * 200_000, "seed": 7, "used": {"scheduler": "flow_match"}}
    with pytest.warns(UserWarning, match=r"room for 65502 bytes: the prompt is shortened in the file"):
        packet = build_xmp(2, 1, settings)
    kept = parse_xmp(packet).settings
    assert MAX_PACKET_BYTES - 16 <= len(packet) <= MAX_PACKET_BYTES
    assert kept["prompt"].removesuffix(SHORTENED) == letter * (len(kept["prompt"]) - len(SHORTENED))
    assert kept | {"prompt": ""} == settings | {"prompt": ""}


def test_only_the_longest_texts_are_cut():
    settings = {"prompt": "p" * 90_000, "nested": ["n" * 90_000, "short " * 50], "seed": 7}
    with pytest.warns(UserWarning, match="bytes: the prompt, 'nested' are shortened"):
        kept = parse_xmp(build_xmp(2, 1, settings)).settings
    assert kept["prompt"].endswith(SHORTENED)
    assert kept["nested"][0].endswith(SHORTENED)
    assert len(kept["prompt"]) == len(kept["nested"][0])
    assert kept["nested"][1] == "short " * 50


@pytest.mark.parametrize(
    "report",
    [
        list(range(50_000)),
        {f"tile {n}": n / 7 for n in range(9_000)},
        {"a": {"b": [[n, "x" * 90] for n in range(5_000)]}},
        {"k" * 90_000: 1, "l" * 90_000: 2},
        [[[[str(n)] * 3] * 3] * 3 for n in range(1_000)],
    ],
)
def test_of_settings_that_are_too_long_without_their_texts_what_is_small_stays(report):
    """A batch knows its own pictures by their fingerprint, whatever a plugin reports."""
    small = {"prompt": "a harbour", "seed": 7, "batch": {"key": "f" * 64}, "versions": {"torch": "2.13.0"}}
    with pytest.warns(UserWarning, match="bytes: 'used' is shortened"):
        packet = build_xmp(2, 1, {**small, "used": {"steps": 4, "tiling": {"report": report, "exact": True}}})
    kept = parse_xmp(packet).settings
    assert len(packet) <= MAX_PACKET_BYTES
    assert {name: kept[name] for name in small} == small
    assert kept["used"]["steps"] == 4
    assert kept["used"]["tiling"]["exact"] is True
    assert "shortened" in json.dumps(kept["used"]["tiling"]["report"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), b"bytes", {1, 2}])
def test_what_json_cannot_hold_is_refused_in_one_sentence(value):
    with pytest.raises(InputError, match="must be JSON"):
        build_xmp(2, 1, {"value": value})


def test_settings_that_hold_themselves_are_refused():
    settings: dict[str, object] = {}
    settings["settings"] = settings
    with pytest.raises(InputError, match="must be JSON"):
        to_json(settings)


def test_properties_written_as_attributes_are_read_too():
    # As exiftool and Photoshop write simple properties.
    root = ElementTree.fromstring(build_xmp(2048, 1024, {"prompt": "é\n<&>"}).decode())
    [description] = root.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    for child in list(description):
        description.set(child.tag, child.text or "")
        description.remove(child)
    read = parse_xmp(ElementTree.tostring(root))
    assert read.settings == {"prompt": "é\n<&>"}
    assert read.gpano["FullPanoWidthPixels"] == "2048"


def test_a_packet_of_another_program_has_no_settings():
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/></x:xmpmeta>'
    read = parse_xmp(packet)
    assert (read.settings, read.gpano, read.creator_tool) == ({}, {}, "")


def test_a_doctype_is_refused_before_anything_expands():
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]><x>&b;</x>'
    with pytest.raises(InputError, match="DOCTYPE"):
        parse_xmp(bomb.encode())
    # In another encoding the word would hide from a search among bytes.
    with pytest.raises(InputError, match="DOCTYPE"):
        parse_xmp(bomb.encode("utf-16"))


@pytest.mark.parametrize(
    ("packet", "why"),
    [
        (b"", "not well-formed"),
        (b"<x", "not well-formed"),
        (b'<?xml version="1.0" encoding="utf-7"?><x>+ADw-</x', "not well-formed"),
        (b"\xff\xfe<x/>", "not well-formed"),
        (b"\xff<x/>", "UTF-8"),
        (build_xmp(2, 1, {"a": 1}).replace(b'{"a":1}', b'{"a":'), "not JSON"),
        (build_xmp(2, 1, {"a": 1}).replace(b'{"a":1}', b"[1]"), "not a JSON object"),
    ],
)
def test_a_damaged_packet_is_told_in_one_sentence(packet, why):
    with pytest.raises(InputError, match=why):
        parse_xmp(packet)


@given(st.integers(0, 400), st.integers(1, 40))
@how(deadline=None)
def test_a_packet_with_a_hole_raises_nothing_but_input_errors(start, length):
    packet = build_xmp(2048, 1024, {"prompt": "a harbour"})
    start = start * len(packet) // 400
    with suppress(InputError):
        parse_xmp(packet[:start] + packet[start + length :])


def test_the_settings_are_strict_json():
    assert json.loads(to_json({"a": (1, "é")})) == {"a": [1, "é"]}
    assert "é" in to_json({"a": "é"})
