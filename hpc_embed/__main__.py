"""`python -m hpc_embed` is the same as `hpc-embed`."""

from hpc_embed.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
