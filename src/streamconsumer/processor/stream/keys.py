"""The names that one consumer group has of its own beside its stream."""


def companion(stream: str, group: str, what: str) -> str:
    """A key in the stream's slot of a cluster, such as `{orders}:billing:dead-letters`. A cluster hashes what stands
    between the first `{` and the `}` after it, or else the whole key."""
    begin = stream.find("{")
    tagged = begin >= 0 and stream.find("}", begin) > begin + 1
    return f"{stream if tagged else f'{{{stream}}}'}:{group}:{what}"


POSTPONED = "~postponed"
"""A consumer that nobody is: it holds the group's entries that wait to be tried again. They stay pending, and survive
every pod; `companion(…, "postponed")` says when each is due."""
