"""The page of a recording: numbers in the right places, nothing fetched, safe with any name, of bounded size."""

import re
from html.parser import HTMLParser

import pytest
from dit360_core.cli.timeline import check_timeline, save_timeline, timeline
from dit360_core.errors import InputError
from dit360_core.system.recording import Phase, Recorder, Recording, Sample

MIB, GIB = 2**20, 2**30
VOID = {"meta", "link", "br", "img", "col", "hr", "input"}


class Page(HTMLParser):
    """Elements as (tag, attributes), the text of each, and every tag that does not close what was opened last."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(page)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and data.strip():
            self.texts.setdefault(self.open[-1], []).append(data.strip())

    def of_class(self, name: str) -> list[dict[str, str]]:
        return [attributes for _, attributes in self.elements if name in attributes.get("class", "").split()]

    @property
    def svg(self) -> dict[str, str]:
        [attributes] = [attributes for tag, attributes in self.elements if tag == "svg"]
        return attributes

    def x(self, time: float) -> float:
        left, right, start, end = (float(self.svg[f"data-{name}"]) for name in ("left", "right", "start", "end"))
        return left + (right - left) * (time - start) / (end - start)

    def y(self, bytes_: float) -> float:
        top, bottom, most = (float(self.svg[f"data-{name}"]) for name in ("top", "bottom", "most"))
        return bottom - (bottom - top) * bytes_ / (most * {"GiB": GIB, "MiB": MIB}[self.svg["data-unit"]])


def a_phase(name: str, started: float, ended: float, before: float, after: float, peak: float, **more) -> Phase:
    """Seconds and GiB."""
    return Phase(
        name=name,
        started=started,
        seconds=ended - started,
        before=int(before * GIB),
        after=int(after * GIB),
        peak=int(peak * GIB),
        **more,
    )


def a_recording(device: str = "cpu") -> Recording:
    reserved = 14 * GIB if device == "cuda" else None
    phases = (
        a_phase("loading", 0, 4, 1, 9, 9.5, reserved=reserved),
        a_phase("picture", 4, 14, 9, 2, 12, reserved=reserved),
        a_phase("sampling", 4, 12, 9, 9, 12, depth=1, reserved=reserved, marks=(("step 1", 8.0), ("step 2", 12.0))),
        a_phase("saving", 18, 20, 2, 2, 2.5, failed=True, reserved=reserved),
    )
    used = [(0, 1), (2, 5), (4, 9), (8, 11.5), (10, 9), (14, 2), (18, 2), (20, 2)]
    samples = tuple(Sample(float(time), int(held * GIB), reserved) for time, held in used)
    return Recording(device=device, base=GIB, phases=phases, samples=samples)


def near(text: str, number: float) -> bool:
    return abs(float(text) - number) < 0.11


def test_the_page_fetches_nothing_and_is_whole():
    text = timeline(a_recording(), title="A quiet harbour")
    page = Page(text)
    assert page.texts["title"][0] == page.texts["h1"][0] == "A quiet harbour"
    assert not re.findall(r"(?:https?:)?//[a-z]", text)
    assert not [attributes for _, attributes in page.elements if "src" in attributes or "style" in attributes]
    [policy] = [a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(page.svg["aria-labelledby"].split()) <= set(ids)


def test_the_table_has_the_figures():
    page = Page(timeline(a_recording(), title="t", predicted={"loading": 10 * GIB, "sampling": 10 * GIB}))
    heads = ["no.", "phase", "seconds", "before", "after", "peak", "predicted", "difference"]
    assert page.texts["th"] == [*heads, "loading", "picture", "sampling", "saving"]
    cells = page.texts["td"]
    assert cells[:7] == ["1", "4.00", "1.00 GiB", "9.00 GiB", "9.50 GiB", "10.00 GiB", "−5.0 %"]
    assert cells[7:14] == ["2", "10.00", "9.00 GiB", "2.00 GiB", "12.00 GiB", "–", "–"]
    assert cells[14:21] == ["3", "8.00", "9.00 GiB", "9.00 GiB", "12.00 GiB", "10.00 GiB", "+20.0 %"]
    assert page.texts["em"] == ["failed"]
    assert [a["scope"] for tag, a in page.elements if tag == "th"] == ["col"] * 8 + ["row"] * 4
    assert len(page.of_class("d1")) == 1


def test_the_drawing_is_where_the_numbers_are():
    page = Page(timeline(a_recording(), title="t", predicted={"sampling": 10 * GIB}, budget=15 * GIB))
    curves = [[tuple(map(float, pair.split(","))) for pair in line["points"].split()] for line in page.of_class("used")]
    assert len(curves) == 3  # one for each outermost phase, with nothing in between
    loading, picture, saving = curves
    assert [len(curve) for curve in curves] == [3, 4, 2]
    for (x, y), (time, held) in zip(picture, [(4, 9), (8, 11.5), (10, 9), (14, 2)], strict=True):
        assert abs(x - page.x(time)) < 0.1
        assert abs(y - page.y(held * GIB)) < 0.1
    assert abs(loading[0][0] - page.x(0)) < 0.1
    assert abs(saving[-1][0] - page.x(20)) < 0.1
    [predicted] = page.of_class("predicted")
    assert near(predicted["y1"], page.y(10 * GIB))
    assert near(predicted["x1"], page.x(4))
    assert near(predicted["x2"], page.x(12))
    [budget] = page.of_class("budget")
    assert near(budget["y1"], page.y(15 * GIB))
    assert all(near(mark["x1"], page.x(time)) for mark, time in zip(page.of_class("mark"), (8, 12), strict=True))
    peaks = [line["y1"] for line in page.of_class("peak")]
    assert all(near(y, page.y(held * GIB)) for y, held in zip(peaks, (9.5, 12, 12, 2.5), strict=True))
    [gap] = page.of_class("gap")
    assert near(gap["x"], page.x(14))
    assert near(gap["width"], page.x(18) - page.x(14))
    assert len(page.of_class("bar")) == len(page.of_class("band")) == 4
    assert near(page.of_class("bar")[2]["width"], page.x(12) - page.x(4))
    assert {"loading", "picture", "sampling", "GiB", "seconds", "step 1"} <= {*page.texts["text"]}


def test_everything_lies_inside_the_drawing():
    page = Page(timeline(a_recording("cuda"), title="t", predicted={"saving": 16 * GIB}, budget=17 * GIB))
    _, _, width, height = map(float, page.svg["viewbox"].split())
    for tag, a in page.elements:
        if tag == "rect":
            assert 0 <= float(a["x"]) <= float(a["x"]) + float(a["width"]) <= width
            assert 0 <= float(a["y"]) <= float(a["y"]) + float(a["height"]) <= height
        elif tag == "line":
            assert all(0 <= float(a[name]) <= width for name in ("x1", "x2"))
            assert all(0 <= float(a[name]) <= height for name in ("y1", "y2"))
    assert float(page.svg["data-most"]) >= 17


def test_ticks_are_round_numbers_from_zero():
    numbers = [float(text) for text in Page(timeline(a_recording(), title="t")).texts["text"] if text[0].isdigit()]
    memory = numbers[: numbers.index(0, 1)]
    assert memory == [0, 2, 4, 6, 8, 10, 12, 14]
    assert numbers[len(memory) :] == [0, 5, 10, 15, 20]


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("cpu", "resident memory of the whole process"),
        ("cuda:1", "torch's allocator holds on cuda:1, without the CUDA context"),
        ("mps", "what torch holds on mps"),
    ],
)
def test_the_page_says_what_was_measured_and_where_nothing_was(device, words):
    recording = a_recording(device)
    text = "\n".join(Page(timeline(recording, title="t")).texts["li"])
    assert words in text
    assert "about every 5 ms" in text
    assert "Nothing was sampled outside of phases: from 14.00 to 18.00 s." in text
    assert "The longest time without a sample during a phase was 4.00 s." in text


def test_reserved_memory_is_drawn_on_cuda_only():
    page = Page(timeline(a_recording("cuda"), title="t"))
    assert len(page.of_class("reserved")) == 3
    assert "reserved" in page.texts["th"]
    page = Page(timeline(a_recording(), title="t"))
    assert not page.of_class("reserved")
    assert "reserved" not in page.texts["th"]
    assert "predicted" not in page.texts["th"]


def test_a_prediction_without_phase_and_a_budget_out_of_sight_are_told():
    page = Page(timeline(a_recording(), title="t", predicted={"upscaling": 3 * GIB}, budget=80 * GIB))
    text = "\n".join(page.texts["li"])
    assert "Predicted, but not among the phases: upscaling 3.00 GiB." in text
    assert "The budget was 80.00 GiB, far above the drawing; 15 % of it were used." in text
    assert not page.of_class("budget")
    assert float(page.svg["data-most"]) < 20


def test_names_are_text():
    bad = "</title></svg><script>alert(1)</script>\"'&"
    phase = a_phase(bad, 0, 4, 1, 1, 1, marks=((bad, 2.0),))
    text = timeline(Recording(device="cpu", base=0, phases=(phase,)), title=bad, predicted={bad: GIB, bad + "2": GIB})
    assert text.count("<script>") == text.count("</script>") == 1
    page = Page(text)
    assert page.texts["h1"] == [bad]
    assert bad in page.texts["th"]


def test_an_empty_recording_has_a_page():
    page = Page(timeline(Recording(device="cpu", base=GIB), title="t", predicted={"a": 1}, budget=0))
    assert "nothing sampled" in page.texts["text"]
    assert "no phase" in page.texts["td"]
    assert "Nothing was sampled" in page.texts["li"][-1]


def test_phases_of_no_length_have_a_page():
    phases = tuple(a_phase(f"p{number}", 0, 0, 0, 0, 0) for number in range(3))
    page = Page(timeline(Recording(device="cpu", base=0, phases=phases), title="t"))
    assert len(page.of_class("used")) == 3


def test_a_long_recording_is_no_large_page_and_keeps_its_extremes():
    samples = [Sample(number / 200, GIB + number % 7 * MIB) for number in range(20_000)]
    samples[12_345] = Sample(12_345 / 200, 3 * GIB)
    marks = tuple((f"step {number}", number / 100) for number in range(9_000))
    phase = a_phase("sampling", 0, 100, 1, 1, 3, marks=marks)
    text = timeline(Recording(device="cpu", base=0, phases=(phase,), samples=tuple(samples)), title="t")
    assert len(text) < 200_000
    page = Page(text)
    [curve] = page.of_class("used")
    points = [tuple(map(float, pair.split(","))) for pair in curve["points"].split()]
    assert len(points) < 1800
    x, y = min(points, key=lambda point: point[1])
    assert abs(y - page.y(3 * GIB)) < 0.1
    assert abs(x - page.x(12_345 / 200)) < 0.1
    assert points == sorted(points, key=lambda point: point[0])


def test_a_recorder_that_waited_does_not_begin_at_zero():
    page = Page(timeline(Recording(device="cpu", base=0, phases=(a_phase("a", 1003, 1009, 0, 1, 1),)), title="t"))
    assert 1000 < float(page.svg["data-start"]) <= 1003
    assert "from 0.000 to 1003.0 s" in "\n".join(page.texts["li"])


def test_what_was_really_recorded_has_a_page(tmp_path):
    recorder = Recorder("cpu")
    with recorder.phase("picture"), recorder.phase("sampling"):
        recorder.mark("step 1")
    file = save_timeline(tmp_path / "a.html", recorder.recording, title="A \ud800 picture")
    page = Page(file.read_text(encoding="utf-8"))
    assert page.texts["h1"] == ["A ? picture"]
    assert page.texts["th"][-2:] == ["picture", "sampling"]


def test_a_file_is_refused_before_it_is_written(tmp_path):
    recording = a_recording()
    with pytest.raises(InputError, match=r"end its name in \.html or \.htm"):
        save_timeline(tmp_path / "a.svg", recording, title="t")
    with pytest.raises(InputError, match="does not exist"):
        check_timeline(tmp_path / "missing" / "a.html")
    file = save_timeline(tmp_path / "a.HTM", recording, title="first")
    with pytest.raises(InputError, match="exists already"):
        save_timeline(file, recording, title="second")
    assert "first" in file.read_text(encoding="utf-8")
    assert save_timeline(str(file), recording, title="second", force=True) == file
    assert "second" in file.read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["a.HTM"]
