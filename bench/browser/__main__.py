"""``python -m bench.browser``: run, print the table, and optionally write the figures down."""

from bench.browser.run import FULL, TOY, run, table
from bench.command import models_folder, parser_of, report


def main() -> None:
    """Parse, run, print."""
    given = parser_of("bench.browser", toy="a few clicks, to see that it works", models=True).parse_args()
    result = run(TOY if given.toy else FULL, models_folder(given))
    report(given, "bench.browser", "Decoding in the browser", result, table)


if __name__ == "__main__":
    main()
