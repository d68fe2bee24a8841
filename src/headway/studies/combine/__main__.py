"""`python -m headway.studies.combine docs/results/combine` prints its tables as Markdown."""

import sys
from pathlib import Path

from headway.errors import HeadwayError
from headway.studies.combine.study import COMBINE
from headway.studies.combine.table import markdown
from headway.studies.run_files import read_runs


def main(paths: list[str]) -> int:
    """Print the tables of a folder of results as Markdown; the exit code."""
    try:
        found = read_runs(Path(paths[0]), COMBINE) if len(paths) == 1 else None
        if found is None:
            raise HeadwayError(
                f"results: {' '.join(paths) or 'nothing'!r} is not accepted; accepted is one "
                "folder with results of headway study combine"
            )
    except HeadwayError as refusal:
        print(refusal, file=sys.stderr)
        return 2
    print(markdown(found), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
