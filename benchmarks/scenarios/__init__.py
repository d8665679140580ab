"""One file for each measurement, with `add_arguments(parser)` and `main(options)`, which returns the exit code."""
