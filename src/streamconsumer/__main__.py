"""Entry point of `python -m streamconsumer`, the same as the command `streamconsumer`."""

from streamconsumer.cli import main

if __name__ == "__main__":
    main()
