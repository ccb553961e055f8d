"""`python -m swamp_dist` is `swamp`."""

from swamp_dist.cli import main

if __name__ == "__main__":
    main()
