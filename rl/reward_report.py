"""python -m rl.reward_report: test whether a reward can tell better schedulers and choices from worse ones."""

from rl.reward.report import main

if __name__ == "__main__":
    raise SystemExit(main())
