"""A headless Chromium, driven through its own protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
WAIT_S = 60.0


@dataclass
class Page:
    """One page, and what happened in it."""

    socket: aiohttp.ClientWebSocketResponse
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """Console errors and warnings of the browser, uncaught exceptions, failed requests."""
    _answers: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)
    _last: int = 0

    async def listen(self) -> None:
        async for message in self.socket:
            said = json.loads(message.data)
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            else:
                self._note(said["method"], said["params"])

    def _note(self, method: str, told: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.errors.append(str(details.get("exception", {}).get("description", details["text"])))
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.errors.append(" ".join(str(a.get("value", a.get("description"))) for a in told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._last += 1
        answer = self._answers[self._last] = asyncio.get_running_loop().create_future()
        await self.socket.send_json({"id": self._last, "method": method, "params": parameters})
        said = await asyncio.wait_for(answer, WAIT_S)
        assert "error" not in said, f"{method}: {said['error']}"
        return dict(said["result"])

    async def value(self, script: str) -> Any:
        """Of an expression, awaited."""
        said = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in said, f"{script}: {said['exceptionDetails']}"
        return said["result"].get("value")

    async def until(self, script: str) -> None:
        """Waits for an expression to be true."""
        end = time.monotonic() + WAIT_S
        while not await self.value(f"Boolean({script})"):
            assert time.monotonic() < end, f"never true: {script}; {self.errors}"
            await asyncio.sleep(0.1)

    async def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def key(self, name: str) -> None:
        text = {"text": "\r"} if name == "Enter" else {}
        code = {"Enter": 13, "ArrowRight": 39, "ArrowLeft": 37, "Tab": 9}[name]
        for kind in ("keyDown", "keyUp"):
            await self.call(
                "Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code, **text
            )

    async def screenshot(self, path: Path, **options: Any) -> None:
        said = await self.call("Page.captureScreenshot", format="png", **options)
        path.write_bytes(base64.b64decode(said["data"]))


@contextlib.asynccontextmanager
async def open_page(address: str, folder: Path, width: int, height: int, dark: bool = False) -> AsyncIterator[Page]:
    """Opens an address in a fresh browser.

    Args:
        address: Of the page.
        folder: Where the browser keeps its profile.
        width: Of the screen, pixels.
        height: Of the screen, pixels.
        dark: The person wants dark colours.
    """
    assert CHROMIUM is not None
    process = subprocess.Popen(
        [
            *(
                CHROMIUM,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--remote-debugging-port=0",
                "--no-first-run",
            ),
            *("--disable-background-networking", "--disable-component-update", "--lang=en-US", "--no-proxy-server"),
            *(f"--user-data-dir={folder}", f"--window-size={width},{height}", "about:blank"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        port = await _port(folder / "DevToolsActivePort")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as listed:
                target = next(t for t in await listed.json() if t["type"] == "page")
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                listening = asyncio.create_task(page.listen())
                for domain in ("Page", "Runtime", "Network", "Log"):
                    await page.call(f"{domain}.enable")
                await page.call(
                    "Emulation.setDeviceMetricsOverride",
                    width=width,
                    height=height,
                    deviceScaleFactor=1,
                    mobile=width < 600,
                )
                scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
                await page.call("Emulation.setEmulatedMedia", features=[scheme])
                await page.call("Page.navigate", url=address)
                yield page
                listening.cancel()
    finally:
        process.terminate()
        process.wait(20)


async def _port(file: Path) -> int:
    end = time.monotonic() + WAIT_S
    while True:
        with contextlib.suppress(OSError, IndexError, ValueError):
            return int(file.read_text().split()[0])
        assert time.monotonic() < end, "Chromium does not start"
        await asyncio.sleep(0.1)
