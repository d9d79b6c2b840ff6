"""`python -m benchmarks.producer URL RATE COUNT` adds entries at a steady rate, each with the time it was sent at.

An open loop: the next entry is due when it is due, however long the server took with the last one.
"""

import sys
import time

import redis

from benchmarks.contenders import ENTRY
from benchmarks.contenders.course import STREAM


def main(url: str, rate: int, count: int) -> None:
    """Send them; whoever is late sends at once."""
    rest = {name: ENTRY[name] for name in ("item", "amount")}
    with redis.Redis.from_url(url) as client:
        client.ping()
        began = time.perf_counter()
        for each in range(count):
            if (early := began + each / rate - time.perf_counter()) > 0:
                time.sleep(early)
            client.xadd(STREAM, {"sent": time.time_ns(), **rest})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
