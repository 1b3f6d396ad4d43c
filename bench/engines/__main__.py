"""``python -m bench.engines``: run, print the table, and optionally write it down."""

from bench.command import models_folder, parser_of, report
from bench.engines.run import run, table


def main() -> None:
    """Parse, run, print."""
    parser = parser_of("bench.engines", toy="only what needs no engine: a second", models=True)
    parser.add_argument("--model", action="append", default=[], help="only this one; may be given several times")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile, which takes minutes")
    given = parser.parse_args()
    result = run(models_folder(given), toy=given.toy, names=given.model, compiled=not given.no_compile)
    report(given, "bench.engines", "Engines", result, table)


if __name__ == "__main__":
    main()
