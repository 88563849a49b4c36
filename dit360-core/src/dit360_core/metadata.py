"""The XMP packet inside a saved panorama: Google's GPano properties, the creator, and our settings as JSON.

GPano is what makes viewers and web sites open a picture as 360°:
https://developers.google.com/streetview/spherical-metadata. XMP is Adobe's "XMP Specification Part 1" (ISO
16684-1).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import attrs

from dit360_core.errors import InputError
from dit360_core.machine import installed_version

GPANO = "http://ns.google.com/photos/1.0/panorama/"
XMP = "http://ns.adobe.com/xap/1.0/"
DIT360 = "urn:dit360:panorama:1.0#"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"

#: The XMP specification's limit (part 3, JPEG) for a packet in one APP1 segment, of at most 65 535 bytes with
#: its headers. A longer packet would need "extended XMP", which many readers do not know. One rule for all
#: formats.
MAX_PACKET_BYTES = 65_502

#: Ends every string that was cut because the packet would have been too long.
SHORTENED = " … [shortened]"

# JSON escapes U+0000 to U+001F by itself. XML also forbids lone surrogates and U+FFFE, U+FFFF, and
# discourages U+007F to U+009F, of which readers make different things.
_NOT_FOR_XML = re.compile("[\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@attrs.frozen(kw_only=True)
class Metadata:
    """What an XMP packet says about a panorama.

    gpano: the GPano properties by their bare names, as text. creator_tool: xmp:CreatorTool. settings: ours,
    or empty.
    """

    gpano: Mapping[str, str] = attrs.field(factory=dict)
    creator_tool: str = ""
    settings: Mapping[str, object] = attrs.field(factory=dict)


def creator_tool() -> str:
    """``dit360 1.2.3``, or ``dit360`` alone where the package is used without having been installed."""
    return f"dit360 {installed_version('dit360-core') or ''}".rstrip()


def build_xmp(width: int, height: int, settings: Mapping[str, object]) -> bytes:
    """The XMP packet of a whole equirectangular panorama, at most MAX_PACKET_BYTES long.

    width, height: pixels. settings: anything that JSON can hold. If the packet would be too long, the longest
    strings of the settings (in practice the prompts) are cut to one common length, the largest that fits, and
    end in SHORTENED; if even that is too much, ``{"shortened": true}`` stands for all settings.

    Raises InputError if the settings are not JSON: other types than str, int, float, bool, None, list and
    dict, or a NaN or infinity.
    """
    packet = _packet(width, height, settings)
    if len(packet) <= MAX_PACKET_BYTES:
        return packet
    fits: bytes | None = None
    low, high = 0, MAX_PACKET_BYTES
    while low <= high:
        limit = (low + high) // 2
        packet = _packet(width, height, _shorten(settings, limit))
        if len(packet) <= MAX_PACKET_BYTES:
            fits, low = packet, limit + 1
        else:
            high = limit - 1
    return fits if fits is not None else _packet(width, height, {"shortened": True})


def parse_xmp(packet: bytes) -> Metadata:
    """Reads what build_xmp wrote, also after an editor wrote its properties anew as attributes.

    Properties that are not there stay empty: a panorama of another program has no settings.

    Raises InputError if the packet is not UTF-8, not well-formed XML, declares a DOCTYPE (the only way in
    which XML could reach files or expand entities without end), or holds settings that are not a JSON object.
    """
    try:
        text = packet.strip(b"\x00 \r\n\t").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"The XMP metadata is not UTF-8 text ({error}); write it anew.") from error
    if "<!DOCTYPE" in text:
        raise InputError("The XMP metadata declares a DOCTYPE, which could expand without end; remove the metadata.")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise InputError(f"The XMP metadata is not well-formed XML ({error}); write it anew.") from error

    found: dict[str, str] = {}
    for description in root.iter(f"{{{_RDF}}}Description"):
        found.update(description.attrib)
        found.update((child.tag, child.text or "") for child in description)
    gpano = {name.removeprefix(f"{{{GPANO}}}"): text for name, text in found.items() if name.startswith(f"{{{GPANO}}}")}
    return Metadata(
        gpano=gpano,
        creator_tool=found.get(f"{{{XMP}}}CreatorTool", ""),
        settings=_parse_settings(found.get(f"{{{DIT360}}}Settings", "{}")),
    )


def to_json(settings: object) -> str:
    """The settings as one line of JSON that XML can hold: what XML forbids is written as ``\\uXXXX``.

    Raises InputError if they are not JSON.
    """
    try:
        text = json.dumps(settings, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"The settings of a panorama must be JSON, but {error}; use only text, numbers, lists and dicts."
        ) from error
    return _NOT_FOR_XML.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _parse_settings(text: str) -> Mapping[str, object]:
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"The dit360 settings in the metadata are not JSON ({error}); write them anew.") from error
    if not isinstance(settings, dict):
        raise InputError("The dit360 settings in the metadata are not a JSON object; write them anew.")
    return settings


def _shorten(value: object, limit: int) -> object:
    """The same value with every string longer than ``limit`` characters cut there and marked."""
    if isinstance(value, str):
        return value if len(value) <= limit else value[:limit] + SHORTENED
    if isinstance(value, Mapping):
        return {key: _shorten(item, limit) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shorten(item, limit) for item in value]
    return value


def _packet(width: int, height: int, settings: object) -> bytes:
    properties = {
        "GPano:ProjectionType": "equirectangular",
        "GPano:UsePanoramaViewer": "True",
        "GPano:PoseHeadingDegrees": "0.0",  # of the centre column; a generated place has no north of its own
        "GPano:CroppedAreaImageWidthPixels": width,
        "GPano:CroppedAreaImageHeightPixels": height,
        "GPano:FullPanoWidthPixels": width,
        "GPano:FullPanoHeightPixels": height,
        "GPano:CroppedAreaLeftPixels": 0,
        "GPano:CroppedAreaTopPixels": 0,
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
