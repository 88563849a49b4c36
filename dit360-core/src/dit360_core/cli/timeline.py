"""What a recording says, as one HTML page: memory over time with the phases, and their figures in a table."""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path

import attrs

from dit360_core.errors import InputError
from dit360_core.system.atomic import check_writable, write_atomic
from dit360_core.system.recording import Phase, Recording, Sample

SUFFIXES = (".html", ".htm")

_MIB, _GIB = 2**20, 2**30

# The drawing's own units; it is shown as wide as the page.
_WIDTH, _LEFT, _RIGHT = 960, 64, 944
_ROW = 20  # of the phases' names, one for each depth
_PLOT = 300  # high
_LETTER = 6.4  # as wide as most are in the labels' size

# A budget that is higher than the rest by more than this would press the rest flat.
_FAR = 4

_COLOURS = 8


def timeline(
    recording: Recording, *, title: str, predicted: Mapping[str, int] | None = None, budget: int | None = None
) -> str:
    """One HTML page that needs nothing else: an SVG drawing of memory over time, and a table of the phases.

    title: over the page, as plain text.
    predicted: bytes that a phase was expected to need at most, by its name, in the measure of the recording; names
    without a phase are told under the table.
    budget: bytes that were to be enough; a line, or a sentence where it is far above everything else.

    Samples are drawn to the pixel: of those in one, the least and the most. The page says what was measured, and where
    nothing was.
    """
    predicted = predicted or {}
    chart = _Chart(recording, predicted, budget)
    notes = "".join(f"<li>{html.escape(note)}</li>\n" for note in _notes(recording, predicted, budget, chart))
    policy = f"default-src 'none'; script-src '{_hash(_SCRIPT)}'; style-src '{_hash(_STYLE)}'; base-uri 'none'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{html.escape(title)}</h1>
<p>{html.escape(_summary(recording))}</p>
<figure>
{chart.svg()}
<figcaption>{chart.legend()}<span id="readout"></span></figcaption>
</figure>
{_table(recording, predicted)}
<ul>
{notes}</ul>
</main>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def save_timeline(
    file: str | PathLike[str],
    recording: Recording,
    *,
    title: str,
    predicted: Mapping[str, int] | None = None,
    budget: int | None = None,
    force: bool = False,
) -> Path:
    """Writes the page of ``timeline``; returns the path.

    force: replace an existing file.

    The file is whole or not there. Raises InputError as check_timeline does, Dit360Error if writing fails later.
    """
    file = Path(file)
    check_timeline(file, force=force)
    page = timeline(recording, title=title, predicted=predicted, budget=budget)
    with write_atomic(file, force=force) as out:
        # A lone surrogate, which a command line can hold, is no character.
        out.write(page.encode("utf-8", "replace"))
    return file


def check_timeline(file: str | PathLike[str], *, force: bool = False) -> None:
    """Raises what save_timeline would raise for this path, so that it is told before a picture is made.

    That is InputError: the suffix is none of SUFFIXES, the file exists and ``force`` is not given, or its folder is
    missing or not writable.
    """
    file = Path(file)
    if file.suffix.lower() not in SUFFIXES:
        raise InputError(f"Cannot write {file}: a timeline is an HTML page; end its name in {' or '.join(SUFFIXES)}.")
    check_writable(file, force=force)


# ------------------------------------------------------------------------------------------------- in words


def _summary(recording: Recording) -> str:
    if not recording.phases:
        return f"Nothing was recorded on {recording.device}."
    highest = max(recording.phases, key=lambda phase: (phase.peak, phase.depth))
    busy = sum(phase.seconds for phase in recording.phases if phase.depth == 0)
    return (
        f"At most {_memory(highest.peak)} on {recording.device}, in {highest.name}; {_seconds(busy)} s in all. "
        f"{_memory(recording.base)} were in use before."
    )


