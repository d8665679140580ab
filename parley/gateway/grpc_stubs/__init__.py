"""Written by `make proto` from proto/orchestrator.proto. Not to be edited."""
