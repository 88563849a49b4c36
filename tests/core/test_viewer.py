"""The HTML viewer: one file that asks nothing of the network, and a view that shows the direction it says."""

import base64
import io
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from dit360_core.cli.picture import view
from dit360_core.errors import InputError
from dit360_core.panorama.picture import Panorama
from dit360_core.panorama.showing import write_viewer
from headless_browser import chromium, expected, picture
from PIL import Image
from viewer_page import HEIGHT, WIDTH, Viewer

# ------------------------------------------------------------------------------------------------- the file


@pytest.fixture
def panorama() -> Panorama:
    return Panorama(image=picture(32), settings={"prompt": "a quiet harbour"})


def test_the_page_is_one_file_without_any_address_to_fetch(panorama, tmp_path):
    page = write_viewer(panorama, tmp_path / "a.html").read_text(encoding="utf-8")
    assert os.listdir(tmp_path) == ["a.html"]
    assert not re.findall(r"(?:https?:)?//[a-z]", re.sub(r'src="data:[^"]*"', "", page))
    assert set(re.findall(r'\b(?:src|href)="([^"]{0,5})', page)) == {"data:"}
    assert "{{" not in page
    assert "default-src 'none'" in page


def test_the_page_shows_title_and_prompt_as_text(tmp_path):
    prompt = "</p><script>alert(1)</script>\" onerror='x' {{picture}} 🏔 \ud800"
    panorama = Panorama(image=picture(32), settings={"prompt": prompt})
    page = write_viewer(panorama, tmp_path / "a.html", title="<b>{{caption}}</b>").read_text(encoding="utf-8")
    assert page.count("<script>") == page.count("</script>") == 1
    assert "<title>&lt;b&gt;{{caption}}&lt;/b&gt;</title>" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot; onerror=&#x27;x&#x27; {{picture}} 🏔 ?" in page


