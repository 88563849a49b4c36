"""The viewer's page of a 16K picture: full detail in every direction by tiles, in small steps of work."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from dit360_core.panorama import tiles
from dit360_core.panorama.picture import Panorama
from headless_browser import chromium, expected, picture
from PIL import Image
from viewer_page import Viewer

COLUMNS, ROWS = 16384, 8192
WINDOW = (960, 96)  # 2722 pixels a radian at 20°, where the picture has 2608; low, since software draws it

# ------------------------------------------------------------------------------------------------- the tiles


@pytest.mark.parametrize("rows", [700, 1016, 1017])
def test_tiles_are_the_picture_with_a_rim_that_goes_on_over_the_meridian_and_the_poles(rows):
    pixels = np.random.default_rng(0).integers(0, 256, (rows, 2 * rows, 3), np.uint8)
    # A pole is crossed to the opposite meridian: rows in the reverse order, half a turn away.
    across = np.roll(pixels, rows, axis=1)
    around = np.concatenate((across[1::-1], pixels, across[:-3:-1]))
    around = np.concatenate((around[:, -2:], around, around[:, :2]), axis=1)
    seen = np.zeros((rows, 2 * rows), bool)
    for tile in tiles.cut(Image.fromarray(pixels)):
        left, top = tile.column * tiles.INNER, tile.row * tiles.INNER
        width, height = tile.picture.size
        assert max(width, height) <= tiles.SIDE
        assert np.array_equal(np.asarray(tile.picture), around[top : top + height, left : left + width])
        assert not seen[top : top + height - 4, left : left + width - 4].any()
        seen[top : top + height - 4, left : left + width - 4] = True
    assert seen.all()


def test_each_level_is_half_as_wide_as_the_next_down_to_the_preview():
    sizes = [level.size for level in tiles.halves(Image.new("RGB", (9002, 4501)))]
    assert sizes == [(1124, 562), (2250, 1125), (4500, 2250), (9002, 4501)]
    pixels = np.arange(16 * 8 * 3, dtype=np.uint8).reshape(8, 16, 3)
    large = Image.fromarray(pixels.repeat(512, axis=0).repeat(512, axis=1))
    assert np.array_equal(np.asarray(tiles.halves(large)[0])[::128, ::128], pixels)


def test_a_picture_of_4096_columns_is_still_in_one_piece_and_a_wider_one_in_tiles(tmp_path):
    made = {width: Panorama(Image.new("RGB", (width, width // 2))) for width in (4096, 4100)}
    pages = {
        width: panorama.view(tmp_path / f"{width}.html", open_browser=False).read_text("utf-8")
        for width, panorama in made.items()
    }
    assert 'id="tile-' not in pages[4096]
    assert 'data-levels="[]"' in pages[4096]
    assert pages[4100].count('id="tile-4100-') == 9 * 5
    assert 'data-levels="[[2050, 1025], [4100, 2050]]"' in pages[4100]
    for page in pages.values():
        assert page.count("<script>") == 1
        assert "connect-src" not in page


# ------------------------------------------------------------------------------------------------- in a browser

# (yaw, pitch) → the colour of its mark. Lines of one pixel, black and of that colour, lie around it: at half the size
# they are an even shade. Columns all around the sphere, rows at the poles.
MARKS = {
    (0, 0): (255, 0, 0),
    (77, 50): (0, 255, 0),
    (-130, -35): (0, 0, 255),
    (180, 10): (255, 255, 0),
    (0, 90): (255, 0, 255),
    (0, -90): (0, 255, 255),
}
HALF = 90  # pixels of a mark to each side


def large() -> Image.Image:
    """Each pixel's colour is its direction, as in ``picture``, but for the marks."""
    image = picture(512).resize((COLUMNS, ROWS), Image.Resampling.BICUBIC)
    for (yaw, pitch), colour in MARKS.items():
        lines = np.zeros((2 * HALF, 2 * HALF, 3), np.uint8)
        if abs(pitch) == 90:
            lines = np.zeros((HALF, COLUMNS, 3), np.uint8)
            lines[::2] = colour
            image.paste(Image.fromarray(lines), (0, 0 if pitch > 0 else ROWS - HALF))
            continue
        lines[:, ::2] = colour
        x, y = round((yaw / 360 + 0.5) * COLUMNS), round((0.5 - pitch / 180) * ROWS)
        for left in (x - HALF, x - HALF - COLUMNS):
            image.paste(Image.fromarray(lines), (left, y - HALF))
    return image


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Viewer]:
    with chromium(tmp_path_factory.mktemp("profile"), Viewer) as browser:
        browser.emulate(*WINDOW)
        yield browser


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory) -> Path:
    """After the browser, without which none is made."""
    return Panorama(large()).view(tmp_path_factory.mktemp("large") / "large.html", open_browser=False)


def look(browser: Viewer, yaw: float, pitch: float, fov: float = 20) -> np.ndarray:
    """What is seen once every tile is there, (H, W, 3)."""
    browser.run(f"dit360.view({{yaw: {yaw}, pitch: {pitch}, fov: {fov}}}); dit360.settled()")
    assert browser.run("dit360.tiles().busy") is False
    return browser.see()


