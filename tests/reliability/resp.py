"""The part of Redis' protocol that a proxy needs: the end of a request or reply, and the command of a request."""

import zlib

LINE = b"\r\n"
_BULK = b"$=!"
_AGGREGATE = {b"*": 1, b"~": 1, b">": 1, b"%": 2, b"|": 2}


def find_end(data: bytes | bytearray, begin: int = 0) -> int | None:
    """Return the index after the value at `begin`, or None if the value is incomplete. RESP2 and RESP3."""
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
        end = find_end(data, end)  # type: ignore[arg-type] # the loop returns as soon as it is None
        if end is None:
            return None
    return end


def parse_command(request: bytes) -> list[bytes]:
    """Return the words of a request, which is an array of bulk strings."""
    words, at = [], request.find(LINE) + 2
    while at < len(request):
        line = request.find(LINE, at)
        length = int(request[at + 1 : line])
        words.append(request[line + 2 : line + 2 + length])
        at = line + 2 + length + 2
    return words


def command_label(words: list[bytes]) -> str:
    """Return the proxy's label of a command.

    Labels include the subcommand, distinguish reads of new and of own pending entries, and a checksum of scripts.
    """
    name = words[0].upper().decode()
    if name == "XREADGROUP":
        return f"{name} {'new' if words[-1] == b'>' else 'own'}"
    if name in {"XGROUP", "XINFO", "CLIENT", "SCRIPT", "CONFIG"} and len(words) > 1:
        return f"{name} {words[1].upper().decode()}"
    if name in {"EVAL", "EVALSHA"}:
        return f"{name} {zlib.crc32(words[1]):08x}"
    return name