def test_a_prompt_that_is_no_text_is_no_caption(tmp_path):
    panorama = Panorama(image=picture(32), settings={"prompt": ["a", "b"]})
    assert '<p id="caption" dir="auto"></p>' in write_viewer(panorama, tmp_path / "a.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("suffix", "mime"), [(".jpg", "jpeg"), (".png", "png"), (".webp", "webp")])
def test_a_file_is_embedded_as_it_is(panorama, tmp_path, suffix, mime):
    path = panorama.save(tmp_path / f"a{suffix}")
    page = write_viewer(path, tmp_path / "a.html").read_text(encoding="utf-8")
    assert f'src="data:image/{mime};base64,{base64.b64encode(path.read_bytes()).decode()}"' in page
    assert "a quiet harbour" in page


def test_what_cannot_be_read_or_written_is_refused(panorama, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        write_viewer(tmp_path / "none.jpg", tmp_path / "a.html")
    write_viewer(panorama, tmp_path / "a.html")
    with pytest.raises(InputError, match="exists already"):
        write_viewer(panorama, tmp_path / "a.html")
    write_viewer(panorama, tmp_path / "a.html", force=True)
    with pytest.raises(InputError, match="does not exist"):
        write_viewer(panorama, tmp_path / "missing" / "a.html")


# ------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Viewer]:
    with chromium(tmp_path_factory.mktemp("profile"), Viewer) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Of a lossless picture, so that colours can be compared exactly; its width is no power of two.

    1200 columns: of the views below some enlarge it and some take several rays a pixel."""
    folder = tmp_path_factory.mktemp("page")
    panorama = Panorama(image=picture(600), settings={"prompt": "a quiet harbour, <b>dawn</b>"})
    return write_viewer(panorama.save(folder / "a.png"), folder / "a.html", title="Harbour")


VIEWS = [
    (0, 0, 75),
    (90, 0, 75),
    (180, 0, 75),
    (-90, 20, 40),
    (0, 90, 75),
    (123, -90, 75),
    (-180, 45, 120),
    (180, 0, 20),
]


@pytest.mark.browser
def test_every_pixel_shows_its_direction(browser, page):
    browser.open(page, "#yaw=0&pitch=0&fov=75")
    off = {}
    for yaw, pitch, fov in VIEWS:
        browser.run(f"dit360.view({{yaw: {yaw}, pitch: {pitch}, fov: {fov}}})")
        seen = browser.see()
        assert seen.shape == (HEIGHT, WIDTH, 3)
        off[yaw, pitch, fov] = np.abs(seen - expected(yaw, pitch, fov, WIDTH, HEIGHT)).max()
    # Also at the ±180° meridian and at the poles: a line or a star there would differ by tens of levels.
    assert max(off.values()) <= 3, off


@pytest.mark.browser
def test_the_address_and_the_script_steer_the_same_view(browser, page):
    browser.open(page, "#yaw=10")
    assert browser.run("dit360.view()") == {"yaw": 10, "pitch": 0, "fov": 90}
    browser.run("location.hash = '#yaw=-40&pitch=5&fov=60'; 0")
    browser.until("dit360.view().yaw === -40 && dit360.view().pitch === 5 && dit360.view().fov === 60")
    assert browser.run("dit360.view({yaw: 190, pitch: 100, fov: 500})") == {"yaw": -170, "pitch": 90, "fov": 120}
    assert browser.run("dit360.view({yaw: 'x', pitch: NaN})") == {"yaw": -170, "pitch": 90, "fov": 120}


@pytest.mark.browser
def test_a_screen_with_more_pixels_is_drawn_with_more_pixels(browser, page):
    browser.emulate(100, 180, 2)
    try:
        browser.open(page, "#yaw=60&pitch=10&fov=80")
        canvas = "document.querySelector('canvas')"
        assert browser.run(f"[{canvas}.width, {canvas}.height]") == [200, 360]
        assert np.abs(browser.see() - expected(60, 10, 80, 200, 360)).max() <= 3
    finally:
        browser.emulate()


@pytest.mark.browser
def test_a_still_view_draws_nothing_and_a_turning_one_stops_at_a_touch(browser, page):
    count = (
        "window.frames_asked = 0; const ask = window.requestAnimationFrame;"
        "window.requestAnimationFrame = (then) => { frames_asked++; return ask(then); }"
    )
    browser.open(page, before=count)
    browser.until("dit360.view().yaw > 0")  # it turns by itself
    wait = "new Promise((done) => setTimeout(done, 200))"
    browser.mouse("mousePressed", 100, 50, button="left", buttons=1, clickCount=1)
    browser.mouse("mouseReleased", 100, 50, button="left", clickCount=1)
    browser.run(wait)
    before = browser.run("[frames_asked, dit360.view().yaw]")
    browser.run(wait)
    assert browser.run("[frames_asked, dit360.view().yaw]") == before


@pytest.mark.browser
def test_someone_who_wants_no_motion_gets_none(browser, page):
    features = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    browser.call("Emulation.setEmulatedMedia", features=features)
    try:
        browser.open(page)
        browser.run("new Promise((done) => setTimeout(done, 200))")
        assert browser.run("dit360.view()") == {"yaw": 0, "pitch": 0, "fov": 90}
    finally:
        browser.call("Emulation.setEmulatedMedia", features=[])


@pytest.mark.browser
def test_a_drag_takes_the_picture_along(browser, page):
    browser.open(page, "#yaw=0&pitch=0&fov=60")
    browser.mouse("mousePressed", 160, 30, button="left", buttons=1, clickCount=1)
    for step in range(1, 5):
        browser.mouse("mouseMoved", 160 - 10 * step, 30 + 5 * step, button="left", buttons=1)
    browser.run("new Promise((done) => setTimeout(done, 100))")  # a rest before letting go: no fling
    browser.mouse("mouseReleased", 120, 50, button="left", clickCount=1)
    view = browser.run("dit360.view()")
    # At the centre a pixel is 2·tan(30°)/WIDTH radians: 40 and 20 of them.
    assert view["yaw"] == pytest.approx(40 * np.degrees(2 * np.tan(np.radians(30)) / WIDTH), rel=0.02)
    assert view["pitch"] == pytest.approx(20 * np.degrees(2 * np.tan(np.radians(30)) / WIDTH), rel=0.02)


@pytest.mark.browser
def test_a_flung_picture_goes_on_and_comes_to_rest(browser, page):
    browser.open(page, "#yaw=0")
    browser.mouse("mouseMoved", 200, 50)
    # Made by the page itself: the time between the last move and the release decides, and the machine may be slow.
    dragged = browser.run(
        "(() => { const canvas = document.querySelector('canvas');"
        "const send = (kind, x) => canvas.dispatchEvent(new PointerEvent('pointer' + kind,"
        "  { pointerId: 1, button: 0, clientX: x, clientY: 50 }));"
        "send('down', 200); send('move', 199); send('move', 198); send('move', 197); send('up', 197);"
        "return dit360.view().yaw; })()"
    )
    assert dragged > 0
    browser.until(f"dit360.view().yaw > {dragged}")
    browser.rests()


@pytest.mark.browser
def test_wheel_and_keys_zoom_and_turn_within_limits(browser, page):
    browser.open(page, "#yaw=0")
    browser.mouse("mouseWheel", 160, 50, deltaX=0, deltaY=-240)
    browser.until("dit360.view().fov < 66")  # 90·exp(−240·0.0014) = 64.3
    for _ in range(12):
        browser.key("-", "keyDown")
    browser.until("dit360.view().fov === 120")
    browser.key("ArrowRight", "keyDown")
    browser.key("ArrowUp", "keyDown")
    browser.until("dit360.view().yaw > 1 && dit360.view().pitch > 1")
    browser.key("ArrowRight", "keyUp")
    browser.key("ArrowUp", "keyUp")
    browser.key("0", "keyDown")
    browser.until('JSON.stringify(dit360.view()) === \'{"yaw":0,"pitch":0,"fov":90}\'')


@pytest.mark.browser
def test_two_fingers_zoom(browser, page):
    browser.open(page, "#yaw=0&fov=80")

    def fingers(kind: str, *xs: float) -> None:
        points = [{"x": x, "y": 50, "id": i} for i, x in enumerate(xs)]
        browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    fingers("touchStart", 140, 180)
    fingers("touchMove", 130, 190)
    fingers("touchMove", 120, 200)
    fingers("touchEnd")
    browser.rests()  # and nothing is flung
    assert browser.run("dit360.view().fov") == pytest.approx(40, rel=0.03)
    assert browser.run("dit360.view().yaw") == pytest.approx(0, abs=1)


@pytest.mark.browser
def test_double_click_and_f_ask_for_the_full_screen(browser, page):
    count = "window.asked = 0; Element.prototype.requestFullscreen = async () => { asked++; }"
    browser.open(page, before=count)
    now = time.time()  # how long it takes to tell Chromium must not count
    for clicks in (1, 2):
        at = {"button": "left", "clickCount": clicks, "timestamp": now + 0.1 * clicks}
        browser.mouse("mousePressed", 100, 50, buttons=1, **at)
        browser.mouse("mouseReleased", 100, 50, **at)
    assert browser.run("asked") == 1
    browser.key("f", "keyDown")
    assert browser.run("asked") == 2


@pytest.mark.browser
def test_the_page_asks_nothing_of_the_network_and_complains_of_nothing(browser, page):
    browser.open(page)
    browser.see()
    asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert [url.split("?")[0] for url in asked if not url.startswith("data:")] == [page.as_uri()]
    complaints = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    assert [event for event in browser.events if event["method"] in complaints] == []


@pytest.mark.browser
def test_the_page_forbids_other_scripts_and_requests(browser, page):
    browser.open(page)
    browser.run(
        "const made = document.createElement('script'); made.textContent = 'window.ran = 1';"
        "document.body.append(made); 0"
    )
    assert browser.run("window.ran") is None
    assert browser.run("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"
    told = "".join(e["params"]["entry"]["text"] for e in browser.events if e["method"] == "Log.entryAdded")
    assert "'script-src 'sha256-" in told
    assert "\"default-src 'none'\"" in told


@pytest.mark.browser
def test_texts_are_shown_as_text(browser, page):
    browser.open(page)
    assert browser.run("document.querySelector('h1').textContent") == "Harbour"
    assert browser.run("document.querySelector('#caption').textContent") == "a quiet harbour, <b>dawn</b>"
    assert browser.run("document.querySelector('canvas').getAttribute('aria-label')") == "a quiet harbour, <b>dawn</b>"


@pytest.mark.browser
def test_without_webgl_the_page_says_so_and_shows_the_flat_picture(browser, page):
    browser.open(page, before="HTMLCanvasElement.prototype.getContext = () => null")
    assert browser.run("dit360.ready") is False
    assert "WebGL" in browser.run("document.querySelector('#message').innerText")
    assert browser.run("document.querySelector('#picture').getBoundingClientRect().width") == WIDTH


@pytest.mark.browser
def test_a_picture_beyond_the_device_s_limit_is_made_smaller(browser, page):
    small = (
        "const get = WebGLRenderingContext.prototype.getParameter;"
        "WebGLRenderingContext.prototype.getParameter = function (name) {"
        "  return name === WebGLRenderingContext.MAX_TEXTURE_SIZE ? 256 : get.call(this, name); }"
    )
    browser.open(page, "#yaw=180&pitch=10&fov=60", before=small)
    assert "256×128" in browser.run("document.querySelector('#note').textContent")
    assert np.abs(browser.see() - expected(180, 10, 60, WIDTH, HEIGHT)).max() <= 4


@pytest.mark.browser
def test_the_view_comes_back_after_a_lost_context(browser, page):
    keep = (
        "const get = HTMLCanvasElement.prototype.getContext;"
        "HTMLCanvasElement.prototype.getContext = function (...a) { return window.context = get.apply(this, a); }"
    )
    browser.open(page, "#yaw=30&fov=60", before=keep)
    browser.run(
        "new Promise((done) => { const canvas = document.querySelector('canvas');"
        "const drawn = () => requestAnimationFrame(() => requestAnimationFrame(done));"
        "canvas.addEventListener('webglcontextrestored', drawn);"
        "const lose = context.getExtension('WEBGL_lose_context');"
        "canvas.addEventListener('webglcontextlost', () => setTimeout(() => lose.restoreContext(), 50));"
        "lose.loseContext(); })"
    )
    assert np.abs(browser.see() - expected(30, 0, 60, WIDTH, HEIGHT)).max() <= 3


def test_what_no_graphics_device_holds_is_shown_smaller_and_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("dit360_core.panorama.viewer.WIDEST", 32)
    monkeypatch.setattr("dit360_core.panorama.viewer.WHOLE", 32)
    Image.new("RGB", (64, 32), (10, 200, 30)).save(tmp_path / "a.png")
    view(tmp_path / "a.png", output=tmp_path / "a.html", open_viewer=False, force=False)
    page = (tmp_path / "a.html").read_text("utf-8")
    shown = Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", page)[1])))
    assert shown.size == (32, 16)
    assert "It shows 64×32 pixels as 32×16." in "".join(capsys.readouterr())
