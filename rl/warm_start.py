"""python -m rl.warm_start: clone schedulers from demonstrations, then learn the marginal costs of placements."""

import sys

try:
    from rl.train.warm_start import main
except ModuleNotFoundError as error:
    if __name__ != "__main__" or error.name != "torch":
        raise
    print("rl.warm_start: error: training needs torch: pip install 'vidur[train]'", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main())
