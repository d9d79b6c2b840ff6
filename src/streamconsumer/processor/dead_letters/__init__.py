"""Dead letters: the record format, the writer, and the store that finds, replays and drops dead letters."""
