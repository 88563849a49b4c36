"""The viewer in ComfyUI's own front end: it shows the direction it says, and leaves the graph and the page alone.

``COMFYUI_FRONTEND`` may name a folder with another version of the front end than ComfyUI's own.
"""

import json
import time
from collections.abc import Iterator

import numpy as np
import pytest
from comfy_front_end import NODE, VIEWER, FrontEnd, serving
from comfy_server import Server, comfyui_dir
from dit360_core.panorama.metadata import parse_xmp
from dit360_core.panorama.picture import Panorama
from headless_browser import chromium, expected, picture
from PIL import Image

pytestmark = [pytest.mark.comfyui, pytest.mark.browser]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    comfyui_dir()  # skips before the work of the pictures
    panorama = picture(600)  # 1200 columns: no power of two
    # A photograph's worth of detail, or decoding it would be no work.
    rough = np.asarray(panorama.resize((8192, 4096), Image.Resampling.BICUBIC)).astype(np.int16)
    rough += np.random.default_rng(0).integers(-20, 20, rough.shape, np.int16)
    pictures = {
        "panorama.png": panorama,
        "wrong.png": panorama.crop((0, 0, 700, 600)),
        "large.jpg": Image.fromarray(rough.clip(0, 255).astype(np.uint8)),
    }
    with serving(tmp_path_factory.mktemp("comfyui"), pictures) as server:
        yield server


@pytest.fixture(scope="module")
def browser(server, tmp_path_factory) -> Iterator[FrontEnd]:
    with chromium(tmp_path_factory.mktemp("profile"), FrontEnd) as browser:
        browser.enter(server.url)
        yield browser


@pytest.fixture
def shown(browser) -> FrontEnd:
    """With a lossless picture in the viewer, so that colours can be compared exactly."""
    browser.graph(format="png")
    browser.queue()
    return browser


# ------------------------------------------------------------------------------------------------- what is seen


def test_every_pixel_shows_its_direction_also_over_the_seam_and_the_poles(shown):
    off = {}
    for yaw, pitch, fov in [(0, 0, 90), (90, 0, 90), (180, 0, 90), (0, 90, 90), (40, -90, 60), (-170, 20, 20)]:
        shown.view(yaw=yaw, pitch=pitch, fov=fov)
        seen = shown.pixels()
        height, width, _ = seen.shape
        assert width > 300
        off[yaw, pitch, fov] = np.abs(seen - expected(yaw, pitch, fov, width, height)).max()
    assert max(off.values()) <= 2, off


def test_before_the_first_run_it_says_what_to_do(browser):
    browser.graph()
    assert "No picture yet" in browser.run(f"{VIEWER}.element.innerText")
    assert browser.run(f"{VIEWER}.ready") is False


def test_dragging_turns_the_view_and_nothing_else(shown):
    before, (x, y) = shown.place(), shown.middle()
    _, _, width, height = shown.box()
    shown.mouse("mousePressed", x, y, button="left", clickCount=1)
    for step in range(1, 6):
        shown.mouse("mouseMoved", x - 12 * step, y + 6 * step, button="left", buttons=1)
    shown.mouse("mouseReleased", x - 60, y + 30, button="left", clickCount=1)
    pixel = np.degrees(2 * np.tan(np.radians(45)) / max(width, height))
    view = shown.view()
    assert view["pitch"] == pytest.approx(30 * pixel, rel=0.02)
    assert view["yaw"] == pytest.approx(60 * pixel, rel=0.03)  # faster the farther up
    assert shown.place() == before
    assert shown.run(f"document.activeElement === {VIEWER}.element") is True
    # Once it rests, it is drawn at its best, and without one more question.
    until, off = time.monotonic() + 30, np.inf
    while off > 2:
        assert time.monotonic() < until, off
        seen = shown.pixels()
        off = np.abs(seen - expected(view["yaw"], view["pitch"], 90, seen.shape[1], seen.shape[0])).max()


def test_two_fingers_zoom(shown):
    before, (x, y) = shown.place(), shown.middle()

    def touch(kind: str, *distances: float) -> None:
        points = [{"x": x + side * d, "y": y, "id": n} for d in distances for n, side in enumerate((-1, 1))]
        shown.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    touch("touchStart", 40)
    for distance in (50, 60, 70, 80):
        touch("touchMove", distance)
    touch("touchEnd")
    assert shown.view()["fov"] == pytest.approx(45, rel=0.05)
    assert shown.place() == before


