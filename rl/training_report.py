"""python -m rl.training_report FOLDER: write report.html of a training run, also while it is running."""

from rl.train.report import main

if __name__ == "__main__":
    raise SystemExit(main())
