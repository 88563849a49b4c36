"""The page of a server, in a browser: a picture is made, a mask is painted on it, and that part is made anew."""

import numpy as np
import pytest
from dit360_core.panorama.picture import Panorama
from headless_browser import CHROMIUM, Browser, chromium
from served import serving

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here")]
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("served")) as found:
        yield found


@pytest.fixture(scope="module")
def page(server, tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile"), Browser) as found:
        found.emulate(1000, 700)
        found.load(f"http://127.0.0.1:{server.port}/?token={server.token}")
        found.until("document.querySelectorAll('#options label').length > 10")
        yield found


def fill(page, **values):
    for name, value in values.items():
        page.run(f"document.getElementById({name!r}).value = {value!r}")


def make(page, seconds=120):
    """Presses the button, and waits until it can be pressed again."""
    page.run("document.getElementById('make').click()")
    page.until("document.getElementById('make').disabled === false", seconds)
    return page.run("document.getElementById('news').textContent")


def in_frame(code):
    return f"document.getElementById('view').contentWindow.{code}"


def test_a_picture_is_made_and_an_edit_of_what_is_painted(server, page):
    fill(page, prompt="a castle above a meadow at sunset", seed="7", **{"option-width": "256", "option-steps": "12"})
    news = make(page)
    assert "256×128, seed 7" in news, news
    (path,) = server.folder.glob("*.jpg")
    first = Panorama.open(path)
    assert first.settings["used"]["steps"] == 12
    assert page.run("document.querySelectorAll('#pictures li').length") == 1
    # What it came from was shown on the way, in the same frame.
    assert page.run("document.getElementById('view').dataset.job.length") == 32
    page.until(f"{in_frame('dit360')} !== undefined")
    assert page.run(in_frame("dit360.ready")) is True

    page.run("[...document.querySelectorAll('#pictures button')].find((b) => b.textContent === 'Edit').click()")
    page.until(f"{in_frame('dit360')} !== undefined")
    page.run(in_frame("dit360.ready"))
    assert page.run("document.getElementById('edit').hidden") is False
    # Without a mask it says what to do.
    assert "Nothing is painted" in make(page)
    page.run(in_frame("dit360.view({ yaw: 0, pitch: 0, fov: 90 })"))
    page.run(in_frame("document.getElementById('paint').click()"))
    box = page.run(
        "(() => { const { x, y, width, height } = document.getElementById('view').getBoundingClientRect();"
        " return [x + width / 2, y + height / 2]; })()"
    )
    page.mouse("mouseMoved", *box)
    page.mouse("mousePressed", *box, button="left", buttons=1, clickCount=1)
    page.mouse("mouseMoved", box[0] + 40, box[1], button="left", buttons=1)
    page.mouse("mouseReleased", box[0] + 40, box[1], button="left", clickCount=1)
    fill(page, prompt="a calm sea at noon", seed="8")
    news = make(page)
    assert "256×128, seed 8" in news, news
    (edited,) = (path for path in server.folder.glob("*.jpg") if "seed" and path.name.endswith("-8.jpg"))
    second = Panorama.open(edited)
    hold = second.settings["used"]["hold"]
    assert hold["kept"] > 0.5
    before, after = (np.asarray(one.image, dtype=float) for one in (first, second))
    assert np.abs(before - after)[48:80, 118:138].mean() > 3 * np.abs(before - after)[48:80, :40].mean()


def test_the_settings_of_a_picture_become_the_forms(server, page):
    server.over(server.submit("a desert at dawn", options={"steps": 3, "seed": 33, "scheduler_type": "flow_match"}))
    page.load(f"http://127.0.0.1:{server.port}/")
    page.until("document.querySelectorAll('#pictures li').length >= 1")
    page.run("[...document.querySelectorAll('#pictures button')].find((b) => b.textContent.startsWith('Use')).click()")
    found = page.run(
        "['prompt', 'seed', 'option-steps', 'option-width'].map((id) => document.getElementById(id).value)"
    )
    assert found == ["a desert at dawn", "33", "3", "128"]


def test_a_page_that_is_opened_anew_goes_on_with_what_is_made_and_stops_it(server, page):
    long = server.submit("a castle in falling snow", options={"width": 512, "steps": 400, "seed": 40})
    page.load(f"http://127.0.0.1:{server.port}/")
    # It is not this page's, which goes on with its own alone.
    page.until("document.getElementById('news').textContent.includes('1 picture is being made for others')", 120)
    assert page.run("document.getElementById('make').disabled") is False
    page.run(f"sessionStorage.setItem('job', {long['number']!r})")
    page.load(f"http://127.0.0.1:{server.port}/")
    page.until("document.getElementById('news').textContent.startsWith('Step')", 120)
    assert page.run("document.getElementById('stop').hidden") is False
    assert page.run("document.getElementById('make').disabled") is True
    page.run("document.getElementById('stop').click()")
    assert server.over(long)["status"] == "cancelled"
    page.until("document.getElementById('make').disabled === false", 120)


def test_what_the_server_says_is_wrong_is_shown(page):
    fill(page, prompt="a sea", **{"option-width": "100", "option-steps": "2"})
    page.run("document.getElementById('form').noValidate = true")
    assert "width 100 cannot be made" in make(page)


def test_the_page_asks_nobody_else_and_breaks_no_rule(server, page):
    asked = [
        event["params"]["request"]["url"] for event in page.events if event["method"] == "Network.requestWillBeSent"
    ]
    own = f"http://127.0.0.1:{server.port}/"
    assert asked
    assert [url for url in asked if not url.startswith((own, "data:", "blob:"))] == []
    wrong = [event["params"] for event in page.events if event["method"] == "Log.entryAdded"]
    told = [one["entry"]["text"] for one in wrong if "400 (Bad Request)" not in one["entry"]["text"]]
    assert told == []
