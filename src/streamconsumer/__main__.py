"""`python -m streamconsumer` is the command `streamconsumer`."""

from streamconsumer.cli import main

if __name__ == "__main__":
    main()
