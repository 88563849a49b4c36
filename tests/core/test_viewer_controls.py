"""What the viewer's page does besides looking around: its address, views as files, full screen, sensor and headset."""

import io
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import dit360
from dit360_core.errors import InputError
from dit360_core.panorama.gpano import Pose
from dit360_core.panorama.picture import Panorama
from dit360_core.panorama.showing import write_viewer
from headless_browser import chromium, expected, picture
from PIL import Image
from viewer_page import HEIGHT, WIDTH, Viewer


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Viewer]:
    with chromium(tmp_path_factory.mktemp("profile"), Viewer) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    return write_viewer(Panorama(picture(600)).save(folder / "harbour.png"), folder / "harbour.html")


# ------------------------------------------------------------------------------------------------- the first view


def test_the_command_line_gives_the_first_view_and_refuses_what_is_none(tmp_path):
    Panorama(picture(32)).save(tmp_path / "a.png")
    told = dit360(
        ["view", "a.png", "-o", "a.html", "--yaw", "-90", "--pitch", "12.5", "--fov", "60"],
        ["view", "a.png", "-o", "b.html", "--yaw", "400"],
        ["view", "none.png", "-o", "b.html", "--pitch", "-91"],
        ["view", "a.png", "-o", "b.html", "--fov", "5"],
        ["view", "a.png", "-o", "b.html", "--fov", "nan"],
        ["view", "a.png", "-o", "c.html"],
        cwd=tmp_path,
    )
    assert [one.code for one in told] == [0, 2, 2, 2, 2, 0]
    assert "--yaw is 400, but must be -360 … 360 degrees." in told[1].err
    assert "--pitch is -91, but must be -90 … 90 degrees." in told[2].err  # before the file is looked for
    assert "--fov is 5, but must be 20 … 120 degrees." in told[3].err
    assert "--fov is nan" in told[4].err
    assert not (tmp_path / "b.html").exists()
    page = (tmp_path / "a.html").read_text("utf-8")
    assert "&quot;yaw&quot;: -90.0, &quot;tilt&quot;: 12.5, &quot;fov&quot;: 60.0" in page
    assert 'data-rests="true"' in page
    assert 'data-rests="false"' in (tmp_path / "c.html").read_text("utf-8")


@pytest.mark.parametrize("wrong", [{"yaw": -361}, {"pitch": 90.1}, {"fov": 121}, {"fov": float("nan")}])
def test_python_refuses_a_first_view_that_is_none(tmp_path, wrong):
    with pytest.raises(InputError, match=f"{next(iter(wrong))} is .*, but must be"):
        Panorama(picture(32)).view(tmp_path / "a.html", open_browser=False, **wrong)
    assert not (tmp_path / "a.html").exists()


@pytest.mark.browser
def test_the_first_view_is_seen_rests_and_is_what_the_page_goes_back_to(browser, tmp_path):
    tilted = Panorama(picture(300), pose=Pose(heading=40.0, view_heading=10.0, view_pitch=-20.0))
    page = tilted.view(tmp_path / "a.html", open_browser=False, yaw=120, fov=50)
    browser.open(page)
    # What is not given is as the picture says; yaw is from its middle.
    assert browser.run("dit360.view()") == {"yaw": 120, "pitch": -20, "fov": 50}
    assert np.abs(browser.see() - expected(120, -20, 50, WIDTH, HEIGHT)).max() <= 5
    browser.rests()
    browser.run("dit360.view({yaw: 0, pitch: 0, fov: 90})")
    browser.run("document.querySelector('#home').click()")
    browser.until('JSON.stringify(dit360.view()) === \'{"yaw":120,"pitch":-20,"fov":50}\'')
    browser.open(page, "#yaw=5")  # an address goes before it
    assert browser.run("dit360.view().yaw") == 5


# ------------------------------------------------------------------------------------------------- the address


@pytest.mark.browser
def test_a_link_shows_what_somebody_has_turned_to_and_the_history_stays_short(browser, page):
    browser.open(page, "#yaw=10&pitch=0&fov=60")
    entries = browser.run("history.length")
    browser.mouse("mousePressed", 160, 30, button="left", buttons=1, clickCount=1)
    for step in range(1, 5):
        browser.mouse("mouseMoved", 160 - 20 * step, 30 + 5 * step, button="left", buttons=1)
    browser.mouse("mouseReleased", 80, 50, button="left", clickCount=1)
    browser.key("-", "keyDown")
    browser.rests()
    browser.until(
        "(([view, told]) => view.fov > 60 && ['yaw', 'pitch', 'fov'].every((name) => "
        "Math.abs(told.get(name) - view[name]) < 0.006))([dit360.view(), new URLSearchParams(location.hash.slice(1))])"
    )
    assert browser.run("history.length") == entries
    view, fragment = browser.run("dit360.view()"), browser.run("location.hash")
    assert view["yaw"] > 20
    seen = browser.see()
    browser.open(page, fragment)
    again = browser.run("dit360.view()")
    assert again == pytest.approx(view, abs=0.006)
    assert np.abs(browser.see() - seen)[6:-6, 6:-6].max() <= 2  # around it is the line of what has the focus
    assert browser.run("location.hash") == fragment  # which nobody has turned away from


