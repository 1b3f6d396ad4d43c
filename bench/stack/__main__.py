"""``python -m bench.stack``: build and start both stacks, measure, print the table, and optionally write it down."""

from bench.command import parser_of, report
from bench.stack.run import FULL, TOY, run, table


def main() -> None:
    """Parse, run, print."""
    parser = parser_of("bench.stack", toy="few of everything, to see that it works")
    parser.add_argument("--engines", nargs="+", default=["torchserve", "own"], help="which stacks")
    given = parser.parse_args()
    result = run(TOY if given.toy else FULL, given.engines)
    report(given, "bench.stack", "The stack in containers", result, table)


if __name__ == "__main__":
    main()
