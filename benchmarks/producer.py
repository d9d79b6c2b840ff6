"""Producer that adds entries at a steady rate: `python -m benchmarks.producer URL RATE COUNT`.

Each entry contains the time at which it was sent. The loop is open: a slow reply does not delay the next entry.
"""

import sys
import time

import redis

from benchmarks.contenders import ENTRY
from benchmarks.contenders.harness import STREAM


def main(url: str, rate: int, count: int) -> None:
    """Send `count` entries. If the producer is late, the next entry is sent immediately."""
    other_fields = {name: ENTRY[name] for name in ("item", "amount")}
    with redis.Redis.from_url(url) as client:
        client.ping()
        began = time.perf_counter()
        for number in range(count):
            if (early := began + number / rate - time.perf_counter()) > 0:
                time.sleep(early)
            client.xadd(STREAM, {"sent": time.time_ns(), **other_fields})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
