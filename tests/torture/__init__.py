"""The command behind `make torture`, and what it shares with the tests of run/: storage that fails and forgets."""
