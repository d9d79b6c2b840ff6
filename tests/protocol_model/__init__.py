"""Model of the protocol between consumers and Redis: a small state machine that is explored exhaustively."""