@pytest.mark.browser
def test_a_page_that_turns_by_itself_leaves_its_address_alone(browser, page):
    browser.open(page)
    browser.until("dit360.view().yaw > 0")
    browser.run("new Promise((done) => setTimeout(done, 500))")
    assert browser.run("location.hash") == ""


# ------------------------------------------------------------------------------------------------- the buttons

BUTTONS = "[...document.querySelectorAll('#controls button')].filter((one) => !one.hidden)"


@pytest.mark.browser
def test_every_button_has_a_name_a_place_for_the_focus_and_room_in_the_window(browser, page):
    browser.emulate(360, 640)
    try:
        browser.open(page, "#yaw=0", before=HEADSET)
        browser.until("!document.querySelector('#headset').hidden")
        browser.run("document.querySelector('#sensor').hidden = false")
        told = browser.run(
            f"{BUTTONS}.map((one) => {{ one.focus(); const at = one.getBoundingClientRect();"
            "return [one.id, one.getAttribute('aria-label'), one.title, document.activeElement === one,"
            " at.left >= 0 && at.right <= innerWidth && at.bottom <= innerHeight]; })"
        )
    finally:
        browser.emulate()
    assert [one[0] for one in told] == ["paint", "wider", "closer", "home", "keep", "sensor", "headset", "full"]
    assert all(name and title for _, name, title, _, _ in told)
    assert all(focused and inside for *_, focused, inside in told), told


@pytest.mark.browser
def test_what_the_device_lacks_has_no_button(browser, page):
    browser.open(page, "#yaw=0")
    browser.drawn()
    assert browser.run(f"{BUTTONS}.map((one) => one.id)") == ["paint", "wider", "closer", "home", "keep", "full"]
    browser.key("g", "keyDown")
    browser.key("h", "keyDown")
    assert browser.run("document.querySelector('#note').hidden") is True


@pytest.mark.browser
def test_the_full_screen_button_and_its_name(browser, page):
    browser.open(
        page,
        "#yaw=0",
        before="window.asked = 0; window.left = 0; let now = null;"
        "Object.defineProperty(Document.prototype, 'fullscreenElement', { get: () => now });"
        "const told = () => document.dispatchEvent(new Event('fullscreenchange'));"
        "Element.prototype.requestFullscreen = async function () { asked++; now = this; told(); };"
        "Document.prototype.exitFullscreen = async () => { left++; now = null; told(); };",
    )
    name = "document.querySelector('#full').getAttribute('aria-label')"
    assert browser.run(name) == "Full screen"
    browser.run("document.querySelector('#full').click()")
    assert browser.run("[asked, left]") == [1, 0]
    assert browser.run(name) == "Leave the full screen"
    browser.key("f", "keyDown")
    assert browser.run("[asked, left]") == [1, 1]
    assert browser.run(name) == "Full screen"


# ------------------------------------------------------------------------------------------------- a view as a file


@pytest.mark.browser
@pytest.mark.parametrize("way", ["the button", "the key"])
def test_a_view_is_saved_as_the_canvas_shows_it(browser, page, tmp_path, way):
    browser.emulate(120, 90, 2)
    try:
        browser.open(page, "#yaw=-40&pitch=20&fov=60")
        browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        if way == "the button":
            browser.run("document.querySelector('#keep').click()")
        else:
            browser.key("s", "keyDown")
        file, until = tmp_path / "harbour-view--40-20-60.png", time.monotonic() + 60
        while not file.exists():
            assert time.monotonic() < until, list(tmp_path.iterdir())
            time.sleep(0.02)
        shown = browser.see()
    finally:
        browser.emulate()
    with Image.open(io.BytesIO(file.read_bytes())) as image:
        assert image.format == "PNG"
        saved = np.asarray(image.convert("RGB")).astype(float)
    assert saved.shape == (180, 240, 3)  # pixels of the device
    assert np.array_equal(saved, shown)
    assert np.abs(saved - expected(-40, 20, 60, 240, 180)).max() <= 3


# ------------------------------------------------------------------------------------------------- a phone's sensor


