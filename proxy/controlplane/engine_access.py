"""The Docker Engine that the configuration names: one driver for discovery and the scaler.

Only a configuration that asks for containers pays for it: the SDK is imported, in a thread, when the first one does.
"""

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING

from proxy.clock import Clock
from proxy.config.container import engine_options, selector
from proxy.config.schema import Config

if TYPE_CHECKING:
    from proxy.drivers.docker import DockerDriver
    from proxy.drivers.spec import EngineOptions, Selector


class EngineAccess:
    """The driver of the present configuration."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._options: EngineOptions | None = None
        self._selectors: tuple[Selector, ...] = ()
        self.driver: DockerDriver | None = None
        """`None` while no cluster has to do with containers. Another object when the engine is another."""

    def __repr__(self) -> str:
        return f"EngineAccess({self.driver!r})"

    @property
    def is_failing(self) -> bool:
        """The engine failed several times in a row and is left alone for now."""
        return self.driver is not None and self.driver.engine.breaker.state != "closed"

    async def update(self, config: Config) -> None:
        """Go on with what `config` says. Asks nothing of the engine itself."""
        found = (selector(cluster) for cluster in config.clusters)
        selectors = tuple(each for each in found if each is not None)
        options = engine_options(config.docker)
        if self.driver is not None and selectors and options == self._options:
            if selectors != self._selectors:
                self._selectors = selectors
                self.driver.select(selectors)
            return
        await self.close()
        if selectors:
            module = await asyncio.to_thread(import_module, "proxy.drivers.docker")
            self._options, self._selectors = options, selectors
            self.driver = module.DockerDriver(options, selectors, clock=self._clock)

    async def close(self) -> None:
        """Let go of it. Containers go on. Idempotent."""
        driver, self.driver = self.driver, None
        if driver is not None:
            await driver.close()
