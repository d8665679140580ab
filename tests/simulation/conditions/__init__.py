"""What is special about some histories, besides their faults: each file is one kind."""
