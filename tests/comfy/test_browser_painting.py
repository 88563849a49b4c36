"""Masks that are painted in the node: given to other nodes when the graph runs, and there again when it is opened."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
from comfy_front_end import NODE, VIEWER, FrontEnd, serving
from comfy_server import Server
from headless_browser import chromium, direction, picture
from PIL import Image

pytestmark = [pytest.mark.comfyui, pytest.mark.browser]

ROWS = 300
SIZE = 12.0  # of the brush at first, in degrees across
DIRECTIONS = direction(
    ((np.arange(2 * ROWS) + 0.5) / (2 * ROWS) - 0.5)[None, :] * 360,
    (0.5 - (np.arange(ROWS) + 0.5) / ROWS)[:, None] * 180,
)
WIDGET = "node360.widgets.find((w) => w.name === 'mask')"


def cap(yaw: float, pitch: float, size: float = SIZE) -> np.ndarray:
    """The mask of a dab there, by the great circle's arc to each pixel."""
    middle = direction(yaw, pitch)
    arc = np.degrees(np.arctan2(np.linalg.norm(np.cross(DIRECTIONS, middle), axis=-1), DIRECTIONS @ middle))
    return arc <= size / 2


class Painted(FrontEnd):
    """With the mask as a picture among the outputs of the graph."""

    def graph(self, image: str = "panorama.png", many: int = 1, **widgets: object) -> None:
        super().graph(image, many, **widgets)
        self.run(
            """(() => {
              const convert = LiteGraph.createNode("MaskToImage"), save = LiteGraph.createNode("SaveImage");
              for (const node of [convert, save]) app.graph.add(node);
              convert.pos = [60, 700];
              save.pos = [60, 800];
              node360.connect(1, convert, 0);
              convert.connect(0, save, 0);
            })()"""
        )

    def stroke(self, x: float, y: float) -> None:
        self.mouse("mouseMoved", x, y)
        self.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=1)
        self.mouse("mouseReleased", x, y, button="left", clickCount=1)

    def begin(self) -> None:
        """With the brush in hand."""
        self.run(f"{VIEWER}.element.focus()")
        self.press("p")
        self.until(f"{VIEWER}.painter.on")

    def values(self) -> str:
        return str(self.run(f"{WIDGET}.value"))

    def runs(self) -> None:
        """The graph once more, to its end."""
        self.run("window.done = 0; app.api.addEventListener('execution_success', () => { done += 1 }, { once: true })")
        self.run("app.queuePrompt(0)")
        self.until("window.done", 30)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("comfyui"), {"panorama.png": picture(ROWS)}) as server:
        yield server


@pytest.fixture(scope="module")
def browser(server, tmp_path_factory) -> Iterator[Painted]:
    with chromium(tmp_path_factory.mktemp("profile"), Painted) as browser:
        browser.enter(server.url)
        yield browser


@pytest.fixture
def shown(browser) -> Painted:
    browser.graph(format="png")
    browser.runs()
    browser.until(f"{VIEWER}.pictures.length", 30)
    assert browser.run(f"{VIEWER}.ready") is True
    return browser


