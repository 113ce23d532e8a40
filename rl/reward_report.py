"""python -m rl.reward_report: can this reward see an improvement?"""

from rl.reward.report import main

if __name__ == "__main__":
    raise SystemExit(main())
