"""python -m rl.describe: list the features that the policy observes."""

from rl.router.describe import main

if __name__ == "__main__":
    raise SystemExit(main())
