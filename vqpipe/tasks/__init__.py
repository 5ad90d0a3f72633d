"""What a worker runs: top-level functions ``(item, job) -> small result``."""
