"""python -m rl.training_report FOLDER: report.html of a training run, from its log; also while the run goes on."""

from rl.train.report import main

if __name__ == "__main__":
    raise SystemExit(main())
