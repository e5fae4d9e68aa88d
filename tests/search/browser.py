"""A real browser for tests: Chromium without a window, spoken to over a pipe (the DevTools protocol), without any network."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ, reason="Chromium is not installed (apt-get install chromium)"
)
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # tests may run as root, and open nothing but our own pages
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--no-first-run",
    "--disable-features=IsolateSandboxedIframes",  # a frame's scripts are reached through its page
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # whatever needs the network fails
    "--remote-debugging-pipe",
)


class Browser:
    """One page of Chromium.

    Args:
        width: Of the window, in pixels.
        height: Of the window, in pixels.
    """

    def __init__(self, width: int = 1440, height: int = 1000) -> None:
        assert CHROMIUM is not None, "Chromium is not installed: apt-get install chromium"
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        (theirs_in, self._to), (self._from, theirs_out) = os.pipe(), os.pipe()
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 100) for end in (theirs_in, theirs_out)]  # out of the way of 3 and 4
        command = [CHROMIUM, *_FLAGS, f"--user-data-dir={self._profile.name}", f"--window-size={width},{height}", "about:blank"]
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", f'exec "$@" 3<&{theirs[0]} 4>&{theirs[1]}', "bash", *command],  # where Chromium looks for them
            pass_fds=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (theirs_in, theirs_out, *theirs):
            os.close(end)
        self._numbers, self._unread = itertools.count(1), b""
        self._session: str | None = None
        self._frames: dict[str, int] = {}  # frame -> its execution context
        self._size = (width, height)
        self._pages: list[str] = []  # that were attached to
        self.follow()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._to)  # Chromium ends when its pipe closes
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        os.close(self._from)
        self._profile.cleanup()

    def open(self, address: str) -> None:
        """Go to a page; an address that differs in its fragment only is loaded anew, too."""
        self._call("Page.navigate", url="about:blank")
        self._call("Page.navigate", url=address)

    def evaluate(self, expression: str, *, frame: str | None = None) -> Any:
        """The value of an expression of JavaScript; a promise is awaited.

        Args:
            expression: What is evaluated.
            frame: CSS selector of the frame in which; None for the page itself.
        """
        where = {} if frame is None else {"contextId": self._context(frame)}
        answer = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, **where)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait(self, condition: str, *, frame: str | None = None, timeout: float = 40.0) -> Any:
        """The value of an expression as soon as it is true; the page itself looks, every 50 ms.

        Raises:
            AssertionError: if it does not become true in time; the message holds the page's text.
        """
        deadline, value = time.monotonic() + timeout, None
        look = f"(() => {{ try {{ return ({condition}) || null; }} catch {{ return null; }} }})()"
        step = f"const look = n => {{ const v = {look}; v || !n ? found(v) : setTimeout(look, 50, n - 1); }}; look(20);"
        again = f"new Promise(found => {{ {step} }})"
        while not value and time.monotonic() < deadline:
            try:
                value = self.evaluate(again, frame=frame)
            except RuntimeError:  # the page or the frame went away, or is not there yet: the next look is at the new one
                self.evaluate("new Promise(done => setTimeout(done, 50))")
        assert value, f"not within {timeout:g} s: {condition}\n{self.evaluate('document.body.innerText')[:2000]}"
        return value

    def move(self, x: float, y: float) -> None:
        """Move the mouse to a place of the window, in two steps, as a hand would."""
        for dx in (3.0, 0.0):
            self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x + dx, y=y)

    def click(self, x: float, y: float) -> None:
        """Move there and press the left button."""
        self.move(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def follow(self, timeout: float = 60.0) -> None:
        """Go on in the page that has been opened last, by a click for example."""
        deadline, self._session, target = time.monotonic() + timeout, None, None
        while target is None:
            assert time.monotonic() < deadline, f"no page was opened within {timeout:g} s"
            pages = [t["targetId"] for t in self._call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
            target = next((page for page in pages if page not in self._pages), None)
        self._pages.append(target)
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime"):
            self._call(f"{domain}.enable")
        width, height = self._size
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def screenshot(self, path: Path) -> None:
        """What the window shows, as PNG."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

    # -- the protocol: JSON objects, each followed by a zero byte -----------------------------------------------------------

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            heard = self._read()
            if heard.get("id") == number:
                if "error" in heard:
                    raise RuntimeError(f"{method}: {heard['error']['message']}")
                result: dict[str, Any] = heard["result"]
                return result
            if heard.get("method") == "Runtime.executionContextCreated":
                context = heard["params"]["context"]
                if context["auxData"].get("isDefault"):
                    self._frames[context["auxData"]["frameId"]] = context["id"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            if not (more := os.read(self._from, 1 << 16)):
                raise RuntimeError("Chromium has ended")
            self._unread += more
        message, _, self._unread = self._unread.partition(b"\0")
        heard: dict[str, Any] = json.loads(message)
        return heard

    def _context(self, selector: str) -> int:
        found = self._call("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")["result"]
        if "objectId" not in found:
            raise RuntimeError(f"no frame {selector}")
        self._call("DOM.enable")
        frame = self._call("DOM.describeNode", objectId=found["objectId"])["node"].get("frameId")
        if frame not in self._frames:
            raise RuntimeError(f"{selector} has no scripts yet")
        return self._frames[frame]
