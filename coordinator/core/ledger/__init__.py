"""The ledger's machine: what was seen of harvesting nodes, and the book that pays them. It shares nothing with the tasks."""