def last_output(server: Server) -> np.ndarray:
    """The mask that the graph saved as a picture."""
    newest = max((server.base / "output").glob("*.png"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    with Image.open(newest) as image:
        return np.asarray(image.convert("L"))


def test_what_is_painted_is_the_mask_of_the_next_run(shown, server):
    assert not last_output(server).any()
    place = shown.place()
    shown.begin()
    for yaw, pitch in [(180, 0), (0, 90)]:  # over the meridian, and at a pole
        shown.view(yaw=yaw, pitch=pitch, fov=90)
        shown.stroke(*shown.middle())
    shown.runs()
    wanted = cap(180, 0) | cap(0, 90)
    # The middle of the canvas lies within a pixel of where the pointer was.
    got = last_output(server)
    assert set(np.unique(got)) == {0, 255}
    assert (got[cap(180, 0, SIZE - 2) | cap(0, 90, SIZE - 2)] == 255).all()
    assert (got[~(cap(180, 0, SIZE + 2) | cap(0, 90, SIZE + 2))] == 0).all()
    assert ((got == 255) != wanted).mean() < 0.002
    assert shown.place() == place  # neither node nor graph was dragged
    name = shown.values()
    assert name.startswith("dit360-mask-")
    with Image.open(server.base / "input" / name) as image:
        assert (image.mode, image.size) == ("L", (2 * ROWS, ROWS))
        assert np.array_equal(np.asarray(image), got)
    # Load Image (as Mask) of any graph takes it.
    choices = server.get("/object_info/LoadImageMask").body["LoadImageMask"]["input"]["required"]["image"]
    assert name in json.dumps(choices)


def test_a_mask_that_is_as_before_is_no_other_file_and_nothing_runs_again(shown, server):
    shown.begin()
    shown.stroke(*shown.middle())
    shown.runs()
    files, name, outputs = (
        set((server.base / "input").iterdir()),
        shown.values(),
        len(list((server.base / "output").iterdir())),
    )
    shown.runs()
    assert set((server.base / "input").iterdir()) == files
    assert len(list((server.base / "output").iterdir())) == outputs
    shown.press("e", "]", "]")  # larger: no crescent of the dab is to be left
    shown.stroke(*shown.middle())
    shown.runs()
    assert (shown.values(), last_output(server).any()) == ("", np.False_)
    shown.run(f"{VIEWER}.painter.undo()")
    shown.runs()
    assert shown.values() == name
    assert set((server.base / "input").iterdir()) == files


def test_a_workflow_that_is_opened_has_its_mask(shown):
    shown.begin()
    shown.stroke(*shown.middle())
    share = shown.run(f"{VIEWER}.painter.mask.share")
    x, y, _, _ = shown.box()
    shown.mouse("mouseMoved", x - 20, y)  # on the way to something else
    shown.until(f"{WIDGET}.value !== ''")
    shown.press("[", "]", "e")
    shown.stroke(*shown.middle())
    shown.press("p")  # which ends painting
    shown.until(f"{WIDGET}.value === ''")
    shown.run(f"{VIEWER}.painter.undo()")
    shown.mouse("mouseMoved", x - 20, y)
    shown.until(f"{WIDGET}.value !== ''")
    name = shown.values()
    shown.run(
        "(async () => { const outputs = app.nodeOutputs; await app.loadGraphData(app.graph.serialize());"
        f"window.node360 = app.graph._nodes.find((n) => n.comfyClass === '{NODE}');"
        "app.nodeOutputs = outputs; app.graph.setDirtyCanvas(true, true); })()"
    )
    shown.until(f"{VIEWER}.draws")
    assert shown.values() == name
    shown.begin()
    shown.until(f"{VIEWER}.painter.mask.share === {share}")
    shown.runs()
    assert shown.values() == name  # which nobody has changed


def test_the_button_says_where_the_mask_is_and_the_brush_leaves_the_graph_alone(shown, server):
    shown.run("window.leaked = []; window.onkeydown = (event) => leaked.push(event.key)")
    shown.begin()
    shown.stroke(*shown.middle())
    shown.press(" ", "[", "]", "e", "b")
    assert shown.run("leaked") == []
    shown.run("window.onkeydown = null")
    shown.run(f"{VIEWER}.element.querySelector('[data-name=send]').click()")
    status = f"{VIEWER}.element.querySelector('.painting-status').textContent"
    shown.until(f"{status}.includes('in the input folder')")
    assert shown.values() in shown.run(status)
    assert (server.base / "input" / shown.values()).is_file()
    prompt = shown.run("app.graphToPrompt().then(({ output }) => output)")
    ours = next(node for node in prompt.values() if node["class_type"] == NODE)
    assert ours["inputs"]["mask"] == shown.values()


def test_a_mask_that_is_gone_is_told_at_the_node(shown):
    shown.run(f"{WIDGET}.value = 'gone.png'")
    shown.begin()
    status = f"{VIEWER}.element.querySelector('.painting-status').textContent"
    shown.until(f"{status}.includes('gone.png is not in ComfyUI')")
    shown.run(f"{VIEWER}.painter.turn(false)")
    assert shown.values() == "gone.png"