def small_textures(most: int) -> str:
    return (
        "const get = WebGLRenderingContext.prototype.getParameter;"
        "WebGLRenderingContext.prototype.getParameter = function (name) {"
        f"  return name === WebGLRenderingContext.MAX_TEXTURE_SIZE ? {most} : get.call(this, name); }};"
        "for (const name of ['texImage2D', 'texSubImage2D']) {"
        "  const put = WebGLRenderingContext.prototype[name];"
        "  WebGLRenderingContext.prototype[name] = function (...given) {"
        "    const last = given.at(-1), empty = given.length > 6 && name === 'texImage2D';"
        "    const wide = empty ? given[3] : (last?.naturalWidth ?? last?.width ?? 0);"
        f"    if (wide > {most}) throw new Error(`a texture of ${{wide}}`); return put.apply(this, given); }}; }}"
    )


@pytest.mark.browser
@pytest.mark.parametrize("most", [None, 8192, 4096])
def test_every_mark_is_seen_in_full_detail_whatever_the_device_holds(browser, page, most):
    browser.open(page, "#yaw=0&pitch=0&fov=20", before=small_textures(most) if most else "")
    assert browser.run("dit360.ready") is True
    assert browser.run("document.querySelector('#note').hidden") is True
    height, width = WINDOW[1], WINDOW[0]
    for (yaw, pitch), colour in MARKS.items():
        seen = look(browser, yaw, pitch)
        middle = seen[height // 2 - 20 : height // 2 + 20, width // 2 - 30 : width // 2 + 30]
        on = [channel for channel in range(3) if colour[channel]]
        off = [channel for channel in range(3) if not colour[channel]]
        # Lines that are one pixel wide: even at half of the size both would be 127.
        assert np.percentile(middle[..., on], 95) > 190, (yaw, pitch)
        assert np.percentile(middle[..., on], 5) < 65, (yaw, pitch)
        assert np.percentile(middle[..., off], 95) < 40, (yaw, pitch)


@pytest.mark.browser
def test_no_edge_of_a_tile_is_seen_at_the_meridian_the_poles_or_elsewhere(browser, page):
    browser.open(page, "#yaw=0&pitch=0&fov=20")
    off = {}
    for yaw, pitch, fov in [(180, -15, 20), (-176, 40, 60), (11, 5, 30), (60, 78, 40), (-20, -75, 100), (100, 0, 120)]:
        seen = look(browser, yaw, pitch, fov)
        off[yaw, pitch, fov] = np.abs(seen - expected(yaw, pitch, fov, *WINDOW))[marks_away(yaw, pitch, fov)].max()
    assert max(off.values()) <= 5, off


def marks_away(yaw: float, pitch: float, fov: float) -> np.ndarray:
    """Where no mark is near, (H, W)."""
    ray = expected(yaw, pitch, fov, *WINDOW) / 127.5 - 1
    away = np.abs(ray[..., 1]) < np.cos(np.radians(2.3))
    for where in MARKS:
        across, up = np.radians(where)
        to = np.array([np.cos(up) * np.sin(across), np.sin(up), np.cos(up) * np.cos(across)])
        away &= ray @ to < np.cos(np.radians(4.5))
    return away


# What the page does in each frame and in each of its tasks, told by what it calls.
STEPS = """
  window.frames_ = [0]; window.pieces = []; window.whole = []; window.decoded = [];
  const ask = requestAnimationFrame;
  window.requestAnimationFrame = (then) => ask((now) => { frames_.push(0); then(now); });
  const kind = WebGLRenderingContext.prototype, { texSubImage2D, texImage2D } = kind;
  kind.texSubImage2D = function (...given) {
    frames_[frames_.length - 1] += 1;
    pieces.push(given.at(-1) instanceof ImageBitmap ? given.at(-1).width : 0);
    return texSubImage2D.apply(this, given); };
  kind.texImage2D = function (...given) {
    if (given.length === 6) whole.push(given[5].naturalWidth ?? given[5].width);
    return texImage2D.apply(this, given); };
  const make = createImageBitmap;
  window.createImageBitmap = (source, ...more) => {
    decoded.push(source.constructor.name);
    return make(source, ...more); };
  CanvasRenderingContext2D.prototype.drawImage = () => { throw new Error('this decodes at once'); };"""


@pytest.mark.browser
def test_the_work_is_cut_into_pieces_and_a_frame_has_one_of_them(browser, page):
    browser.open(page, "#yaw=0&pitch=0&fov=20", before=STEPS)
    seen = look(browser, 60, 80, 60)
    assert np.abs(seen - expected(60, 80, 60, *WINDOW))[marks_away(60, 80, 60)].max() <= 5
    assert browser.run("whole") == [tiles.PREVIEW]  # all that is decoded and uploaded as one
    pieces = browser.run("pieces")
    assert len(pieces) > 8
    assert 0 < min(pieces) <= max(pieces) <= tiles.SIDE
    assert max(browser.run("frames_")) == 1
    assert set(browser.run("decoded")) == {"Blob"}  # of bytes, which a browser decodes beside the page's own work


@pytest.mark.browser
def test_the_memory_of_the_device_stays_within_a_bound(browser, page):
    browser.open(page, "#yaw=0&pitch=0&fov=20")
    assert browser.run("dit360.tiles().bytes") <= 64 * 2**20
    for yaw in range(0, 360, 36):
        look(browser, yaw, 35, 36)
    assert browser.run("dit360.tiles().uploads") > 64  # more than there are places
    look(browser, 0, 90)
    assert browser.run("dit360.tiles().bytes") <= 128 * 2**20


@pytest.mark.browser
def test_where_a_view_needs_more_tiles_than_there_is_room_for_its_middle_is_the_finest(browser, page):
    browser.open(page, "#yaw=0&pitch=0&fov=20", before=small_textures(1024))  # room for 8
    seen = look(browser, 0, 90, 20)  # all around the pole: 33 tiles
    assert np.abs(seen - expected(0, 90, 20, *WINDOW))[marks_away(0, 90, 20)].max() <= 5
    assert browser.run("dit360.tiles().bytes") == 2 * 4 * 1024**2
    seen = look(browser, 0, 0)  # and what it held before makes room
    middle = seen[28:68, 450:510]
    assert np.percentile(middle[..., 0], 95) > 190
    assert np.percentile(middle[..., 0], 5) < 65


@pytest.mark.browser
def test_the_preview_is_seen_before_the_tiles_have_been_read(browser, page, tmp_path):
    text = page.read_text("utf-8")
    # A page whose end never comes, as of a slow disk: without the tiles and what closes them.
    cut = tmp_path / "cut.html"
    cut.write_text(text[: text.index('<script type="image/jpeg"')], "utf-8")
    browser.load(f"{cut.as_uri()}?1#yaw=60&pitch=30&fov=90")
    assert browser.run("dit360.ready") is True
    seen = look(browser, 60, 30, 90)
    assert np.abs(seen - expected(60, 30, 90, *WINDOW))[marks_away(60, 30, 90)].max() <= 6


@pytest.mark.browser
def test_a_damaged_tile_is_told_and_the_rest_is_shown(browser, page, tmp_path):
    text = page.read_text("utf-8")
    name = 'id="tile-16384-8-16">'  # straight ahead
    at = text.index(name) + len(name)
    broken = tmp_path / "broken.html"
    broken.write_text(text[:at] + "AAAA" + text[at + 4000 :], "utf-8")
    browser.open(broken, "#yaw=3&pitch=-3&fov=20")
    look(browser, 3, -3)
    assert "damaged" in browser.run("document.querySelector('#note').textContent")
    assert np.abs(browser.see() - expected(3, -3, 20, *WINDOW))[marks_away(3, -3, 20)].max() <= 8


@pytest.mark.browser
def test_a_large_picture_is_shown_again_after_a_lost_context(browser, page):
    keep = (
        "const get = HTMLCanvasElement.prototype.getContext;"
        "HTMLCanvasElement.prototype.getContext = function (...a) { return window.context = get.apply(this, a); };"
    )
    browser.open(page, "#yaw=100&pitch=20&fov=20", before=keep)
    look(browser, 100, 20)
    browser.run(
        "new Promise((done) => { const canvas = document.querySelector('canvas');"
        "canvas.addEventListener('webglcontextrestored', () => setTimeout(done));"
        "const lose = context.getExtension('WEBGL_lose_context');"
        "canvas.addEventListener('webglcontextlost', () => setTimeout(() => lose.restoreContext(), 50));"
        "lose.loseContext(); })"
    )
    before = browser.run("dit360.tiles().uploads")
    seen = look(browser, 100, 20)
    assert browser.run("dit360.tiles().uploads") > before
    assert np.abs(seen - expected(100, 20, 20, *WINDOW)).max() <= 5


@pytest.mark.browser
def test_a_mask_is_painted_on_a_large_picture_at_its_largest_size(browser, page):
    browser.open(page, "#yaw=180&pitch=30&fov=40")
    browser.key("p", "keyDown")
    browser.key(" ", "keyDown")
    browser.key(" ", "keyUp")
    browser.until("document.querySelector('.painting-status').textContent.includes('%')")
    browser.drawn()
    seen = look(browser, 180, 30, 40)
    plain = expected(180, 30, 40, *WINDOW)
    assert seen[48, 480, 0] - plain[48, 480, 0] > 50  # the colour of what is painted, half over it
    assert np.abs(seen - plain)[:, :200].max() <= 5
    browser.run("document.querySelector('.painting [data-name=undo]').click()")
    browser.drawn()
    assert np.abs(browser.see() - plain).max() <= 5


@pytest.mark.browser
def test_the_page_of_a_large_picture_asks_nothing_and_breaks_no_rule(browser, page):
    browser.open(page, "#yaw=0&pitch=0&fov=20")
    look(browser, 40, 0)
    asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert [url.split("?")[0] for url in asked if not url.startswith("data:")] == [page.as_uri()]
    complaints = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    assert [event for event in browser.events if event["method"] in complaints] == []