def _notes(recording: Recording, predicted: Mapping[str, int], budget: int | None, chart: _Chart) -> Iterator[str]:
    every = f"about every {recording.interval * 1000:.3g} ms"
    if recording.device.startswith("cuda"):
        yield (
            f"Measured is what torch's allocator holds on {recording.device}, without the CUDA context and what other "
            f"libraries and programs hold. Peaks are the allocator's own; the curve was sampled {every}."
        )
    elif recording.device.startswith("mps"):
        yield (
            f"Measured is what torch holds on {recording.device}, sampled {every}: a shorter peak may be missing. The "
            "rest of the process is not in it."
        )
    else:
        yield (
            f"Measured is the resident memory of the whole process, Python and libraries included, sampled {every}. A "
            "shorter peak is known on Linux only, where it was the highest of the process so far."
        )
    if not recording.phases:
        yield "Nothing was sampled: that happens during phases only."
        return
    pause = max(after.time - before.time for span in chart.spans for before, after in itertools.pairwise(span))
    if pause > 4 * recording.interval and pause > 0.01:
        yield f"The longest time without a sample during a phase was {_seconds(pause)} s."
    if chart.gaps:
        told = ", ".join(f"from {_seconds(start)} to {_seconds(end)} s" for start, end in chart.gaps[:8])
        more = f", and in {len(chart.gaps) - 8} more places" if len(chart.gaps) > 8 else ""
        yield f"Nothing was sampled outside of phases: {told}{more}."
    names = {phase.name for phase in recording.phases}
    missing = [f"{name} {_memory(bytes_)}" for name, bytes_ in predicted.items() if name not in names]
    if missing:
        yield f"Predicted, but not among the phases: {', '.join(missing)}."
    if budget is not None:
        far = ", far above the drawing" if chart.budget_is_far else ""
        yield f"The budget was {_memory(budget)}{far}; {_share(recording.peak, budget)} of it were used."


