"""The inbox in a real browser: what a person sees, and what a message's HTML may not do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from support.developing import Developing, developing
from support.process import need, until

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytestmark = pytest.mark.real

HOSTILE = """<html><head><style>p {{ color: rgb(1, 2, 3) }}</style></head><body>
<p id="mark">from the message</p><script>document.title = 'scripted'; top.location = 'http://127.0.0.1:9/'</script>
<img src="http://127.0.0.1:{port}/beacon.png"><form action="http://127.0.0.1:{port}/steal"><button>go</button></form>
</body></html>"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    need("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Developing]:
    with developing(tmp_path) as run:
        yield run


class Visit:
    """One page with everything it complained of."""

    def __init__(self, browser: Browser, **choices: object) -> None:
        self.page: Page = browser.new_page(**choices)  # type: ignore[arg-type]
        self.page.set_default_timeout(10_000)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)


def arrived(dev: Developing, count: int) -> None:
    until(lambda: len(dev.captured()) >= count, f"{count} captured")


def test_an_empty_inbox_says_how_to_fill_it_and_fills_by_itself(browser: Browser, dev: Developing) -> None:
    visit = Visit(browser)
    visit.page.goto(f"{dev.http}/inbox")
    assert visit.page.locator("h1").inner_text() == "Send the first message"
    assert f"{dev.http}/v3/sandbox.localhost/messages" in visit.page.locator(".empty pre").inner_text()
    dev.send(to="bob@example.com", subject="First ☕")
    visit.page.locator("#list li").wait_for()
    assert "First ☕" in visit.page.locator("#list").inner_text()
    assert visit.complaints == []
    visit.page.close()


def test_a_message_is_shown_as_text_headers_raw_and_events(browser: Browser, dev: Developing) -> None:
    dev.send(to="bob@example.com", subject="Tea & <b>cake</b>", text="line one\n<script>not run</script>")
    dev.await_events("bob@example.com", "accepted", "delivered")
    visit = Visit(browser)
    page = visit.page
    page.goto(f"{dev.http}/inbox")
    page.locator("#list a").first.click()
    assert page.locator("h1").inner_text() == "Tea & <b>cake</b>"
    assert "<script>not run</script>" in page.locator("pre.text").inner_text()
    page.get_by_role("link", name="Headers").click()
    assert page.locator("th", has_text="DKIM-Signature").count() == 1
    page.get_by_role("link", name="Raw").click()
    assert "DKIM-Signature: v=1" in page.locator(".body pre").inner_text()
    page.get_by_role("link", name="Events").click()
    assert page.locator(".event").all_inner_texts() == ["accepted", "delivered"]
    page.locator("summary").last.click()
    assert '"delivery-status"' in page.locator("details pre").last.inner_text()
    assert visit.complaints == []
    page.close()


def test_html_is_shown_but_runs_nothing_and_fetches_nothing(browser: Browser, dev: Developing) -> None:
    port = dev.http.rpartition(":")[2]
    dev.send(to="bob@example.com", html=HOSTILE.format(port=int(port) + 1 if int(port) < 65_535 else 1))
    arrived(dev, 1)
    visit = Visit(browser)
    page = visit.page
    page.goto(f"{dev.http}/inbox/1")
    frame = page.frame_locator("iframe")
    mark = frame.locator("#mark")
    assert mark.inner_text() == "from the message"
    assert mark.evaluate("element => getComputedStyle(element).color") == "rgb(1, 2, 3)"
    assert mark.evaluate("() => document.title") == ""
    assert mark.evaluate("() => { try { return String(top.document) } catch (error) { return error.name } }") == (
        "SecurityError"
    )
    frame.locator("button").click()
    page.wait_for_timeout(300)
    assert page.url == f"{dev.http}/inbox/1"
    foreign = [url for url in visit.requests if not url.startswith((dev.http, "data:"))]
    reached = [url for url in foreign if page.evaluate("url => performance.getEntriesByName(url).length", url)]
    assert reached == []
    page.close()


def test_pictures_of_the_message_are_shown(browser: Browser, dev: Developing) -> None:
    import base64
    import urllib.request

    pixel = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    )
    fields = {
        "from": "ada@sandbox.localhost",
        "to": "bob@example.com",
        "subject": "dot",
        "html": '<img id="p" src="cid:dot.png">',
    }
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()
    ]
    head = '--x\r\nContent-Disposition: form-data; name="inline"; filename="dot.png"\r\nContent-Type: image/png\r\n\r\n'
    body = ("".join(parts) + head).encode() + pixel + b"\r\n--x--\r\n"
    request = urllib.request.Request(f"{dev.http}/v3/sandbox.localhost/messages", body)
    request.add_header("Content-Type", "multipart/form-data; boundary=x")
    request.add_header("Authorization", "Basic " + base64.b64encode(b"api:dev").decode())
    urllib.request.urlopen(request, timeout=10).close()
    arrived(dev, 1)
    visit = Visit(browser)
    visit.page.goto(f"{dev.http}/inbox/1")
    picture = visit.page.frame_locator("iframe").locator("#p")
    picture.wait_for()
    until(lambda: picture.evaluate("image => image.naturalWidth") == 1, "the picture is there")
    assert visit.complaints == []
    visit.page.close()


def test_it_is_read_in_the_dark_on_a_phone_and_by_keyboard(browser: Browser, dev: Developing) -> None:
    for number in range(3):
        dev.send(to=f"r{number}@example.com", subject=f"Message {number}")
    arrived(dev, 3)
    dark = Visit(browser, color_scheme="dark")
    dark.page.goto(f"{dev.http}/inbox")
    assert dark.page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(23, 22, 20)"
    dark.page.keyboard.press("j")
    dark.page.wait_for_url("**/inbox/3")
    dark.page.keyboard.press("j")
    dark.page.wait_for_url("**/inbox/2")
    dark.page.keyboard.press("k")
    dark.page.wait_for_url("**/inbox/3")
    dark.page.close()
    phone = Visit(browser, viewport={"width": 390, "height": 800})
    phone.page.goto(f"{dev.http}/inbox/2")
    assert phone.page.evaluate("() => document.documentElement.scrollWidth") <= 390
    assert not phone.page.locator("#list").is_visible()
    phone.page.goto(f"{dev.http}/inbox")
    assert phone.page.locator("#list").is_visible()
    phone.page.get_by_role("button", name="Clear").click()
    phone.page.get_by_text("Send the first message").wait_for()
    assert dev.captured() == []
    assert dark.complaints + phone.complaints == []
    phone.page.close()
