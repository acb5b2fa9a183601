"""What a run is asked to do: the job file, its sections, its schema."""
