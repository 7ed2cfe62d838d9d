"""What a step does to the tables that outlive it: page numbers and last tokens, by row."""
