"""Running of checks, in this process or in several: one check, a process that takes them, and all of the processes."""
