"""`python -m vitucb` is the `vitucb` command."""

from vitucb.cli.main import main

if __name__ == "__main__":
    main()
