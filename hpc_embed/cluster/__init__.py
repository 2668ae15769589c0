"""Where the work happens: a process per device, on this machine or in a Slurm task."""
