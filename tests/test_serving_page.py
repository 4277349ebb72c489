"""The page of a server, in a real browser: a picture goes in, and its explanation is seen."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytest.importorskip("prometheus_client", reason="prometheus_client is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from pyxai_fast.models.loaded import LoadedModel  # noqa: E402
from pyxai_fast.models.preprocessing import Preprocessing  # noqa: E402
from pyxai_fast.models.spec import load_model  # noqa: E402
from pyxai_fast.picture_explainer import PictureExplainer  # noqa: E402
from pyxai_fast.serving.app import ServingApp  # noqa: E402
from pyxai_fast.serving.limits import Limits  # noqa: E402
from pyxai_fast.serving.server import Server, listen  # noqa: E402
from pyxai_fast.serving.service import Service  # noqa: E402

CHROMIUM = Path("/usr/bin/chromium")
DIGIT = Path(__file__).parent.parent / "pyxai_fast/serving/page/digit.png"
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}")


class Page:
    """A tab on the page of a server; what goes wrong in it is remembered."""

    def __init__(self, tab: Any, url: str) -> None:
        self.tab, self.wrong = tab, []
        tab.on("console", lambda said: said.type == "error" and self.wrong.append(said.text))
        tab.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.outside: list[str] = []
        tab.on("request", lambda asked: self._watch(asked.url, url))
        tab.goto(url)
        tab.wait_for_selector("#method option", state="attached")

    def _watch(self, asked: str, url: str) -> None:
        if not asked.startswith((url, "blob:", "data:")):
            self.outside.append(asked)

    def text(self, name: str) -> str:
        return str(self.tab.inner_text(f"#{name}"))

    def wait(self) -> None:
        """Until what was asked last is shown."""
        self.tab.wait_for_selector("#explanation:visible")
        self.tab.wait_for_selector("#busy", state="hidden")

    def until(self, name: str, text: str) -> None:
        """Until an element says so."""
        playwright.expect(self.tab.locator(f"#{name}")).to_have_text(text, timeout=20_000)

    def canvas(self, name: str) -> torch.Tensor:
        """[H, W, 4], from 0 to 255."""
        found = self.tab.evaluate(
            """name => {
                const canvas = document.getElementById(name);
                const { width, height } = canvas;
                const data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
                return [height, width, Array.from(data)];
            }""",
            name,
        )
        return torch.tensor(found[2]).view(found[0], found[1], 4).double()

    def colours(self) -> tuple[int, int]:
        """How many pixels of the overlay are red, and blue."""
        seen = self.canvas("overlay")
        redder = seen[..., 0] - seen[..., 2]
        return int((redder > 20).sum()), int((redder < -20).sum())


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        # Playwright gives each start a new and empty profile.
        started = running.chromium.launch(executable_path=str(CHROMIUM), args=OPTIONS)
        yield started
        started.close()


def serve(model: LoadedModel, **options: Any) -> Iterator[str]:
    explainer = PictureExplainer(model, "cpu", "integrated_gradients", n_steps=10)
    app = ServingApp(Service(explainer, "demo", max_batch=2), Limits(**options))
    server, bound = Server(app), listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_on, args=(bound,), daemon=True)
    thread.start()
    give_up = time.monotonic() + 30
    while not (server.started and app.service.ready):
        assert time.monotonic() < give_up and app.service.failure is None
        time.sleep(0.01)
    yield f"http://127.0.0.1:{bound.getsockname()[1]}/"
    server.drain()
    thread.join(30)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    yield from serve(load_model("demo", torch.device("cpu")), body=200_000)


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Page]:
    tab = browser.new_page(viewport={"width": 1100, "height": 800})
    tab.set_default_timeout(20_000)
    opened = Page(tab, url)
    yield opened
    assert opened.outside == []
    tab.close()


def test_a_chosen_picture_is_explained(page: Page) -> None:
    page.tab.set_input_files("#file", str(DIGIT))
    page.wait()
    assert page.text("model").startswith("demo")
    assert (page.text("class-name"), page.text("probability")) == ("3", "91.2%")
    assert page.text("caption") == "Integrated gradients for 3"
    assert (page.text("gradients"), page.text("queries")) == ("10", "2")
    assert page.text("milliseconds").endswith(" ms")
    assert page.text("delta") not in ("", "not promised")
    assert page.tab.locator(".choice").count() == 5
    assert page.text("classes").split()[:2] == ["3", "91.2%"]
    assert page.tab.is_checked(".choice.chosen input")
    # The picture is the file's, and the map lies over it in both colours.
    assert page.canvas("picture").shape == page.canvas("overlay").shape == (32, 32, 4)
    assert page.canvas("picture")[..., :3].max() > 200
    red, blue = page.colours()
    assert red > 50 and blue > 10
    assert page.wrong == []


def test_a_dropped_picture_is_explained(page: Page) -> None:
    data = base64.b64encode(DIGIT.read_bytes()).decode()
    page.tab.evaluate(
        """data => {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "three.png", { type: "image/png" }));
            const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
            document.body.dispatchEvent(new DragEvent("dragover", options));
            document.body.dispatchEvent(new DragEvent("drop", options));
        }""",
        data,
    )
    page.wait()
    assert "three.png" in page.text("drop-text")
    assert page.text("class-name") == "3"
    assert page.wrong == []


def test_the_sample_is_a_click_away(page: Page) -> None:
    page.tab.click("#sample")
    page.wait()
    assert page.text("class-name") == "3"
    assert page.wrong == []


def test_signs_and_opacity_change_what_is_drawn(page: Page) -> None:
    page.tab.click("#sample")
    page.wait()
    red, blue = page.colours()
    page.tab.check("input[value=positive]", force=True)
    assert page.colours() == (red, 0)
    page.tab.check("input[value=negative]", force=True)
    assert page.colours() == (0, blue)
    page.tab.check("input[value=both]", force=True)
    assert page.colours() == (red, blue)
    page.tab.fill("#opacity", "0")
    assert page.colours() == (0, 0)
    assert page.wrong == []


def test_another_class_and_another_method(page: Page) -> None:
    page.tab.click("#sample")
    page.wait()
    before = page.canvas("overlay")
    page.tab.locator(".choice").nth(1).click()
    page.until("class-name", "7")
    assert page.text("probability") == "2.7%"
    assert not torch.equal(page.canvas("overlay"), before)
    # One that is not among the likeliest, by its name.
    page.tab.fill("#search", "0")
    page.tab.press("#search", "Enter")
    page.until("class-name", "0")
    assert page.tab.locator(".choice").count() == 6
    page.tab.select_option("#method", "saliency")
    page.until("caption", "Saliency for 0")
    # Sizes have no sign, and promise no completeness.
    assert page.text("delta") == "not promised"
    assert (page.text("low"), page.text("high")) == ("weak", "strong")
    assert page.tab.is_disabled("input[value=negative]")
    assert page.colours()[0] == 0  # red is what speaks for a class
    assert page.tab.get_attribute("#overlay", "aria-label") == "Saliency for 0, over the picture"
    assert page.text("said") == "Saliency for 0"
    assert page.wrong == []


def test_what_goes_wrong_is_told_kindly(page: Page) -> None:
    broken = {"name": "no.png", "mimeType": "image/png", "buffer": b"no picture"}
    page.tab.set_input_files("#file", files=[broken])
    page.tab.wait_for_selector("#error:visible")
    assert page.text("error").startswith("The server could not explain this: the picture: must be")
    large = {"name": "large.png", "mimeType": "image/png", "buffer": b"0" * 300_000}
    page.tab.set_input_files("#file", files=[large])
    page.until("error", "This file is too large: at most 0.19 MB.")
    page.tab.click("#sample")
    page.wait()
    page.tab.wait_for_selector("#error", state="hidden")
    page.tab.fill("#search", "eleven")
    page.tab.press("#search", "Enter")
    page.tab.wait_for_selector("#error:visible")
    assert "must be the number or the name of a class" in page.text("error")
    # A class that there is not is not asked for again.
    assert page.tab.is_checked(".choice.chosen input")
    page.tab.select_option("#method", "saliency")
    page.until("caption", "Saliency for 3")
    page.tab.wait_for_selector("#error", state="hidden")
    # The browser notes the answers with 400 by itself.
    assert all("400 (Bad Request)" in each for each in page.wrong)


def test_the_page_can_be_used_without_a_mouse(page: Page) -> None:
    page.tab.keyboard.press("Tab")
    assert page.tab.evaluate("document.activeElement.id") == "file"
    page.tab.keyboard.press("Tab")
    assert page.tab.evaluate("document.activeElement.id") == "sample"
    page.tab.keyboard.press("Enter")
    page.wait()
    page.tab.focus(".choice input:checked")
    page.tab.keyboard.press("ArrowDown")
    page.until("class-name", "7")
    assert page.tab.evaluate("document.activeElement.value") == "7"
    unnamed = page.tab.evaluate(
        """() => [...document.querySelectorAll("input, select, button, canvas[role]")]
            .filter((each) => !(each.labels?.length || each.ariaLabel || each.textContent.trim()))
            .map((each) => each.id)"""
    )
    assert unnamed == []
    assert page.wrong == []


def test_a_narrow_window_needs_no_scrolling_sideways(page: Page) -> None:
    page.tab.set_viewport_size({"width": 340, "height": 700})
    page.tab.click("#sample")
    page.wait()
    assert page.tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.wrong == []


def test_on_a_phone_the_result_comes_into_sight_and_errors_cover_nothing(page: Page) -> None:
    page.tab.set_viewport_size({"width": 375, "height": 600})
    broken = {"name": "no.png", "mimeType": "image/png", "buffer": b"no picture"}
    page.tab.set_input_files("#file", files=[broken])
    page.tab.wait_for_selector("#error:visible")
    error, text = (
        page.tab.locator(each).bounding_box() for each in ("#error", "#empty p >> nth=0")
    )
    assert error["y"] + error["height"] <= text["y"]
    page.tab.evaluate("window.scrollTo(0, 0)")
    page.tab.set_input_files("#file", str(DIGIT))
    page.wait()
    assert page.tab.locator("#picture").bounding_box()["y"] < 600


def test_a_page_waits_for_its_server(browser: Any, url: str) -> None:
    tab = browser.new_page()
    tab.set_default_timeout(20_000)
    tab.route("**/v1/models", lambda route: route.abort(), times=1)
    tab.goto(url)
    tab.wait_for_selector("#error:visible")
    tab.wait_for_selector("#method option", state="attached")
    tab.wait_for_selector("#error", state="hidden")
    tab.close()


def test_colour_pictures_of_an_unusual_shape(browser: Any) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 5, stride=4), torch.nn.Flatten(), torch.nn.LazyLinear(3)
    )
    net(torch.zeros(1, 3, 72, 120))
    names = ["tabby, tabby cat", "<b>tiger</b>", "lynx"]
    preprocessing = Preprocessing(size=(72, 120))
    for url in serve(LoadedModel(net.eval(), preprocessing, names, "net")):
        page = Page(browser.new_page(), url)
        assert not page.tab.is_visible("#sample")
        page.tab.set_input_files("#file", str(DIGIT))
        page.wait()
        assert page.canvas("overlay").shape == (72, 120, 4)
        assert sum(page.colours()) > 100
        for name in names[::-1]:  # names, and no markup
            page.tab.get_by_title(name, exact=True).click()
            page.until("class-name", name)
        assert page.wrong == []
        page.tab.close()
