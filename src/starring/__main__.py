"""``python -m starring`` is the command line."""

from starring.cli import main

if __name__ == "__main__":
    main()
