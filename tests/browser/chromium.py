"""A headless Chromium with one page, driven by the Chrome DevTools Protocol.

The protocol itself is used, not a driver's package: it takes three commands.
"""

import http.client
import itertools
import json
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from support.wait import wait_for
from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
START_S = 60.0
"""Seconds until it must have started; the first start of a new profile writes much."""
ANSWER_S = 120.0
"""Seconds that a command may take; one is a page's whole work."""


def find_chromium() -> str | None:
    """Path of the browser; `None` when there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Chromium:
    """One browser with a profile of its own in `folder`; a context manager, which ends it.

    `trusted_key` is the SHA-256 of a public key (SPKI, in base64) whose certificates are taken as valid.
    """

    def __init__(self, path: str, folder: Path, trusted_key: str | None = None) -> None:
        self.events: list[dict[str, Any]] = []
        """What the browser told unasked."""
        self._numbers = itertools.count(1)
        self._open = ExitStack()
        output = self._open.enter_context((folder / "chromium.txt").open("wb"))
        profile = folder / "profile"
        options = [
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--disable-default-apps", "--no-proxy-server", "--mute-audio", "--remote-debugging-port=0"),
            f"--user-data-dir={profile}",
        ]
        if trusted_key is not None:
            options.append(f"--ignore-certificate-errors-spki-list={trusted_key}")
        self._process = subprocess.Popen(
            [path, *options, "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        self._open.callback(self._end)
        try:
            told = profile / "DevToolsActivePort"
            wait_for(lambda: told.exists() and told.read_text().strip(), "the browser to start", START_S)
            url = self._page_url(int(told.read_text().split()[0]))
            self._socket = self._open.enter_context(
                connect(url, max_size=None, proxy=None, ping_interval=None)
            )
            for domain in ("Page", "Runtime"):
                self.command(f"{domain}.enable")
            self.command("Network.enable", maxTotalBufferSize=0)  # bodies are the page's business
        except BaseException:
            self._open.close()
            raise

    def __enter__(self) -> "Chromium":
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @staticmethod
    def _page_url(port: int) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_S)
        try:
            connection.request("GET", "/json/list")
            pages = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return next(str(page["webSocketDebuggerUrl"]) for page in pages if page["type"] == "page")

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to a command of the protocol; events that come meanwhile are kept."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(ANSWER_S))
            if message.get("id") == number:
                assert "error" not in message, message
                return dict(message["result"])
            self.events.append(message)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        answer = self.command(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def heard(self, method: str) -> list[dict[str, Any]]:
        """The parameters of each event called `method` so far."""
        return [event["params"] for event in self.events if event["method"] == method]
