"""`python -m headway.studies.sinks RESULTS...` prints tables of files or folders as Markdown."""

import sys
from pathlib import Path

from headway.errors import HeadwayError
from headway.report.tables import markdown_table
from headway.studies.sinks.results import read_results
from headway.studies.sinks.table import effect_table, sink_table


def main(paths: list[str]) -> int:
    """Print the tables of results as Markdown; the exit code."""
    try:
        found = read_results([Path(path) for path in paths])
        print(markdown_table(sink_table(found)))
        print(markdown_table(effect_table(found)), end="")
    except HeadwayError as refusal:
        print(refusal, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