def test_the_wheel_zooms_the_view_and_not_the_graph(shown):
    before, (x, y) = shown.place(), shown.middle()
    shown.mouse("mouseWheel", x, y, deltaX=0, deltaY=-120)
    shown.until(f"{VIEWER}.view().fov < 80")
    shown.mouse("mouseWheel", x, y, deltaX=0, deltaY=240)
    shown.until(f"{VIEWER}.view().fov > 100")
    assert shown.place() == before


def test_keys_look_around_and_are_no_shortcuts_meanwhile(shown):
    shown.run(f"window.leaked = []; window.onkeydown = (event) => leaked.push(event.key); {VIEWER}.element.focus()")
    shown.press("ArrowRight", "ArrowUp")
    view = shown.view()
    assert view["yaw"] == pytest.approx(7.2)
    assert view["pitch"] == pytest.approx(7.2)
    shown.press("+")
    assert shown.view()["fov"] == pytest.approx(75)
    shown.press("-", "ArrowLeft", "ArrowDown", "Home")
    assert shown.view() == {"yaw": 0, "pitch": 0, "fov": 90}
    shown.press("f")
    shown.until(f"document.fullscreenElement === {VIEWER}.element")
    shown.until(f"{VIEWER}.canvas.width > 1000")
    seen = shown.pixels()
    assert np.abs(seen - expected(0, 0, 90, seen.shape[1], seen.shape[0])).max() <= 2
    shown.press("f")
    shown.until("!document.fullscreenElement")
    shown.until(f"{VIEWER}.canvas.width < 1000")
    assert shown.run("leaked") == []
    shown.press("q")
    assert shown.run("leaked") == ["q"]
    shown.run("window.onkeydown = null")


def test_a_batch_is_turned_over(browser):
    browser.graph(many=3)
    browser.queue()
    assert browser.run(f"{VIEWER}.count.textContent") == "1 / 3"
    urls = browser.run(f"{VIEWER}.pictures.map((p) => p.url)")
    assert len(set(urls)) == 3
    browser.run(f"{VIEWER}.element.querySelector('[title^=Next]').click()")
    assert browser.run(f"{VIEWER}.ready") is True
    assert browser.run(f"{VIEWER}.count.textContent") == "2 / 3"
    browser.run(f"{VIEWER}.element.focus()")
    browser.press("PageUp", "PageUp")
    assert browser.run(f"{VIEWER}.ready") is True
    assert browser.run(f"{VIEWER}.count.textContent") == "3 / 3"
    assert browser.run(f"new URL({VIEWER}.link.href).search") == urls[2][urls[2].index("?") :]


def test_where_the_graph_is_zoomed_the_view_is_drawn_finer(shown):
    width = shown.run(f"{VIEWER}.canvas.width")
    shown.run("app.canvas.ds.scale = 2; app.canvas.ds.offset = [-300, 0]; app.graph.setDirtyCanvas(true, true)")
    shown.until(f"Math.abs({VIEWER}.canvas.width - {2 * width}) < 4")
    seen = shown.pixels()
    assert np.abs(seen - expected(0, 0, 90, seen.shape[1], seen.shape[0])).max() <= 2


# ------------------------------------------------------------------------------------------------- the file


def test_the_save_button_gives_the_very_file(shown, server, tmp_path):
    shown.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    shown.run(f"{VIEWER}.link.click()")
    name = shown.run(f"{VIEWER}.pictures[0].name")
    until = time.monotonic() + 60
    while not (tmp_path / name).exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert (tmp_path / name).read_bytes() == (server.base / "temp" / name).read_bytes()
    panorama = Panorama.open(tmp_path / name)
    assert np.array_equal(np.asarray(panorama.image), np.asarray(picture(600)))
    with Image.open(tmp_path / name) as image:
        image.load()
        assert parse_xmp(image.info["xmp"]).gpano["ProjectionType"] == "equirectangular"


@pytest.mark.parametrize("format", ["png", "webp"])
def test_a_file_dropped_into_comfyui_opens_its_graph(browser, format):
    browser.graph(format=format, save=True)
    browser.queue()
    assert browser.run(f"{VIEWER}.pictures[0].url.includes('type=output')") is True
    url = browser.run(f"{VIEWER}.link.href")
    browser.run("app.graph.clear()")
    browser.run(
        f"fetch({json.dumps(url)}).then((answer) => answer.blob())"
        f".then((blob) => app.handleFile(new File([blob], 'a.{format}', {{ type: 'image/{format}' }})))"
    )
    browser.until("app.graph._nodes.length === 3")
    code = f"app.graph._nodes.find((n) => n.comfyClass === '{NODE}').widgets.find((w) => w.name === 'format').value"
    assert browser.run(code) == format


# ------------------------------------------------------------------------------------------------- the graph


