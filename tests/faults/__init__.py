"""Real processes, killed and stopped while deliberations run. `make faults`; a short form runs with every test run."""
