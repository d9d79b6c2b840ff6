"""As much of Redis' protocol as a proxy needs: where a request or a reply ends, and which command a request is."""

import zlib

LINE = b"\r\n"
_BULK = b"$=!"
_AGGREGATE = {b"*": 1, b"~": 1, b">": 1, b"%": 2, b"|": 2}


def find_end(data: bytes | bytearray, begin: int = 0) -> int | None:
    """Behind the value that begins there; None while it is not whole. RESP2 and RESP3."""
    line = data.find(LINE, begin)
    if line < 0:
        return None
    kind, after = bytes(data[begin : begin + 1]), line + 2
    if kind in _BULK:
        length = int(data[begin + 1 : line])
        end = after + length + 2 if length >= 0 else after
        return end if end <= len(data) else None
    if kind in _AGGREGATE:
        return _find_end_of_parts(data, after, max(0, int(data[begin + 1 : line])) * _AGGREGATE[kind])
    return after


def _find_end_of_parts(data: bytes | bytearray, begin: int, count: int) -> int | None:
    end: int | None = begin
    for _ in range(count):
        end = find_end(data, end)  # type: ignore[arg-type] # it is left as soon as it is None
        if end is None:
            return None
    return end


def parse_command(request: bytes) -> list[bytes]:
    """A request's words: it is an array of bulk strings."""
    words, at = [], request.find(LINE) + 2
    while at < len(request):
        line = request.find(LINE, at)
        length = int(request[at + 1 : line])
        words.append(request[line + 2 : line + 2 + length])
        at = line + 2 + length + 2
    return words


def command_label(words: list[bytes]) -> str:
    """What the proxy calls a command: with its subcommand; new entries and own pending ones apart; scripts by a sum of
    their text."""
    name = words[0].upper().decode()
    if name == "XREADGROUP":
        return f"{name} {'new' if words[-1] == b'>' else 'own'}"
    if name in {"XGROUP", "XINFO", "CLIENT", "SCRIPT", "CONFIG"} and len(words) > 1:
        return f"{name} {words[1].upper().decode()}"
    if name in {"EVAL", "EVALSHA"}:
        return f"{name} {zlib.crc32(words[1]):08x}"
    return name
