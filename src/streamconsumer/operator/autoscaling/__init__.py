"""How many pods there should be, and how that is done without hurting any."""