def turn(browser: Viewer, alpha: float, beta: float, gamma: float) -> None:
    angles = f"{{ alpha: {alpha}, beta: {beta}, gamma: {gamma} }}"
    browser.run(f"dispatchEvent(new DeviceOrientationEvent('deviceorientation', {angles}))")


PRESSED = "document.querySelector('#sensor').getAttribute('aria-pressed')"


@pytest.mark.browser
def test_a_phone_that_is_turned_turns_the_view(browser, page):
    browser.open(page, "#yaw=30&pitch=10&fov=80")
    assert browser.run("document.querySelector('#sensor').hidden") is True
    browser.run("dispatchEvent(new DeviceOrientationEvent('deviceorientation', {}))")  # what a desktop sends
    assert browser.run("document.querySelector('#sensor').hidden") is True
    turn(browser, 100, 90, 0)
    assert browser.run("document.querySelector('#sensor').hidden") is False
    assert browser.run("dit360.view()") == {"yaw": 30, "pitch": 10, "fov": 80}  # nobody has asked for it yet
    browser.run("document.querySelector('#sensor').click()")
    assert browser.run(PRESSED) == "true"
    # Held upright, it looks at the horizon; counterclockwise is to the left; leaning back, it looks up.
    turn(browser, 100, 90, 0)
    assert browser.run("dit360.view()") == pytest.approx({"yaw": 30, "pitch": 0, "fov": 80})
    turn(browser, 80, 90, 0)
    assert browser.run("dit360.view()") == pytest.approx({"yaw": 50, "pitch": 0, "fov": 80})
    turn(browser, 80, 120, 0)
    assert browser.run("dit360.view()") == pytest.approx({"yaw": 50, "pitch": 30, "fov": 80})
    # On its side: the top to the left of an upright screen, turned about its long axis.
    turn(browser, 80 - 90, 0, -90)
    assert browser.run("dit360.view().pitch") == pytest.approx(0)
    # Over a full turn, nothing jumps.
    turn(browser, 1, 90, 0)
    before = browser.run("dit360.view().yaw")
    turn(browser, 359, 90, 0)
    assert browser.run("dit360.view().yaw") == pytest.approx(before + 2)
    browser.drawn()
    view = browser.run("dit360.view()")
    assert np.abs(browser.see() - expected(view["yaw"], view["pitch"], 80, WIDTH, HEIGHT)).max() <= 3
    browser.key("g", "keyDown")
    assert browser.run(PRESSED) == "false"
    turn(browser, 200, 60, 0)
    assert browser.run("dit360.view()") == view


@pytest.mark.browser
@pytest.mark.parametrize("answer", ["granted", "denied"])
def test_where_leave_is_needed_it_is_asked_for_and_a_refusal_is_told(browser, page, answer):
    ask = (
        "window.asked = 0; DeviceOrientationEvent.requestPermission = async () => { asked++; "
        f"return '{answer}'; }};"
        "const match = matchMedia; window.matchMedia = (query) => "
        "  query.includes('coarse') ? { matches: true } : match.call(window, query);"
    )
    browser.open(page, "#yaw=0&pitch=0&fov=80", before=ask)
    assert browser.run("document.querySelector('#sensor').hidden") is False
    assert browser.run("asked") == 0
    browser.run("document.querySelector('#sensor').click()")
    assert browser.run("asked") == 1
    turn(browser, 0, 90, 0)
    turn(browser, 350, 90, 0)
    if answer == "granted":
        assert browser.run("dit360.view().yaw") == pytest.approx(10)
    else:
        assert browser.run("dit360.view().yaw") == 0
        assert browser.run(PRESSED) == "false"
        assert "browser's settings can allow it" in browser.run("document.querySelector('#note').textContent")


# ------------------------------------------------------------------------------------------------- a headset