def test_looking_around_is_no_change_of_the_graph(shown):
    prompt = "app.graphToPrompt().then(({ output }) => output)"
    workflow = "JSON.stringify(app.graph.serialize().nodes.map((n) => n.widgets_values))"
    before = shown.run(prompt), shown.run(workflow)
    ours = next(node for node in before[0].values() if node["class_type"] == NODE)
    assert set(ours["inputs"]) == {"images", "save", "filename_prefix", "format", "quality", "mask"}
    shown.view(yaw=50, pitch=10, fov=40)
    assert (shown.run(prompt), shown.run(workflow)) == before
    draws, pictures = shown.draws(), shown.run(f"{VIEWER}.pictures")
    shown.run("window.done = 0; app.api.addEventListener('execution_success', () => { done += 1 }, { once: true })")
    shown.run("app.queuePrompt(0)")
    shown.until("window.done", 30)
    # Nothing ran again, and nothing was fetched or drawn again.
    assert (shown.draws(), shown.run(f"{VIEWER}.pictures")) == (draws, pictures)
    assert shown.view() == {"yaw": 50, "pitch": 10, "fov": 40}


def test_outputs_that_the_front_end_restores_are_shown_again(shown):
    pictures = shown.run(f"{VIEWER}.pictures")
    shown.run(
        "(async () => { const outputs = app.nodeOutputs; await app.loadGraphData(app.graph.serialize());"
        f"window.node360 = app.graph._nodes.find((n) => n.comfyClass === '{NODE}');"
        "app.nodeOutputs = outputs; app.graph.setDirtyCanvas(true, true); })()"
    )
    shown.until(f"{VIEWER}.draws")
    assert shown.run(f"{VIEWER}.pictures") == pictures


def test_a_picture_that_is_no_panorama_is_one_sentence_at_its_node_and_the_server_goes_on(browser, server):
    browser.graph("wrong.png")
    browser.run(
        "window.failed = null;"
        "app.api.addEventListener('execution_error', ({ detail }) => { failed = detail }, { once: true })"
    )
    browser.run("app.queuePrompt(0)")
    browser.until("window.failed", 30)
    failed = browser.run("window.failed")
    assert failed["node_type"] == NODE
    assert "twice as wide as high, but this picture is 700×600" in failed["exception_message"]
    assert "\n" not in failed["exception_message"].strip()
    assert browser.run("String(app.lastExecutionError?.node_id) === String(node360.id)") is True  # which draws it red
    browser.press("Escape")  # the front end's dialog
    browser.graph()
    browser.queue()
    assert server.get("/system_stats").status == 200


def test_a_file_that_is_gone_is_told(shown, server):
    file = server.base / "temp" / shown.run(f"{VIEWER}.pictures[0].name")
    file.rename(file.with_suffix(".away"))
    try:
        shown.run(f"{VIEWER}.choose(0)")
        assert shown.run(f"{VIEWER}.ready") is False
        assert "no longer on the server" in shown.run(f"{VIEWER}.element.innerText")
    finally:
        file.with_suffix(".away").rename(file)  # the server still counts on it


# ------------------------------------------------------------------------------------------------- what it costs


def test_a_still_view_is_not_drawn(shown):
    until, before = time.monotonic() + 30, -1
    while (draws := shown.draws()) != before:
        assert time.monotonic() < until, draws
        before = draws
        time.sleep(1)


GAPS = """
  window.watchGaps = (job) => new Promise(async (done) => {
    let last = performance.now(), worst = 0, on = true;
    const tick = () => {
      const now = performance.now();
      worst = Math.max(worst, now - last);
      last = now;
      if (on) setTimeout(tick, 0);
    };
    tick();
    const begun = performance.now();
    await job();
    const took = performance.now() - begun;
    setTimeout(() => { on = false; done([worst, took]); }, 100);
  });"""


def test_the_page_goes_on_moving_while_a_large_panorama_loads(browser):
    browser.graph()
    browser.run(GAPS)
    idle, _ = browser.run("watchGaps(() => new Promise((done) => setTimeout(done, 2000)))")
    load = (
        f"watchGaps(async () => {{ {VIEWER}.show([{{ url: '/view?type=input&filename=large.jpg', name: 'large.jpg',"
        f"width: 8192, height: 4096 }}]); await {VIEWER}.ready; }})"
    )
    worst, took = min(browser.run(load) for _ in range(2))  # other processes only ever make it longer
    print(f"8192×4096: longest gap {worst:.0f} ms (an idle page: {idle:.0f} ms), shown after {took:.0f} ms")
    assert browser.draws() > 0
    assert worst < 1500
    seen = browser.pixels()
    assert np.abs(seen - expected(0, 0, 90, seen.shape[1], seen.shape[0])).mean() < 4


