"""Dead letters: their record format, the writer, and the store that finds, replays and drops them."""