# A headset as WebXR describes one, in the test only: two lenses that look a little outwards, each 100 pixels wide. The
# layer is a framebuffer of the page's own context, so that what each eye gets can be read.
HEADSET = """
  window.kinds = []; window.frames = []; window.ended = 0;
  const projection = (left, right, down, up) => new Float32Array([
    2 / (right - left), 0, 0, 0, 0, 2 / (up - down), 0, 0,
    (right + left) / (right - left), (up + down) / (up - down), -1, -1, 0, 0, -0.2, 0]);
  const transform = (yaw, x) => { const [s, c] = [Math.sin(yaw), Math.cos(yaw)];  // about the axis upwards, to the left
    return { matrix: new Float32Array([c, 0, -s, 0, 0, 1, 0, 0, s, 0, c, 0, x, 0, 0, 1]) }; };
  window.EYES = [
    { eye: 'left', projectionMatrix: projection(-1.2, 0.8, -1, 1), transform: transform(0.1, -0.03) },
    { eye: 'right', projectionMatrix: projection(-0.8, 1.2, -1, 1), transform: transform(-0.1, 0.03) }];
  class Session extends EventTarget {
    updateRenderState(state) { this.state = state; }
    async requestReferenceSpace(kind) { kinds.push(kind); return {}; }
    requestAnimationFrame(then) { frames.push(then); }
    async end() { ended += 1; this.dispatchEvent(new Event('end')); }
  }
  window.XRWebGLLayer = class {
    constructor(session, gl) {
      this.framebuffer = gl.createFramebuffer();
      const texture = gl.createTexture();
      gl.activeTexture(gl.TEXTURE7);
      gl.bindTexture(gl.TEXTURE_2D, texture);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 200, 100, 0, gl.RGBA, gl.UNSIGNED_BYTE, null);
      gl.bindFramebuffer(gl.FRAMEBUFFER, this.framebuffer);
      gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
      gl.bindFramebuffer(gl.FRAMEBUFFER, null);
      window.layer = this; window.gl = gl;
    }
    getViewport(view) { return { x: view.eye === 'left' ? 0 : 100, y: 0, width: 100, height: 100 }; }
  };
  WebGLRenderingContext.prototype.makeXRCompatible = async () => {};
  window.asked = [];
  Object.defineProperty(navigator, 'xr', { value: {
    isSessionSupported: async (kind) => kind === 'immersive-vr',
    requestSession: async (kind) => { asked.push(kind); return window.session = new Session(); } } });
  window.show = () => frames.splice(0).forEach((then) => then(0, { getViewerPose: () => ({ views: EYES }) }));
  window.read = () => { const pixels = new Uint8Array(4 * 200 * 100);
    gl.bindFramebuffer(gl.FRAMEBUFFER, layer.framebuffer);
    gl.readPixels(0, 0, 200, 100, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
    return [...pixels]; };"""


def through(yaw: float, left: float, right: float) -> np.ndarray:
    """Colours (100, 100, 3) that an eye sees that looks there through a lens with these edges, from the top."""
    x, y = np.meshgrid(left + (np.arange(100) + 0.5) / 100 * (right - left), 1 - (np.arange(100) + 0.5) / 50)
    angle = np.radians(yaw)
    rays = np.stack((x * np.cos(angle) + np.sin(angle), y, -x * np.sin(angle) + np.cos(angle)), axis=-1)
    return 127.5 * (rays / np.linalg.norm(rays, axis=-1, keepdims=True) + 1)


@pytest.mark.browser
def test_in_a_headset_each_eye_has_its_own_view_through_its_own_lens(browser, page):
    browser.open(page, "#yaw=70&pitch=40&fov=60", before=HEADSET)
    browser.until("!document.querySelector('#headset').hidden")
    browser.run("document.querySelector('#headset').click()")
    browser.until("window.frames.length")
    assert browser.run("asked") == ["immersive-vr"]
    assert browser.run("session.state.baseLayer === layer") is True
    pressed = "document.querySelector('#headset').getAttribute('aria-pressed')"
    assert browser.run(pressed) == "true"
    browser.run("show()")
    seen = np.array(browser.run("read()"), float).reshape(100, 200, 4)[::-1, :, :3]
    # It begins where the page was turned to; how far up is the head's to say. Both eyes are turned outwards by 0.1.
    outwards = np.degrees(0.1)
    left, right = through(70 - outwards, -1.2, 0.8), through(70 + outwards, -0.8, 1.2)
    assert np.abs(seen[:, :100] - left).max() <= 4
    assert np.abs(seen[:, 100:] - right).max() <= 4
    assert np.abs(left - right).max() > 40
    assert browser.run("window.frames.length") == 1  # it goes on
    browser.key("h", "keyDown")
    browser.until("ended === 1")
    assert browser.run(pressed) == "false"
    browser.drawn()
    assert np.abs(browser.see() - expected(70, 40, 60, WIDTH, HEIGHT)).max() <= 3


@pytest.mark.browser
def test_a_headset_that_refuses_is_told(browser, page):
    refuse = "navigator.xr.requestSession = async () => { throw new Error('The headset is in use.'); };"
    browser.open(page, "#yaw=0", before=HEADSET + refuse)
    browser.until("!document.querySelector('#headset').hidden")
    browser.key("h", "keyDown")
    browser.until("!document.querySelector('#note').hidden")
    assert browser.run("document.querySelector('#note').textContent") == "The headset is in use."
    assert browser.run("document.querySelector('#headset').getAttribute('aria-pressed')") == "false"
