"""`make fuzz`: thousands of cases, each failure with the command that repeats it, and a summary by class."""

import argparse
import logging
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import torch
import transformers

from fuzz.classes import CLASSES, IN_TESTS
from fuzz.driver import Outcome, run_case
from fuzz.originals import Originals


def main() -> int:
    """Run what was asked for; the exit code is 1 where a case failed."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument(
        "--cases", type=int, default=5000, help="in all, in the shares that the classes have in the tests"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", choices=CLASSES, action="append", help="only this class")
    parser.add_argument("--number", type=int, help="only this case: keep its folder and show what it printed")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.utils.logging.disable_progress_bar()
    logging.disable(logging.CRITICAL)
    root = Path(tempfile.mkdtemp(prefix="neuromeld-fuzz-"))
    originals = Originals(root / "originals")
    if asked.number is not None:
        (kind,) = asked.kind or sys.exit("--number needs one --kind")
        outcome = run_case(kind, asked.seed, asked.number, originals, root / "case")
        sys.stdout.write(f"{outcome.stdout}{outcome.stderr}exit code {outcome.code}\n{outcome.told()}\n")
        sys.stdout.write(f"its folder, as it is now: {root / 'case' / 'a' / 'here'}\n")
        return bool(outcome.problems)
    kinds = asked.kind or list(CLASSES)
    total = sum(IN_TESTS[kind] for kind in kinds)
    tried, failed = Counter[str](), Counter[str]()
    for kind in kinds:
        for number in range(-(-asked.cases * IN_TESTS[kind] // total)):
            outcome = run_case(kind, asked.seed, number, originals, root / "case")
            shutil.rmtree(root / "case")
            tried[kind] += 1
            if outcome.problems:
                failed[kind] += 1
                _tell(outcome)
    for kind in kinds:
        sys.stdout.write(f"{kind:15} {tried[kind]:6} cases, {failed[kind]:5} failed\n")
    sys.stdout.write(f"{'all':15} {tried.total():6} cases, {failed.total():5} failed\n")
    shutil.rmtree(root)
    return bool(failed)


def _tell(outcome: Outcome) -> None:
    sys.stdout.write(outcome.told() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
