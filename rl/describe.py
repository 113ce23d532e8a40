"""python -m rl.describe: what the policy sees, number by number."""

from rl.router.describe import main

if __name__ == "__main__":
    raise SystemExit(main())
