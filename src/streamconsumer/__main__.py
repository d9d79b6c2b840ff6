"""Entry point of `python -m streamconsumer`, which runs the same program as the command `streamconsumer`."""

from streamconsumer.cli import main

if __name__ == "__main__":
    main()
