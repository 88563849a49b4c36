"""The XMP packet inside a saved panorama: Google's GPano properties, the creator, and our settings as JSON.

GPano is what makes viewers and web sites open a picture as 360°:
https://developers.google.com/streetview/spherical-metadata. XMP is Adobe's "XMP Specification Part 1" (ISO
16684-1).
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import attrs

from dit360_core.errors import InputError
from dit360_core.options.numerals import pythons
from dit360_core.panorama.gpano import GPANO, MADE, Area, Pose, properties_of
from dit360_core.system.installed import installed_version

XMP = "http://ns.adobe.com/xap/1.0/"
XMP_NOTE = "http://ns.adobe.com/xmp/note/"
DIT360 = "urn:dit360:panorama:1.0#"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"

#: The XMP specification's limit (part 3, JPEG) for a packet in one APP1 segment, of at most 65 535 bytes with
#: its headers. A longer packet would need "extended XMP", which many readers do not know. One rule for all
#: formats.
MAX_PACKET_BYTES = 65_502

#: Ends every string that was cut because the packet would have been too long.
SHORTENED = " … [shortened]"

#: Characters that every text keeps, so that fingerprints and names are whole, before lists and objects are cut.
_KEPT_TEXT = 100
#: Bytes below which what is left of a list or an object would tell nothing.
_LEAST = 40

# JSON escapes U+0000 to U+001F by itself. XML also forbids lone surrogates and U+FFFE, U+FFFF, and
# discourages U+007F to U+009F, of which readers make different things.
_NOT_FOR_XML = re.compile("[\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@attrs.frozen(kw_only=True)
class Metadata:
    """What an XMP packet says about a panorama.

    gpano: the GPano properties by their bare names, as text.
    creator_tool: xmp:CreatorTool.
    settings: ours, or empty.
    unread: why there are no settings though there are some.
    extended: by which name a JPEG file keeps the rest of the metadata, or nothing.
    """

    gpano: Mapping[str, str] = attrs.field(factory=dict)
    creator_tool: str = ""
    settings: Mapping[str, object] = attrs.field(factory=dict)
    unread: str = ""
    extended: str = ""


def creator_tool() -> str:
    """``dit360 1.2.3``, or ``dit360`` alone where the package is used without having been installed."""
    return f"dit360 {installed_version('dit360-core') or ''}".rstrip()


def build_xmp(
    width: int, height: int, settings: Mapping[str, object], *, pose: Pose = MADE, area: Area | None = None
) -> bytes:
    """The XMP packet of an equirectangular panorama, at most MAX_PACKET_BYTES long.

    width, height: pixels of the whole sphere.
    settings: anything that JSON can hold.
    pose: which way it looks.
    area: the part of the sphere that the file shows; None: all of it.

    If the packet would be too long, the longest strings of the settings (in practice the prompts) are cut to one common
    length, the largest that fits, and end in SHORTENED; if that is not enough, the largest lists and objects are cut
    (a plugin's report of thousands of numbers), and what is small stays whole. A warning names what was cut.

    Raises InputError if the settings are not JSON: other types than str, int, float, bool, None, list and
    dict, or a NaN or infinity.
    """
    gpano = properties_of((width, height), area, pose)
    packet = _packet(gpano, settings)
    if len(packet) > MAX_PACKET_BYTES and len(_packet(gpano, {})) > MAX_PACKET_BYTES // 2:
        # Others' words about the picture, not ours.
        gpano = properties_of((width, height), area, attrs.evolve(pose, others={}))
        packet = _packet(gpano, settings)
    return _fitted(gpano, settings, packet)


def build_flat_xmp(settings: Mapping[str, object]) -> bytes:
    """The XMP packet of a picture that is no panorama, such as a face of a cube: no GPano, the rest as in build_xmp.

    settings: anything that JSON can hold.
    """
    return _fitted({}, settings, _packet({}, settings))


def _fitted(gpano: Mapping[str, str], settings: Mapping[str, object], packet: bytes) -> bytes:
    """The packet, or a shorter one where it would be too long."""
    if len(packet) <= MAX_PACKET_BYTES:
        return packet
    fits: bytes | None = None
    low, high = _KEPT_TEXT, MAX_PACKET_BYTES
    while low <= high:
        limit = (low + high) // 2
        packet = _packet(gpano, _shorten(settings, limit))
        if len(packet) <= MAX_PACKET_BYTES:
            fits, low = packet, limit + 1
        else:
            high = limit - 1
    if fits is not None:
        _tell_of_cuts(settings, _shorten(settings, low - 1))
        return fits
    room = MAX_PACKET_BYTES - len(_packet(gpano, {}))
    kept = _within(settings, room)
    packet = _packet(gpano, kept)
    if len(packet) > MAX_PACKET_BYTES:
        kept = {"shortened": True}
        packet = _packet(gpano, kept)
    _tell_of_cuts(settings, kept)
    return packet


def _tell_of_cuts(settings: Mapping[str, object], kept: object) -> None:
    """Warns of settings that the file holds a part of.

    kept: of them.
    """
    left = kept if isinstance(kept, Mapping) else {}
    cut = [name for name in settings if name not in left or to_json(left[name]) != to_json(settings[name])]
    words = {"prompt": "the prompt", "negative_prompt": "the negative prompt"}
    said = ", ".join(words.get(name, repr(name)[:_KEPT_TEXT]) for name in cut)
    warnings.warn(
        f"Metadata have room for {MAX_PACKET_BYTES} bytes: {said} {'is' if len(cut) == 1 else 'are'} shortened in the "
        "file; keep the whole elsewhere.",
        stacklevel=6,  # whoever saves the picture
    )


def read_xmp(packet: bytes) -> Metadata:
    """What an XMP packet says, settings that cannot be read being told in ``unread``.

    Properties are found by their names' namespaces, whatever the prefix, as elements or as attributes. Those that are
    not there stay empty: a panorama of another program has no settings.

    Raises InputError if the packet is not UTF-8 or marked UTF-16, not well-formed XML, or declares a DOCTYPE (the only
    way in which XML could reach files or expand entities without end).
    """
    try:
        packet = packet.strip(b"\x00 \r\n\t") if not packet.startswith((b"\xff\xfe", b"\xfe\xff")) else packet
        text = packet.decode("utf-16" if packet.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig").strip(
            "\x00 \r\n\t"
        )
    except UnicodeDecodeError as error:
        raise InputError(f"The XMP metadata is not UTF-8 text ({error}); write it anew.") from error
    if "<!DOCTYPE" in text:
        raise InputError("The XMP metadata declares a DOCTYPE, which could expand without end; remove the metadata.")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"The XMP metadata is not well-formed XML ({error}); write it anew.") from error

    found: dict[str, str] = {}
    for description in root.iter(f"{{{_RDF}}}Description"):
        found.update(description.attrib)
        found.update((child.tag, "".join(child.itertext())) for child in description)
    settings, unread = _parse_settings(found.get(f"{{{DIT360}}}Settings", "{}"))
    return Metadata(
        gpano={
            name.removeprefix(f"{{{GPANO}}}"): text for name, text in found.items() if name.startswith(f"{{{GPANO}}}")
        },
        creator_tool=found.get(f"{{{XMP}}}CreatorTool", ""),
        settings=settings,
        unread=unread,
        extended=found.get(f"{{{XMP_NOTE}}}HasExtendedXMP", "").strip(),
    )


def parse_xmp(packet: bytes) -> Metadata:
    """As :func:`read_xmp`; raises InputError as well if there are settings that are not a JSON object."""
    read = read_xmp(packet)
    if read.unread:
        raise InputError(read.unread)
    return read


def _plain(value: object) -> object:
    """A number of NumPy's as Python's. Raises TypeError for what JSON has not."""
    found = pythons(value)
    if found is value:
        raise TypeError(f"{type(value).__name__} is none of its types")
    return found


def to_json(settings: object) -> str:
    """The settings as one line of JSON that XML can hold: what XML forbids is written as ``\\uXXXX``.

    Raises InputError if they are not JSON.
    """
    try:
        text = json.dumps(settings, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"The settings of a panorama must be JSON, but {error}; use only text, numbers, lists and dicts."
        ) from error
    return _NOT_FOR_XML.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _parse_settings(text: str) -> tuple[Mapping[str, object], str]:
    """(the settings, why there are none). Numbers that JSON has not (NaN, Infinity, 1e999) become their text."""
    try:
        settings = json.loads(text, parse_constant=str, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        return {}, f"The dit360 settings in the metadata are not JSON ({error}); write them anew."
    if not isinstance(settings, dict):
        return {}, "The dit360 settings in the metadata are not a JSON object; write them anew."
    try:
        to_json(settings)
    except InputError as error:
        return {}, str(error)
    return settings, ""


def _finite(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def _shorten(value: object, limit: int) -> object:
    """The same value with every string longer than ``limit`` characters cut there and marked."""
    if isinstance(value, str):
        return value if len(value) <= limit else value[:limit] + SHORTENED
    if isinstance(value, Mapping):
        return {key: _shorten(item, limit) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shorten(item, limit) for item in value]
    return value


def _within(value: object, room: float) -> object:
    """The same value in at most ``room`` bytes of JSON, as XML holds it: what is large is cut, the rest kept."""
    if _bytes(value) <= room:
        return value
    if isinstance(value, str):
        low, high = 0, len(value)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if _bytes(value[:middle] + SHORTENED) <= room else (low, middle - 1)
        return value[:low] + SHORTENED
    if isinstance(value, Mapping):
        return _share(value, room)
    if isinstance(value, (list, tuple)):
        if _LEAST * len(value) < room:
            return list(_share(dict(enumerate(value)), room).values())
        kept: list[object] = []
        left = room - _bytes([SHORTENED])
        for item in value:
            left -= _bytes(item) + 1
            if left < 0:
                break
            kept.append(item)
        return [*kept, SHORTENED.strip()]
    return SHORTENED.strip()


def _share(values: Mapping[Any, object], room: float) -> dict[Any, object]:
    """Those that are smaller than an equal share of the room are kept whole, the others share what they leave."""
    names = list(values)
    room -= 2 + sum(_bytes(str(name)) + 2 for name in names)
    if room < _LEAST * len(names):
        # Too many for each to tell anything: the first ones, and a mark.
        kept: dict[Any, object] = {}
        room += sum(_bytes(str(name)) + 2 for name in names) - _bytes({"shortened": True})
        for name in names:
            room -= _bytes({str(name): values[name]})
            if room < 0:
                break
            kept[name] = values[name]
        return {**kept, "shortened": True}
    sizes = {name: _bytes(values[name]) for name in names}
    cut: dict[Any, object] = {}
    for done, name in enumerate(sorted(names, key=sizes.__getitem__)):
        cut[name] = _within(values[name], room / (len(names) - done))
        room -= _bytes(cut[name])
    return {name: cut[name] for name in names}


def _bytes(value: object) -> int:
    return len(escape(to_json(value)).encode())


def _packet(gpano: Mapping[str, str], settings: object) -> bytes:
    properties = {
        # Names of others' properties come from a file; what is no name of XML would spoil the packet.
        **{f"GPano:{name}": text for name, text in gpano.items() if re.fullmatch(r"[A-Za-z_][\w.-]*", name, re.ASCII)},
        "xmp:CreatorTool": creator_tool(),
        "dit360:Settings": to_json(settings),
    }
    lines = (f"<{name}>{escape(str(value))}</{name}>\n" for name, value in properties.items())
    return (
        # The marks and the id are fixed by the XMP standard; U+FEFF tells the encoding.
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
        f'<rdf:RDF xmlns:rdf="{_RDF}">\n'
        f'<rdf:Description rdf:about="" xmlns:GPano="{GPANO}" xmlns:xmp="{XMP}" xmlns:dit360="{DIT360}">\n'
        + "".join(lines)
        + '</rdf:Description>\n</rdf:RDF>\n</x:xmpmeta>\n<?xpacket end="w"?>'
    ).encode()
