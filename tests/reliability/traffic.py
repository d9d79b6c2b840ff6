"""Continuous producer: adds messages, counts the confirmed ones, and continues through outages."""

import random
import threading
from collections.abc import Callable
from typing import Self

from redis import Redis

from tests.reliability.ledger import Ledger

MAX_PAUSE_SECONDS = 0.06

LARGE = 40_000
"""Size of a large message in bytes. A server that limits its replies to 64 kB can send one of them, but not two."""


class Producer:
    """Adds random messages. `client` is called for each message, because the primary may have changed."""

    def __init__(self, ledger: Ledger, client: Callable[[], Redis], rng: random.Random, *, replicas: int = 0) -> None:
        self._ledger, self._client, self._rng, self._replicas = ledger, client, rng, replicas
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._produce, name=f"producer of {ledger.stream}")

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop_waiting_for_replicas(self) -> None:
        """Stop waiting for replicas, because no replica is left."""
        self._replicas = 0

    def stop(self) -> None:
        self._closed.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _produce(self) -> None:
        while not self._closed.wait(self._rng.uniform(0, MAX_PAUSE_SECONDS)):
            if self._ledger.add(self._client(), random_message(self._rng), replicas=self._replicas) is None:
                self._closed.wait(0.1)


def random_message(rng: random.Random) -> dict[str, str]:
    """Return a random message. Most are quick; some are large, fail, run long, wait long or can never be handled."""
    kinds = ("", "ms=200", "ms=2000", "fails=1", "fails=3", "later=2.5", "poison=1", f"padding={'x' * LARGE}")
    name, _, value = rng.choices(kinds, (84, 5, 1, 5, 1, 1, 2, 1))[0].partition("=")
    return {name: value} if name else {}
