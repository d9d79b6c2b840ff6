"""The path of one message through the process, from the in-flight table to its settlement."""
