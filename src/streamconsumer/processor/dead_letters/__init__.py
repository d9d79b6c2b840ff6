"""Dead letters: the record, the writer, and the store that finds, replays and drops them."""
