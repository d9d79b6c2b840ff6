"""Texts that attack a terminal, a log or a reader, and a check that a text has no hidden character."""

import unicodedata

HOSTILE_TEXTS = [
    "\x1b[31mred\x1b[0m\x1b[2J\x1b[1;1H",
    "\x1b]0;title\x07\x1b]8;;http://attacker.example\x1b\\link\x1b]8;;\x1b\\",
    "\x1b]52;c;cm0gLXJmIC8=\x07\x1bP$q\x1b\\",
    "\x9b31m\x9d0;title\x9c\x90\x85",
    "first\nERROR forged line  message_id=1-1",
    "first\r\nsecond\rthird\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029",
    '"}\n{"level": "ERROR", "message": "forged"}',
    "tab\tcell\tcell",
    "\x00nul\x08\x08\x08backspace\x7f",
    "abc\u202ecba\u202c\u2066isolate\u2069\u061c\u200e\u200f\u202a\u202b\u202d\u2067\u2068",
    "zero\u200bwidth\u200c\u200d\u2060\ufeff\u00ad\u180e\u2061\u2062\u2063\u2064",
    "tags\U000e0001\U000e0041\U000e007f variation\ufe0f\U000e0100 filler\u3164\uffa0\u115f\u2800",
    "\ud800lone\udfff\udc80 private\ue000\U000f0000 unassigned\u0378\uffff",
    "[red]markup[/red] [link=http://attacker.example]link[/link] [/] :bomb: [@click=app.exit]x[/]",
    "<script>alert(1)</script> **bold** [link](http://attacker.example) | cell |",
    "%s %d %(message)s {0} {message} ${HOME} $(HOME) `id`",
    "=cmd|' /C calc'!A0",
    "long" * 30_000,
]

_MARKS_AND_LETTERS_WITHOUT_SHAPE = {"\ufe0f", "\U000e0100", "\u3164", "\uffa0", "\u115f", "\u2800", "\u034f"}


def hidden_characters(text: str) -> set[str]:
    """Return the characters that a terminal obeys, or that a reader cannot see."""
    return {
        character
        for character in set(text)
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
        or character in _MARKS_AND_LETTERS_WITHOUT_SHAPE
    }
