"""Masks that are painted in the viewer: round on the sphere, undone and done again, in a file that ``--mask`` takes."""

import io
import shlex
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import numpy as np
import pytest
from dit360_core.panorama.gpano import Pose
from dit360_core.panorama.picture import Panorama
from dit360_core.panorama.showing import write_viewer
from headless_browser import chromium, direction, picture
from PIL import Image
from viewer_page import HEIGHT, WIDTH, Viewer

SIZE = 12.0  # of the brush at first, in degrees across
ROWS = 300  # of the picture, and so of the mask
MIDDLE = (WIDTH / 2, HEIGHT / 2)
DIRECTIONS = direction(
    ((np.arange(2 * ROWS) + 0.5) / (2 * ROWS) - 0.5)[None, :] * 360,
    (0.5 - (np.arange(ROWS) + 0.5) / ROWS)[:, None] * 180,
)
"""(rows, columns, 3): where the centre of each pixel lies."""


class Page(Viewer):
    """One that is painted in. ``folder`` is where it downloads to."""

    folder: Path

    def paint(self, page: Path, fragment: str = "#yaw=0&pitch=0&fov=90", before: str = "", asks: bool = False) -> None:
        """Opens it and begins to paint."""
        self.open(page, fragment, f"{before};", asks)
        self.press("p")
        assert self.run("document.documentElement.classList.contains('masking')") is True
        self.see()  # in so small a window the tools would lie over what is painted

    def press(self, *names: str, **more: object) -> None:
        for name in names:
            self.call("Input.dispatchKeyEvent", type="keyDown", key=name, text=name if len(name) == 1 else "", **more)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=name, **more)

    def stroke(self, *points: tuple[float, float], button: str = "left", modifiers: int = 0) -> None:
        held = {"button": button, "buttons": 1 if button == "left" else 2, "modifiers": modifiers}
        self.mouse("mouseMoved", *points[0])
        self.mouse("mousePressed", *points[0], clickCount=1, **held)
        for point in points[1:]:
            self.mouse("mouseMoved", *point, **held)
        self.mouse("mouseReleased", *points[-1], button=button, clickCount=1)

    def fingers(self, kind: str, *points: tuple[float, float], at: float) -> None:
        """at: seconds since the epoch; how long it takes to tell Chromium must not count."""
        touches = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        self.call("Input.dispatchTouchEvent", type=kind, touchPoints=touches, timestamp=at)

    def click(self, name: str) -> None:
        """One of the tools."""
        self.run(f"document.querySelector('.painting [data-name={name}]').click()")

    def resize(self, size: float) -> None:
        """Moves the slider."""
        self.run(
            "((slider) => { slider.step = 'any'; "
            f"slider.value = Math.log({size} / 0.5) / Math.log(60 / 0.5); slider.dispatchEvent(new Event('input'));"
            "})(document.querySelector('.painting input[type=range]'))"
        )

    def saved(self) -> Image.Image:
        """The mask, as the button saves it."""
        for path in self.folder.iterdir():
            path.unlink()
        self.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(self.folder))
        self.click("save")
        until = time.monotonic() + 60
        while not (found := list(self.folder.glob("*.png"))):
            assert time.monotonic() < until, self.status()
            time.sleep(0.02)
        [path] = found
        image = Image.open(io.BytesIO(path.read_bytes()))
        image.filename = path.name
        return image

    def mask(self) -> np.ndarray:
        """The values of it, (rows, columns)."""
        return np.asarray(self.saved())

    def open_mask(self, path: Path) -> str:
        """Chooses a file, and what is said then."""
        before = self.status()
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        found = self.call("DOM.querySelector", nodeId=root, selector=".painting input[type=file]")
        self.call("DOM.setFileInputFiles", nodeId=found["nodeId"], files=[str(path)])
        self.until(f"document.querySelector('.painting-status').textContent !== {before!r}")
        return self.status()

    def status(self) -> str:
        return str(self.run("document.querySelector('.painting-status').textContent"))

    def command(self, prompt: str | None = None, shell: str = "sh") -> str:
        """What the page shows to be run; with other words in the field for them."""
        self.run(
            "((field, shells) => { "
            + (f"field.value = {prompt!r};" if prompt is not None else "")
            + f"shells.value = '{shell}'; field.dispatchEvent(new Event('input'));"
            "})(document.querySelector('#prompt'), document.querySelector('#shells'))"
        )
        return str(self.run("document.querySelector('#command').textContent"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile"), Page) as browser:
        browser.folder = tmp_path_factory.mktemp("downloads")
        yield browser


@pytest.fixture(scope="module")
def panorama() -> Panorama:
    return Panorama(picture(ROWS), settings={"prompt": "a quiet harbour, dawn"})


@pytest.fixture(scope="module")
def page(tmp_path_factory, panorama) -> Path:
    folder = tmp_path_factory.mktemp("page")
    return write_viewer(panorama.save(folder / "harbour.png"), folder / "harbour.html")


def ray(x: float, y: float, yaw: float, pitch: float, fov: float) -> np.ndarray:
    """The direction that the window shows at a point."""
    pixel = 2 * np.tan(np.radians(fov / 2)) / max(WIDTH, HEIGHT)
    turn = np.stack((direction(yaw + 90, 0), direction(yaw, pitch + 90), direction(yaw, pitch)))
    seen = np.array([(x - WIDTH / 2) * pixel, (HEIGHT / 2 - y) * pixel, 1.0]) @ turn
    return seen / np.linalg.norm(seen)


def arc(directions: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Degrees of arc between directions (…, 3) and another."""
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(directions, other), axis=-1), directions @ other))


def from_segment(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Degrees between every pixel and the arc of a great circle."""
    pole = np.cross(start, end)
    pole /= np.linalg.norm(pole)
    beside = np.degrees(np.abs(np.arcsin(np.clip(DIRECTIONS @ pole, -1, 1))))
    within = (np.cross(start, DIRECTIONS) @ pole >= 0) & (np.cross(DIRECTIONS, end) @ pole >= 0)
    return np.where(within, beside, np.minimum(arc(DIRECTIONS, start), arc(DIRECTIONS, end)))


def assert_painted(mask: np.ndarray, distance: np.ndarray, size: float, slack: float = 1e-6) -> None:
    """White within the brush's radius, black outside of it. slack: degrees beside the edge where either is right."""
    assert mask.shape == distance.shape
    radius = size / 2
    assert (mask[distance <= radius - slack] == 255).all()
    assert (mask[distance >= radius + slack] == 0).all()
    assert (mask == 255).any()
    assert (mask == 0).any()


# ------------------------------------------------------------------------------------------------- on the sphere


DABS = [
    (0, 0, 90, MIDDLE, SIZE),
    (180, 0, 90, MIDDLE, SIZE),  # half of it on either edge of the picture
    (178, 30, 60, (131, 70), 40.0),
    (0, 90, 90, MIDDLE, SIZE),  # the zenith
    (123, -90, 75, MIDDLE, 40.0),
    (-40, 84, 90, (150, 60), 40.0),  # a pole is within it, but is not its centre
    (60, -70, 110, (30, 150), SIZE),
]


@pytest.mark.browser
def test_a_dab_is_round_on_the_sphere_wherever_it_is(browser, page):
    browser.paint(page)
    for yaw, pitch, fov, point, size in DABS:
        browser.click("clear")
        browser.run(f"dit360.view({{ yaw: {yaw}, pitch: {pitch}, fov: {fov} }})")
        browser.resize(size)
        browser.stroke(point)
        assert_painted(browser.mask(), arc(DIRECTIONS, ray(*point, yaw, pitch, fov)), size)


@pytest.mark.browser
def test_a_stroke_is_as_wide_everywhere_over_the_meridian_and_a_pole_too(browser, page):
    browser.paint(page)
    pixel, points = 180 / ROWS, ((40, 60), (210, 130))
    for yaw, pitch, size in [(180, 0, SIZE), (20, 90, SIZE), (77, -88, 3.0), (90, 40, 0.5)]:
        browser.click("clear")
        browser.run(f"dit360.view({{ yaw: {yaw}, pitch: {pitch}, fov: 100 }})")
        browser.resize(size)
        browser.stroke(*points)
        distance = from_segment(*(ray(*point, yaw, pitch, 100) for point in points))
        mask = browser.mask()
        if size > 2 * pixel:
            assert_painted(mask, distance, size, slack=pixel / 4)
        else:  # thinner than a pixel: what it goes over, without a gap
            assert (mask[distance > pixel] == 0).all()
            assert (mask[distance < pixel / 4] == 255).all()


@pytest.mark.browser
def test_the_brush_paints_what_it_is_over_in_a_tilted_picture(browser, tmp_path):
    tilted = Panorama(picture(ROWS), pose=Pose(heading=40.0, pitch=25.0, roll=-30.0))
    browser.paint(write_viewer(tilted.save(tmp_path / "a.png"), tmp_path / "a.html"), "#yaw=100&pitch=35&fov=90")
    before = browser.see()
    browser.stroke((150, 60))
    # The colour of each pixel says where it lies in the picture.
    seen = before[60, 150] / 127.5 - 1
    mask = browser.mask()
    middle = DIRECTIONS[mask == 255].mean(axis=0)
    assert arc(middle, seen) < 1
    assert_painted(mask, arc(DIRECTIONS, middle / np.linalg.norm(middle)), SIZE, slack=180 / ROWS)


@pytest.mark.browser
def test_the_circle_of_the_brush_is_as_large_as_what_it_paints(browser, page):
    browser.paint(page, "#yaw=180&pitch=70&fov=90")
    browser.mouse("mouseMoved", 150, 60)
    outline = browser.run("document.querySelector('.painting-ring .over').getAttribute('d')")
    corners = [tuple(map(float, corner.split())) for corner in outline[1:].split("L")]
    assert len(corners) > 60
    middle = ray(150, 60, 180, 70, 90)
    sizes = [2 * arc(ray(*corner, 180, 70, 90), middle) for corner in corners]
    assert np.ptp(sizes) < 0.1
    assert np.mean(sizes) == pytest.approx(SIZE, abs=0.05)


@pytest.mark.browser
def test_what_is_painted_is_seen_half_transparent_and_nothing_else_changes(browser, page):
    browser.paint(page)
    before = browser.see()
    browser.stroke((60, 90))
    browser.drawn()
    after = browser.see()
    changed = np.abs(after - before).max(axis=-1)
    assert changed[90, 60] > 40
    assert changed[86:95, 50:70].min() > 20  # stripes, of which both hide a part
    assert changed[:, 120:].max() == 0
    browser.press("p")
    browser.drawn()
    assert np.abs(browser.see() - before).max() <= 1


# ------------------------------------------------------------------------------------------------- its tools


@pytest.mark.browser
def test_erase_undo_redo_invert_and_clear(browser, page):
    browser.paint(page)
    browser.stroke((60, 90), (180, 90))
    drawn = browser.mask()
    browser.press("e")
    browser.stroke((120, 90))
    erased = browser.mask()
    hole = arc(DIRECTIONS, ray(120, 90, 0, 0, 90)) <= SIZE / 2
    assert np.array_equal(erased, np.where(hole, 0, drawn))
    browser.press("b")
    browser.stroke((120, 90), modifiers=8)  # shift: the other way round
    assert np.array_equal(browser.mask(), erased)
    browser.press("z", modifiers=2)
    browser.press("z", modifiers=2)
    assert np.array_equal(browser.mask(), drawn)
    browser.press("y", modifiers=2)
    assert np.array_equal(browser.mask(), erased)
    browser.click("invert")
    assert np.array_equal(browser.mask(), 255 - erased)
    browser.click("clear")
    assert "Drag over what is to be made anew" in browser.status()
    assert browser.run("document.querySelector('[data-name=save]').disabled") is True
    for _ in range(2):
        browser.click("undo")
    assert np.array_equal(browser.mask(), erased)
    assert browser.run("document.querySelector('[data-name=redo]').disabled") is False
    browser.stroke((30, 30))  # a new branch, of which nothing leads back to the other
    assert browser.run("document.querySelector('[data-name=redo]').disabled") is True


@pytest.mark.browser
def test_the_part_of_the_sphere_that_is_painted_is_told(browser, page):
    browser.paint(page, "#yaw=0&pitch=90&fov=90")
    browser.resize(60)
    browser.stroke(MIDDLE)
    assert browser.status() == f"{50 * (1 - np.cos(np.radians(30))):.1f} % of the sphere is painted."
    browser.press("[", "[")
    assert browser.run("document.querySelector('.painting output').textContent") == f"{60 / 1.2**2:.0f}°"


@pytest.mark.browser
def test_the_camera_moves_while_the_brush_is_in_the_hand(browser, page):
    browser.paint(page)
    browser.stroke((120, 90), (100, 90), (90, 90), button="right")
    assert browser.run("dit360.view().yaw") > 5
    browser.run("location.hash = '#yaw=0&pitch=1'; 0")
    browser.until("dit360.view().pitch === 1")
    browser.press("v")
    browser.stroke((120, 90), (100, 90), (90, 90))
    assert browser.run("dit360.view().yaw") > 5
    browser.mouse("mouseWheel", 160, 50, deltaX=0, deltaY=-240)
    browser.until("dit360.view().fov < 66")
    assert browser.run("document.querySelector('[data-name=undo]').disabled") is True  # nothing was painted


@pytest.mark.browser
def test_one_finger_paints_and_two_move_the_camera(browser, page):
    browser.paint(page)
    now = time.time()
    browser.fingers("touchStart", (100, 90), at=now)
    browser.fingers("touchMove", (110, 90), at=now + 0.05)
    browser.fingers("touchEnd", at=now + 0.10)
    drawn = browser.mask()
    assert drawn.any()
    assert browser.run("dit360.view()") == {"yaw": 0, "pitch": 0, "fov": 90}
    # The first of two fingers meant to paint as little as the second one.
    browser.fingers("touchStart", (100, 60), at=now + 0.15)
    browser.fingers("touchStart", (100, 60), (140, 60), at=now + 0.20)
    browser.fingers("touchMove", (80, 60), (160, 60), at=now + 0.25)
    browser.fingers("touchEnd", at=now + 0.30)
    assert browser.run("dit360.view().fov") == pytest.approx(45, rel=0.05)
    assert np.array_equal(browser.mask(), drawn)


@pytest.mark.browser
def test_the_keyboard_alone_paints(browser, page):
    browser.paint(page)
    browser.key(" ", "keyDown")
    browser.key("ArrowRight", "keyDown")
    browser.until("dit360.view().yaw > 20")
    browser.key("ArrowRight", "keyUp")
    browser.rests()
    browser.key(" ", "keyUp")
    yaw = browser.run("dit360.view().yaw")
    assert_painted(browser.mask(), from_segment(direction(0, 0), direction(yaw, 0)), SIZE, slack=180 / ROWS)
    browser.press("Escape")
    assert browser.run("document.documentElement.classList.contains('masking')") is False


@pytest.mark.browser
def test_keys_in_the_field_for_words_are_text(browser, page):
    browser.paint(page)
    browser.run("document.querySelector('#anew').style.visibility = ''; document.querySelector('#how').open = true; 0")
    browser.run("document.querySelector('#prompt').focus()")
    browser.press("e", " ", "p", "z")
    assert browser.run("document.querySelector('#prompt').value").count("e pz") == 1
    assert browser.run("document.querySelector('[data-name=paint]').getAttribute('aria-pressed')") == "true"


# ------------------------------------------------------------------------------------------------- the file


@pytest.mark.browser
def test_the_file_is_grey_of_8_bits_and_of_the_picture_s_size(browser, page):
    browser.paint(page)
    browser.stroke(MIDDLE)
    saved = browser.saved()
    assert (saved.format, saved.mode, saved.size) == ("PNG", "L", (2 * ROWS, ROWS))
    assert saved.filename == "harbour-mask.png"
    values = np.asarray(saved)
    browser.paint(page, before="delete window.CompressionStream")  # browsers before 2023
    browser.stroke(MIDDLE)
    assert np.array_equal(browser.mask(), values)


@pytest.mark.browser
def test_a_mask_is_opened_and_gone_on_with(browser, page, tmp_path):
    browser.paint(page)
    rng = np.random.default_rng(3)
    grey = rng.integers(0, 256, (ROWS, 2 * ROWS)).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert "of the sphere is painted" in browser.open_mask(tmp_path / "grey.png")
    dab = arc(DIRECTIONS, direction(0, 0)) <= SIZE / 2
    near = (grey <= 2) | (grey >= 253)
    assert np.array_equal(browser.mask()[~near], grey[~near])  # shades are kept
    browser.stroke(MIDDLE)
    assert (browser.mask()[dab] == 255).all()
    assert np.array_equal(browser.mask()[~near & ~dab], grey[~near & ~dab])
    browser.click("undo")
    browser.click("undo")
    assert "Drag over" in browser.status()
    # Half as large, or larger, and black and white: so it stays.
    for rows in (ROWS // 2, 2 * ROWS):
        large = np.zeros((rows, 2 * rows), np.uint8)
        large[: rows // 3, rows:] = 255
        Image.fromarray(large).convert("RGB").save(tmp_path / f"{rows}.png")
        browser.open_mask(tmp_path / f"{rows}.png")
        wanted = np.zeros((ROWS, 2 * ROWS), np.uint8)
        wanted[: ROWS // 3, ROWS:] = 255
        assert np.array_equal(browser.mask(), wanted)
        browser.click("clear")


@pytest.mark.browser
def test_a_file_that_is_no_mask_is_told_and_changes_nothing(browser, page, tmp_path):
    browser.paint(page)
    browser.stroke(MIDDLE)
    drawn = browser.mask()
    Image.new("L", (70, 60)).save(tmp_path / "square.png")
    (tmp_path / "text.png").write_text("no picture")
    assert "square.png is 70×60, but a mask is twice as wide as high" in browser.open_mask(tmp_path / "square.png")
    assert "text.png is no picture that this browser can read" in browser.open_mask(tmp_path / "text.png")
    assert np.array_equal(browser.mask(), drawn)


@pytest.mark.browser
def test_the_mask_of_what_the_device_cannot_hold_is_smaller_and_told(browser, page):
    small = (
        "const get = WebGLRenderingContext.prototype.getParameter;"
        "WebGLRenderingContext.prototype.getParameter = function (name) {"
        "  return name === WebGLRenderingContext.MAX_TEXTURE_SIZE ? 256 : get.call(this, name); }"
    )
    browser.paint(page, before=small)
    assert "256×128" in browser.status()
    browser.stroke(MIDDLE)
    assert browser.mask().shape == (128, 256)


@pytest.mark.browser
def test_whoever_leaves_with_an_unsaved_mask_is_asked(browser, page):
    browser.paint(page, asks=True)
    asked: Callable[[dict], bool] = lambda message: message.get("method") == "Page.javascriptDialogOpening"  # noqa: E731
    browser.stroke(MIDDLE)
    browser.run("setTimeout(() => location.reload(), 0); 0")
    assert browser.wait(asked)["params"]["type"] == "beforeunload"
    browser.call("Page.handleJavaScriptDialog", accept=False)
    browser.mask()  # saves it
    browser.events.clear()
    browser.run("window.stays = 1; setTimeout(() => location.reload(), 0); 0")
    browser.wait(lambda message: message.get("method") == "Page.loadEventFired")
    assert browser.run("window.stays") is None
    assert not any(map(asked, browser.events))


@pytest.mark.browser
def test_a_mask_outlives_the_graphics_device(browser, page):
    keep = (
        "const get = HTMLCanvasElement.prototype.getContext;"
        "HTMLCanvasElement.prototype.getContext = function (...a) { return window.context = get.apply(this, a); }"
    )
    browser.paint(page, before=keep)
    browser.stroke((60, 90))
    browser.drawn()
    before = browser.see()
    browser.run(
        "new Promise((done) => { const canvas = document.querySelector('canvas');"
        "const drawn = () => requestAnimationFrame(() => requestAnimationFrame(done));"
        "canvas.addEventListener('webglcontextrestored', drawn);"
        "const lose = context.getExtension('WEBGL_lose_context');"
        "canvas.addEventListener('webglcontextlost', () => setTimeout(() => lose.restoreContext(), 50));"
        "lose.loseContext(); })"
    )
    assert np.abs(browser.see() - before).max() <= 1


@pytest.mark.browser
def test_painting_asks_nothing_of_the_network_and_breaks_no_rule_of_the_page(browser, page, tmp_path):
    browser.paint(page)
    browser.stroke(MIDDLE)
    browser.saved().save(tmp_path / "a.png")
    browser.open_mask(tmp_path / "a.png")
    asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert [url.split("?")[0] for url in asked if not url.startswith(("data:", "blob:"))] == [page.as_uri()]
    complaints = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    assert [event for event in browser.events if event["method"] in complaints] == []


# ------------------------------------------------------------------------------------------------- the command


@pytest.mark.browser
def test_the_command_names_the_picture_its_mask_and_what_it_becomes(browser, page):
    browser.paint(page)
    assert browser.command() == (
        'dit360 generate "a quiet harbour, dawn" --image harbour.png --mask harbour-mask.png -o harbour-edited.png'
    )
    assert browser.run("document.querySelector('#anew').textContent").count("beside harbour.png") == 1
    assert browser.run("document.querySelector('#shells').hidden") is True  # it is right in every shell
    browser.command('a "quiet" harbour')
    assert browser.run("document.querySelector('#shells').hidden") is False


PROMPTS = [
    "a 'red' boat",
    'a "red" boat',
    "$(touch hacked) `touch hacked` ${HOME} !! \\",
    "* ; touch hacked & # | > hacked",
    "two\nlines\tand \x1b[31mcolours\x7f",
    "-o is no option",
    "--force",
    "港 · Häfen – “sea” ‘air’ 100% 🏔",
    "",
]


@pytest.fixture(scope="module")
def shell(tmp_path_factory) -> Callable[[str], list[str]]:
    """Runs a command line in sh, and tells the arguments that ``dit360`` is given."""
    folder = tmp_path_factory.mktemp("shell")
    program = folder / "dit360"
    program.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IEXEC)

    def run(line: str) -> list[str]:
        done = subprocess.run(
            ["bash", "-c", line], capture_output=True, cwd=folder, env={"PATH": f"{folder}:/usr/bin:/bin", "HOME": "x"}
        )
        assert (done.returncode, done.stderr) == (0, b""), (line, done.stderr)
        assert [path.name for path in folder.iterdir()] == ["dit360"]
        return done.stdout.decode().split("\0")[:-1]

    return run


@pytest.mark.browser
@pytest.mark.skipif(not Path("/bin/sh").exists(), reason="needs a POSIX shell")
def test_whatever_the_words_are_a_shell_takes_them_as_one_argument(browser, page, shell):
    browser.paint(page)
    for prompt in PROMPTS:
        line = browser.command(prompt)
        words = " ".join("".join(c if c.isprintable() else " " for c in prompt).split()) or "…"
        given = shell(line)
        assert given[0] == "generate"
        options = ["--image", "harbour.png", "--mask", "harbour-mask.png", "-o", "harbour-edited.png"]
        if prompt.startswith("-"):
            assert given[1:] == [*options, "--", words]
        else:
            assert [" ".join(given[1].split()), *given[2:]] == [words, *options]
        assert "\n" not in line


@pytest.mark.browser
@pytest.mark.skipif(not Path("/bin/sh").exists(), reason="needs a POSIX shell")
@pytest.mark.parametrize(
    "name", ['a b\'s $(touch hacked) `x` "q" & ;.webp', "-rf.jpg", "new\nline.png", "härbour.tar.JPEG"]
)
def test_whatever_the_file_s_name_is_a_shell_takes_it_as_one_argument(browser, panorama, shell, tmp_path, name):
    browser.paint(write_viewer(panorama.save(tmp_path / name), tmp_path / "a.html"))
    stem, suffix = name.rsplit(".", 1)
    begin = "./" if name.startswith("-") else ""
    edited = f"{begin}{stem}-edited.{suffix if suffix in ('png', 'webp') else 'jpg'}"
    given = shell(browser.command())
    assert given[2:] == ["--image", begin + name, "--mask", f"{begin}{stem}-mask.png", "-o", edited]


@pytest.mark.browser
def test_powershell_has_a_command_of_its_own(browser, page):
    browser.paint(page)
    line = browser.command('it\'s $HOME ‘here’ "now"', shell="powershell")
    assert line.startswith("dit360 generate 'it''s $HOME ‘‘here’’ ”now”' --image harbour.png ")


# ------------------------------------------------------------------------------------------------- what it is told


def told(page: Path) -> tuple[str, ...]:
    text = page.read_text("utf-8")
    return tuple(text.partition(f'data-{name}="')[2].partition('"')[0] for name in ("file", "model", "part"))


def test_the_page_knows_the_name_of_the_file_and_the_model(panorama, tmp_path):
    panorama.save(tmp_path / "sea.jpg")
    assert told(write_viewer(tmp_path / "sea.jpg", tmp_path / "a.html")) == ("sea.jpg", "", "false")
    opened = Panorama.open(tmp_path / "sea.jpg")
    assert told(opened.view(tmp_path / "b.html", open_browser=False)) == ("sea.jpg", "", "false")
    # Pixels that are in no file have no name; who saved them knows it.
    assert told(opened.roll(90).view(tmp_path / "c.html", open_browser=False)) == ("", "", "false")
    page = panorama.view(tmp_path / "d.html", open_browser=False, file=tmp_path / "other.png")
    assert told(page) == ("other.png", "", "false")
    made = attrs.evolve(panorama, settings={"prompt": "x", "requested": {"model": "dit360"}})
    assert told(made.view(tmp_path / "e.html", open_browser=False)) == ("", "dit360", "false")
    odd = attrs.evolve(panorama, settings={"requested": ["model"]})
    assert told(odd.view(tmp_path / "f.html", open_browser=False)) == ("", "", "false")


@pytest.mark.browser
def test_the_command_asks_for_the_model_that_made_the_picture(browser, panorama, tmp_path):
    made = attrs.evolve(panorama, settings={"requested": {"model": "my models/a"}})
    browser.paint(made.view(tmp_path / "a.html", open_browser=False))
    assert shlex.split(browser.command("sea")) == [
        "dit360", "generate", "sea", "--image", "panorama.jpg", "--mask", "panorama-mask.png", "-o",
        "panorama-edited.jpg", "--model", "my models/a",
    ]  # fmt: skip
    assert "Save the picture as panorama.jpg" in browser.run("document.querySelector('#anew').textContent")
