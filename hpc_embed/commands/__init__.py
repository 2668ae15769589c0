"""The commands: each takes its settings, calls the layers below, prints, and gives the exit code."""