def _table(recording: Recording, predicted: Mapping[str, int]) -> str:
    """Columns that would be empty in every row are left out."""
    reserved = any(phase.reserved is not None for phase in recording.phases)
    heads = ["phase", "seconds", "before", "after", "peak"]
    heads += ["reserved"] * reserved + ["predicted", "difference"] * bool(predicted)
    rows = []
    colours = _colours(recording)
    for number, phase in enumerate(recording.phases, 1):
        cells = [_seconds(phase.seconds), _memory(phase.before), _memory(phase.after), _memory(phase.peak)]
        if reserved:
            cells.append("–" if phase.reserved is None else _memory(phase.reserved))
        if predicted:
            wanted = predicted.get(phase.name)
            cells += ["–", "–"] if wanted is None else [_memory(wanted), _difference(phase.peak, wanted)]
        name = html.escape(phase.name) + (" <em>failed</em>" if phase.failed else "")
        swatch = f'<i class="swatch b{colours[phase.name]}"></i>'
        rows.append(
            f'<tr><td>{number}</td><th scope="row" class="d{min(phase.depth, 4)}">{swatch}{name}</th>'
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + "</tr>"
        )
    if not rows:
        rows = [f'<tr><td colspan="{len(heads) + 1}">no phase</td></tr>']
    head = "".join(f'<th scope="col">{name}</th>' for name in ["no.", *heads])
    body = "\n".join(rows)
    return (
        "<table>\n<caption>The phases in the order of their beginnings; inner ones are indented</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    )


def _memory(bytes_: int) -> str:
    return f"{bytes_ / _GIB:.2f} GiB" if bytes_ >= _GIB else f"{bytes_ / _MIB:.1f} MiB"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds >= 100 else f"{seconds:.2f}" if seconds >= 1 else f"{seconds:.3f}"


def _difference(measured: int, predicted: int) -> str:
    if predicted <= 0:
        return "–"
    text = f"{100 * (measured / predicted - 1):+.1f} %"
    return text.replace("-", "−")


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole > 0 else "more than all"


def _colours(recording: Recording) -> dict[str, int]:
    """A number below _COLOURS for each name, the same for phases of one name; neighbours differ."""
    names = dict.fromkeys(phase.name for phase in recording.phases)
    return {name: number % _COLOURS for number, name in enumerate(names)}


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode("ascii")


# ------------------------------------------------------------------------------------------------- in a drawing


class _Chart:
    """The drawing. x: seconds since the recorder was made; y: memory from 0."""

    def __init__(self, recording: Recording, predicted: Mapping[str, int], budget: int | None) -> None:
        self.recording = recording
        self.predicted = predicted
        self.budget = budget
        outermost = [phase for phase in recording.phases if phase.depth == 0]
        self.rows = 1 + max((phase.depth for phase in recording.phases), default=0)
        self.top = 8 + self.rows * _ROW
        self.bottom = self.top + _PLOT
        self.height = self.bottom + 44

        first = min((phase.started for phase in outermost), default=0.0)
        self.end = max((phase.ended for phase in outermost), default=1.0) or 1.0
        self.time_step = _nice((self.end - first) / 9 or 0.1)
        # Not from 0 where the recorder had waited long for its first phase.
        self.start = math.floor(first / self.time_step) * self.time_step
        self.end = max(self.end, self.start + self.time_step)

        highest = max(
            [recording.base, *(phase.peak for phase in recording.phases)]
            + [phase.reserved or 0 for phase in recording.phases]
            + [predicted.get(phase.name, 0) for phase in recording.phases]
        )
        self.budget_is_far = budget is not None and budget > _FAR * max(highest, 1)
        if budget is not None and not self.budget_is_far:
            highest = max(highest, budget)
        self.unit, self.unit_name = (_GIB, "GiB") if highest >= _GIB else (_MIB, "MiB")
        self.memory_step = _nice(max(highest, 1) / self.unit / 6)
        # Room above the highest line, for its label.
        self.most = self.memory_step * math.ceil(1.04 * max(highest, 1) / self.unit / self.memory_step) * self.unit

        self.spans = [_samples_of(recording, phase) for phase in outermost]
        edges = [0.0, *itertools.chain.from_iterable((phase.started, phase.ended) for phase in outermost)]
        shown = self.end - self.start
        self.gaps = [
            (end, start)
            for end, start in zip(edges[::2], edges[1::2], strict=False)
            if start - end > max(shown / 200, 2 * recording.interval)
        ]

    def x(self, time: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (time - self.start) / (self.end - self.start)

    def y(self, bytes_: float) -> float:
        return self.bottom - _PLOT * bytes_ / self.most

    def svg(self) -> str:
        parts = [
            *self._gaps(),
            *self._bands(),
            *self._axes(),
            *self._curves(),
            *self._marks(),
            *self._levels(),
        ]
        body = "\n".join(parts)
        about = html.escape(_summary(self.recording))
        return (
            f'<svg viewBox="0 0 {_WIDTH} {self.height}" role="img" aria-labelledby="chart-title chart-desc" '
            f'data-start="{self.start:.6g}" data-end="{self.end:.6g}" data-most="{self.most / self.unit:.6g}" '
            f'data-unit="{self.unit_name}" data-left="{_LEFT}" data-right="{_RIGHT}" data-top="{self.top}" '
            f'data-bottom="{self.bottom}">\n<title id="chart-title">Memory over time</title>\n'
            f'<desc id="chart-desc">{about} The table below has the figures of each phase.</desc>\n{body}\n'
            f'<line id="cursor" class="cursor" x1="0" x2="0" y1="{self.top}" y2="{self.bottom}"/>\n</svg>'
        )

    def legend(self) -> str:
        phases = self.recording.phases
        entries = [("key-used", "in use", bool(phases))]
        entries.append(("key-reserved", "reserved", any(phase.reserved is not None for phase in phases)))
        entries.append(("key-peak", "peak of a phase", bool(phases)))
        entries.append(("key-predicted", "predicted", any(phase.name in self.predicted for phase in phases)))
        entries.append(("key-budget", "budget", self.budget is not None and not self.budget_is_far))
        entries.append(("key-mark", "mark, such as the end of a step", any(phase.marks for phase in phases)))
        entries.append(("key-gap", "nothing sampled", bool(self._gaps())))
        return "".join(f'<span><i class="{name}"></i>{text}</span> ' for name, text, there in entries if there)

    def _axes(self) -> list[str]:
        parts = []
        for value in _ticks(0, self.most / self.unit, self.memory_step):
            y = self.y(value * self.unit)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            label = _number(value, self.memory_step)
            parts.append(f'<text class="end" x="{_LEFT - 8}" y="{y + 4:.1f}">{label}</text>')
        parts.append(f'<text class="end" x="{_LEFT - 8}" y="{self.top - 10}">{self.unit_name}</text>')
        for value in _ticks(self.start, self.end, self.time_step):
            x = self.x(value)
            parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{self.bottom}" y2="{self.bottom + 5}"/>')
            label = _number(value, self.time_step)
            parts.append(f'<text class="middle" x="{x:.1f}" y="{self.bottom + 19}">{label}</text>')
        parts.append(f'<text class="middle" x="{(_LEFT + _RIGHT) / 2}" y="{self.bottom + 38}">seconds</text>')
        parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_RIGHT}" y1="{self.bottom}" y2="{self.bottom}"/>')
        return parts

    def _gaps(self) -> list[str]:
        if not self.recording.phases:
            return [
                f'<text class="middle" x="{(_LEFT + _RIGHT) / 2}" y="{self.top + _PLOT / 2}">nothing sampled</text>'
            ]
        parts = []
        for start, end in self.gaps:
            left, right = self.x(max(start, self.start)), self.x(max(end, self.start))
            if right > left:
                parts.append(
                    f'<rect class="gap" x="{left:.1f}" y="{self.top}" width="{right - left:.1f}" height="{_PLOT}">'
                    f"<title>nothing sampled from {_seconds(start)} to {_seconds(end)} s</title></rect>"
                )
        return [_HATCH, *parts] if parts else []

    def _bands(self) -> list[str]:
        """A bar with the name above the drawing, and the colour of the innermost phase down through it."""
        parts = []
        colours = _colours(self.recording)
        for number, phase in enumerate(self.recording.phases, 1):
            left, width = self._extent(phase, 0.5)
            row = 4 + phase.depth * _ROW
            name = phase.name + (" (failed)" if phase.failed else "")
            told = html.escape(f"{number} {name}: {_seconds(phase.seconds)} s, at most {_memory(phase.peak)}")
            colour = f"b{colours[phase.name]}" + (" failed" if phase.failed else "")
            for kind, y, height in (("bar", row, _ROW - 3), ("band", self.top, _PLOT)):
                if kind == "band" and phase.depth:
                    # Inner phases cover outer ones: colours mixed would be nobody's.
                    parts.append(f'<rect class="ground" x="{left:.1f}" y="{y}" width="{width:.1f}" height="{height}"/>')
                parts.append(
                    f'<rect class="{kind} {colour}" x="{left:.1f}" y="{y}" width="{width:.1f}" height="{height}">'
                    f"<title>{told}</title></rect>"
                )
            label = _fitting(name, str(number), width - 6)
            if label:
                parts.append(f'<text class="name" x="{left + 3:.1f}" y="{row + 12.5}">{html.escape(label)}</text>')
        return parts

    def _curves(self) -> list[str]:
        parts = []
        for span in self.spans:
            points = [(self.x(time), self.y(used)) for time, used in self._drawn(span, reserved=False)]
            line = _points(points)
            floor = f"{points[-1][0]:.1f},{self.bottom} {points[0][0]:.1f},{self.bottom}"
            parts.append(f'<polygon class="area" points="{line} {floor}"/>')
            parts.append(f'<polyline class="used" points="{line}"/>')
            reserved = [(self.x(time), self.y(bytes_)) for time, bytes_ in self._drawn(span, reserved=True)]
            if reserved:
                parts.append(f'<polyline class="reserved" points="{_points(reserved)}"/>')
        return parts

    def _drawn(self, span: Sequence[Sample], *, reserved: bool) -> Iterator[tuple[float, int]]:
        """(time, bytes): of the samples in one pixel's width the least and the most, so that a page has a bound."""
        known = [(sample.time, sample.reserved if reserved else sample.used) for sample in span]
        values = [(time, bytes_) for time, bytes_ in known if bytes_ is not None]
        for _, column in itertools.groupby(values, key=lambda value: int(self.x(value[0]))):
            found = list(column)
            extremes = {min(found, key=lambda value: value[1]), max(found, key=lambda value: value[1])}
            # The span's own ends stay, so that the area is as wide as the phase.
            yield from sorted(extremes | ({values[0], values[-1]} & {*found}))

    def _marks(self) -> list[str]:
        parts = []
        drawn = free = -math.inf
        marks = sorted((when, name) for phase in self.recording.phases for name, when in phase.marks)
        for when, name in marks:
            x = self.x(when)
            if x - drawn < 1:
                continue
            drawn = x
            told = html.escape(f"{name}: {_seconds(when)} s")
            parts.append(
                f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{self.bottom - 9}" y2="{self.bottom}">'
                f"<title>{told}</title></line>"
            )
            half = _LETTER * len(name) / 2
            if x - half > max(free, _LEFT) and x + half < _RIGHT:
                parts.append(
                    f'<text class="small middle" x="{x:.1f}" y="{self.bottom - 13}">{html.escape(name)}</text>'
                )
                free = x + half + 6
        return parts

    def _levels(self) -> list[str]:
        parts = []
        for phase in self.recording.phases:
            left, width = self._extent(phase, 4)
            levels = [("peak", phase.peak), ("predicted", self.predicted.get(phase.name))]
            for kind, bytes_ in levels:
                if bytes_ is None:
                    continue
                told = html.escape(f"{phase.name}, {kind}: {_memory(bytes_)}")
                y = self.y(bytes_)
                parts.append(
                    f'<line class="{kind}" x1="{left:.1f}" x2="{left + width:.1f}" y1="{y:.1f}" y2="{y:.1f}">'
                    f"<title>{told}</title></line>"
                )
        if self.budget is not None and not self.budget_is_far:
            y, text = self.y(self.budget), f"budget {_memory(self.budget)}"
            parts.append(f'<line class="budget" x1="{_LEFT}" x2="{_RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="small end" x="{_RIGHT - 4}" y="{y - 4:.1f}">{text}</text>')
        return parts

    def _extent(self, phase: Phase, least: float) -> tuple[float, float]:
        """(left, width), wide enough to be seen."""
        left, right = self.x(phase.started), self.x(phase.ended)
        width = max(right - left, least)
        return min(left, _RIGHT - width), width


def _samples_of(recording: Recording, phase: Phase) -> list[Sample]:
    """Those during a phase, with its beginning and end, which thinning may have dropped; two at least."""
    samples = recording.samples
    low = bisect_left(samples, phase.started, key=lambda sample: sample.time)
    high = bisect_right(samples, phase.ended, key=lambda sample: sample.time)
    within = list(samples[low:high])
    if not within or within[0].time > phase.started:
        within.insert(0, Sample(phase.started, phase.before))
    if within[-1].time < phase.ended or len(within) == 1:
        within.append(Sample(phase.ended, phase.after))
    return within


def _nice(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is not below ``least``, which is above 0."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _ticks(start: float, end: float, step: float) -> Iterator[float]:
    for number in range(math.ceil(start / step - 1e-6), math.floor(end / step + 1e-6) + 1):
        yield number * step


def _number(value: float, step: float) -> str:
    return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _fitting(name: str, number: str, width: float) -> str:
    """The name, its beginning, its number in the table or nothing: what has room."""
    letters = int(width / _LETTER)
    if len(name) <= letters:
        return name
    if letters >= 6:
        return name[: letters - 1] + "…"
    return number if len(number) <= letters else ""


_HATCH = (
    '<pattern id="hatch" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<line class="hatch" x1="0" x2="0" y1="0" y2="7"/></pattern>'
)


@attrs.frozen
class _Colour:
    light: str
    dark: str


_PALETTE = [
    _Colour("#3b76c4", "#6ea8f0"),
    _Colour("#c9762b", "#f0a35e"),
    _Colour("#3d8f5f", "#67c48d"),
    _Colour("#9158b5", "#c190e0"),
    _Colour("#b8983a", "#dcc063"),
    _Colour("#2f8f9d", "#5fc4d2"),
    _Colour("#b8557a", "#ea8bae"),
    _Colour("#6d7278", "#a4abb3"),
]
_LIGHT = ";".join(f"--c{number}:{colour.light}" for number, colour in enumerate(_PALETTE))
_DARK = ";".join(f"--c{number}:{colour.dark}" for number, colour in enumerate(_PALETTE))
_FILLS = "\n".join(f".b{number}{{fill:var(--c{number});background:var(--c{number})}}" for number in range(_COLOURS))

_STYLE = f"""
:root {{ color-scheme: light dark; --ground:#fff; --ink:#1b1e22; --faint:#5b6168; --grid:#e2e5e9;
  --used:#2d6bb5; --reserved:#9158b5; --wanted:#c0501a; --limit:#c22f3c; {_LIGHT} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ --ground:#14171b; --ink:#e8eaed; --faint:#a2a9b1;
  --grid:#2b3037; --used:#7ab2f5; --reserved:#c190e0; --wanted:#ff9a61; --limit:#ff6b78; {_DARK} }} }}
* {{ box-sizing:border-box }}
body {{ margin:0; background:var(--ground); color:var(--ink);
  font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif }}
main {{ max-width:1040px; margin:0 auto; padding:24px 20px 40px }}
h1 {{ font-size:20px; margin:0 0 4px; overflow-wrap:anywhere }}
p {{ margin:0; color:var(--faint); overflow-wrap:anywhere }}
figure {{ margin:16px 0 20px }}
svg {{ display:block; width:100%; height:auto }}
svg text {{ font-size:11.5px; fill:var(--faint) }}
svg .name {{ font-size:11px; fill:var(--ink) }}
svg .small {{ font-size:10.5px }}
.end {{ text-anchor:end }} .middle {{ text-anchor:middle }}
.grid {{ stroke:var(--grid) }} .axis {{ stroke:var(--faint) }}
{_FILLS}
.bar {{ fill-opacity:.38 }} .band {{ fill-opacity:.08 }}
.bar.failed {{ stroke:var(--limit); stroke-width:1.5; stroke-dasharray:3 2 }}
.ground {{ fill:var(--ground) }}
.gap {{ fill:url(#hatch) }} .hatch {{ stroke:var(--faint); stroke-width:1.5; stroke-opacity:.5 }}
.area {{ fill:var(--used); fill-opacity:.25; pointer-events:none }}
.used, .reserved {{ fill:none; stroke:var(--used); stroke-width:1.5; stroke-linejoin:round; pointer-events:none }}
.reserved {{ stroke:var(--reserved); stroke-width:1 }}
.mark {{ stroke:var(--ink); stroke-width:1 }}
.peak {{ stroke:var(--ink); stroke-width:1.5; stroke-opacity:.6 }}
.predicted {{ stroke:var(--wanted); stroke-width:2; stroke-dasharray:6 4 }}
.budget {{ stroke:var(--limit); stroke-width:1.5 }}
.cursor {{ stroke:var(--ink); stroke-opacity:.5; visibility:hidden; pointer-events:none }}
figcaption {{ display:flex; flex-wrap:wrap; gap:2px 18px; font-size:13px; color:var(--faint) }}
figcaption i {{ display:inline-block; width:20px; margin-right:6px; vertical-align:middle; border-top:2px solid }}
.key-used {{ color:var(--used); height:9px; background:color-mix(in srgb, currentColor 25%, transparent) }}
.key-reserved {{ color:var(--reserved); border-top-width:1px !important }}
.key-peak {{ color:var(--ink); opacity:.6 }}
.key-predicted {{ color:var(--wanted); border-top-style:dashed !important }}
.key-budget {{ color:var(--limit) }}
.key-mark {{ color:var(--ink); width:0 !important; height:9px; border-top:0 !important; border-left:1px solid }}
.key-gap {{ height:10px; border:0 !important; opacity:.6;
  background:repeating-linear-gradient(135deg, var(--faint) 0 1.5px, transparent 1.5px 5px) }}
#readout {{ margin-left:auto; color:var(--ink); font-variant-numeric:tabular-nums }}
table {{ border-collapse:collapse; width:100%; font-variant-numeric:tabular-nums }}
caption {{ text-align:left; font-size:13px; color:var(--faint); padding-bottom:4px }}
th, td {{ padding:5px 8px; border-bottom:1px solid var(--grid); text-align:right; white-space:nowrap }}
thead th {{ font-size:13px; font-weight:600; color:var(--faint) }}
th[scope=row], thead th:nth-child(2) {{ text-align:left; font-weight:500; white-space:normal; overflow-wrap:anywhere }}
td:first-child, thead th:first-child {{ color:var(--faint); width:1% }}
.d1 {{ padding-left:28px }} .d2 {{ padding-left:48px }} .d3 {{ padding-left:68px }} .d4 {{ padding-left:88px }}
em {{ color:var(--limit); font-style:normal; font-weight:600 }}
.swatch {{ display:inline-block; width:10px; height:10px; border-radius:2px; margin-right:8px; opacity:.8 }}
ul {{ margin:16px 0 0; padding-left:18px; font-size:13px; color:var(--faint) }}
@media (max-width:700px) {{ table {{ display:block; overflow-x:auto }} }}
@media print {{ main {{ padding:0; max-width:none }} #readout {{ display:none }} figure, tr {{ break-inside:avoid }}
  * {{ -webkit-print-color-adjust:exact; print-color-adjust:exact }} }}
"""

# The page is whole without it: it tells the time and memory under the pointer.
_SCRIPT = """
const svg = document.querySelector("svg"), of = svg.dataset, out = document.getElementById("readout");
const cursor = document.getElementById("cursor");
const curves = (name) => [...document.querySelectorAll("polyline." + name)].map((line) =>
  line.getAttribute("points").split(" ").map((pair) => pair.split(",").map(Number)));
const used = curves("used"), reserved = curves("reserved");
const memory = (lines, x) => {
  const line = lines.find((points) => points[0][0] <= x && x <= points[points.length - 1][0]);
  if (!line) return null;
  const nearest = line.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a);
  return ((of.bottom - nearest[1]) / (of.bottom - of.top) * of.most).toFixed(of.unit === "GiB" ? 2 : 0) + " " + of.unit;
};
svg.addEventListener("pointermove", (event) => {
  const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
  const inside = x >= of.left && x <= of.right;
  cursor.style.visibility = inside ? "visible" : "hidden";
  if (!inside) { out.textContent = ""; return; }
  cursor.setAttribute("x1", x); cursor.setAttribute("x2", x);
  const time = +of.start + (x - of.left) / (of.right - of.left) * (of.end - of.start);
  const now = memory(used, x), kept = memory(reserved, x);
  out.textContent = time.toFixed(2) + " s: " + (now ?? "nothing sampled") + (kept ? ", reserved " + kept : "");
});
svg.addEventListener("pointerleave", () => { cursor.style.visibility = "hidden"; out.textContent = ""; });
"""
