"""The program: `hpc-embed`, and `python -m hpc_embed`, which is the same."""

import os
import sys

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120  nothing is imported yet


def main() -> int:
    """Run one command; its exit code."""
    _leave_the_working_folder()
    try:
        from hpc_embed import cli
    except ImportError as error:
        from hpc_embed.errors import cannot_import

        fault = cannot_import(error)
        print(f"hpc-embed: {fault}", file=sys.stderr)
        return fault.exit_code
    return cli.main()


def _leave_the_working_folder() -> None:
    """No module of ours, nor of a process that we start, comes from the folder that somebody stands in: Python looks
    there first for `python -m`. One that is the package's own, a checkout, stays."""
    if not sys.flags.safe_path and sys.path[:1] not in ([], [HERE]):
        del sys.path[0]
    os.environ["PYTHONSAFEPATH"] = "1"


if __name__ == "__main__":
    raise SystemExit(main())
