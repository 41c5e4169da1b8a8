"""``python -m edgevision``."""

from edgevision.cli.app import main

if __name__ == "__main__":
    main()