def test_nodes_share_one_context_and_give_back_what_they_held(shown):
    shown.run(
        "import('/extensions/dit360-comfy/renderer.mjs').then((module) => { window.renderer360 = module.renderer() })"
    )
    before = shown.run("renderer360.bytes")
    assert before == 4 * 1200 * 600
    shown.run(
        "(async () => { window.many = []; for (let i = 0; i < 20; i++) {"
        f"const node = LiteGraph.createNode('{NODE}');"
        "app.graph.add(node); node.pos = [900, 100]; many.push(node); node.dit360.show(node360.dit360.pictures); }"
        "app.graph.setDirtyCanvas(true, true);"
        "await Promise.all(many.map((node) => node.dit360.ready)); })()"
    )
    assert shown.run("renderer360.bytes") == 21 * before
    shown.view(yaw=90)  # the first one draws still
    seen = shown.pixels()
    assert np.abs(seen - expected(90, 0, 90, seen.shape[1], seen.shape[0])).max() <= 2
    shown.run("many.forEach((node) => app.graph.remove(node))")
    assert shown.run("renderer360.bytes") == before
    shown.run("app.graph.clear()")
    assert shown.run("renderer360.bytes") == 0


def test_a_device_with_small_textures_gets_a_smaller_copy(shown):
    shown.run(
        "(() => { const kind = WebGL2RenderingContext.prototype; window.get = kind.getParameter;"
        "kind.getParameter = function (name) {"
        "return name === kind.MAX_TEXTURE_SIZE ? 256 : get.call(this, name) } })()"
    )
    try:
        shown.run(f"{VIEWER}.choose(0)")
        assert shown.run(f"{VIEWER}.ready") is True
        assert "256×128" in shown.run(f"{VIEWER}.element.innerText")
        shown.view(yaw=180, pitch=10, fov=60)
        seen = shown.pixels()
        assert np.abs(seen - expected(180, 10, 60, seen.shape[1], seen.shape[0])).max() <= 4
    finally:
        shown.run("WebGL2RenderingContext.prototype.getParameter = window.get")


def test_the_view_comes_back_after_a_lost_context(shown):
    shown.run(
        "(() => { const kind = WebGL2RenderingContext.prototype, bind = kind.bindTexture;"
        "kind.bindTexture = function (...given) { window.context = this; return bind.apply(this, given) } })()"
    )
    shown.view(yaw=30, fov=60)
    shown.run(
        "window.lost = false; context.canvas.addEventListener('webglcontextlost', () => { lost = true });"
        "window.lose = context.getExtension('WEBGL_lose_context'); lose.loseContext()"
    )
    shown.until("lost")
    before = shown.draws()
    shown.run("lose.restoreContext()")
    shown.until(f"{VIEWER}.draws > {before}")
    seen = shown.pixels()
    assert np.abs(seen - expected(30, 0, 60, seen.shape[1], seen.shape[0])).max() <= 2


def test_without_webgl_the_whole_panorama_is_shown_flat(browser, server):
    browser.enter(
        server.url,
        before="const get = HTMLCanvasElement.prototype.getContext; HTMLCanvasElement.prototype.getContext ="
        "function (kind, ...more) { return kind === 'webgl2' ? null : get.call(this, kind, ...more) }",
    )
    try:
        browser.graph()
        browser.run("app.queuePrompt(0)")
        browser.until(f"{VIEWER}.pictures.length", 30)
        assert browser.run(f"{VIEWER}.ready") is False
        browser.until(f"{VIEWER}.flat.complete && {VIEWER}.flat.naturalWidth === 1200")
        assert "offers no WebGL 2" in browser.run(f"{VIEWER}.element.innerText")
    finally:
        browser.enter(server.url)


def test_a_report_stands_in_its_node(browser):
    browser.run(
        """(() => {
          app.graph.clear();
          window.report = LiteGraph.createNode("DiT360Backends");
          app.graph.add(report);
          report.pos = [60, 100];
        })()"""
    )
    browser.run("app.queuePrompt(0)")
    browser.until("report.widgets.find((w) => w.name === 'report').element.value.includes('sdpa')", 50)
    said = browser.run("report.widgets.find((w) => w.name === 'report').element.value")
    assert said.startswith("On cpu:")
    assert "+ flow_match" in said
    # It is of this machine: neither the workflow nor the prompt has it.
    assert browser.run("app.graphToPrompt().then((p) => JSON.stringify(p).includes('flow_match'))") is False
