"""lm-eval's own command line with the model `headway` known to it: `python -m headway.evaluation`.

lm-eval looks for no models outside itself, so someone has to import ours before it starts.
"""

import sys

from headway.errors import HeadwayError


def main() -> int:
    """Hand the words typed to lm-eval; return 2 where it cannot be done, as `headway` does."""
    try:
        from lm_eval.__main__ import cli_evaluate

        import headway.evaluation.lm_eval_model  # noqa: F401

        cli_evaluate()
    except HeadwayError as refusal:
        return _refuse(str(refusal))
    except ModuleNotFoundError as missing:
        if missing.name not in ("lm_eval", "accelerate"):
            raise
        return _refuse(f"the package {missing.name} is missing: pip install {missing.name}")
    return 0


def _refuse(sentence: str) -> int:
    print(f"headway: {sentence}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
